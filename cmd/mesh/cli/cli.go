// Package cli is the part of mesh that asks a running control plane and shows what it says.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/hostmesh/hostmesh/controlplane"
)

const (
	defaultServer = "127.0.0.1:15014"
	serverEnv     = "MESH_SERVER"
	askTimeout    = 10 * time.Second
	maxAnswer     = 256 << 20
)

// client asks one control plane and writes in one format.
type client struct {
	server string
	output string
	out    io.Writer
}

// ask reads the JSON answer at path into answer. Whatever goes wrong says what to do next.
func (c client) ask(ctx context.Context, path string, answer any) ([]byte, error) {
	return c.call(ctx, http.MethodGet, path, answer)
}

func (c client) call(ctx context.Context, method, path string, answer any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.server+path, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", c.server, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the control plane: %w (is mesh control or mesh dev running? --server or %s says where)", err, serverEnv)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("ask %s%s: %w", c.server, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		var refused controlplane.APIError
		if json.Unmarshal(data, &refused) == nil && refused.Error != "" {
			return nil, fmt.Errorf("ask %s: %s", c.server, printable(refused.Error))
		}
		return nil, fmt.Errorf("ask %s%s: %s", c.server, path, printable(resp.Status))
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return nil, fmt.Errorf("read the answer of %s%s: %w (is it a control plane of this version?)", c.server, path, err)
	}
	return data, nil
}

// asJSON writes what is shown of an answer as the control plane writes answers.
func asJSON(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write as json: %w", err)
	}
	return append(data, '\n'), nil
}

// show writes the answer as the operator wants it: data is what the server said, table what people read.
func (c client) show(data []byte, table func(w io.Writer)) error {
	switch c.output {
	case "json":
		_, err := c.out.Write(escaped(data, surrogates))
		return err
	case "yaml":
		text, err := asYAML(data)
		if err != nil {
			return err
		}
		_, err = c.out.Write(text)
		return err
	default:
		w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		table(w)
		return w.Flush()
	}
}

// asYAML keeps the order and the numbers of the JSON text: YAML's parser reads JSON as it stands.
func asYAML(data []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(escaped(data, codePoint), &node); err != nil {
		return nil, fmt.Errorf("write as yaml: %w", err)
	}
	blockStyle(&node)
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, fmt.Errorf("write as yaml: %w", err)
	}
	return escaped(text.Bytes(), codePoint), nil // only within double quotes is there anything to escape
}

func blockStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && !needsQuotes(n.Value) {
		n.Style &^= yaml.DoubleQuotedStyle
	}
	for _, child := range n.Content {
		blockStyle(child)
	}
}

// needsQuotes reports whether a plain scalar would be read as something else than this string.
func needsQuotes(s string) bool {
	var back yaml.Node
	err := yaml.Unmarshal([]byte(s), &back)
	return err != nil || len(back.Content) != 1 || back.Content[0].Tag != "!!str" || back.Content[0].Value != s || strings.ContainsAny(s, "\n#") || printable(s) != s
}

// row writes cells with tabs between them; an empty cell shows as a dash, so that columns can be counted.
func row(w io.Writer, cells ...string) {
	for i, cell := range cells {
		if cells[i] = printable(cell); cell == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// age tells how long ago something was, as people say it.
func age(now, then time.Time) string {
	if then.IsZero() {
		return "never"
	}
	d := max(now.Sub(then), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

// refuseUnknown has a command that only has subcommands fail for a word that is none of them, as a script with a slip of the
// pen must not go on. Alone it shows its help.
func refuseUnknown(cmd *cobra.Command) {
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		var names []string
		for _, sub := range cmd.Commands() {
			names = append(names, sub.Name())
		}
		return fmt.Errorf("unknown command %q for %q: want %s", args[0], cmd.CommandPath(), strings.Join(names, ", "))
	}
}

func (c *client) flags(cmd *cobra.Command) {
	server := os.Getenv(serverEnv)
	if server == "" {
		server = defaultServer
	}
	cmd.PersistentFlags().StringVar(&c.server, "server", server, "the control plane's API; "+serverEnv+" sets another default")
	cmd.PersistentFlags().StringVarP(&c.output, "output", "o", "table", "table, json or yaml")
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		c.out = cmd.OutOrStdout()
		switch c.output {
		case "table", "json", "yaml":
			return nil
		}
		return fmt.Errorf("read --output %q: want table, json or yaml", c.output)
	}
}
