package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/internal/hostfile"
	"github.com/hostmesh/hostmesh/internal/yamlpos"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/xds"
)

// fileKind is one kind of configuration file: how it is told from others, and who reads it in earnest.
type fileKind struct {
	name  string
	keys  []string // any of them at the top makes a file one of this kind; the first kind that matches wins
	check func(path string, data []byte) error
}

func fileKinds() []fileKind {
	return []fileKind{
		{"control", []string{"registries", "listen", "domain", "dns", "merge", "guard"}, func(path string, data []byte) error {
			_, err := decodeControlFile(path, data)
			return err
		}},
		{"bootstrap", []string{"static_resources", "dynamic_resources", "staticResources", "dynamicResources"}, func(path string, _ []byte) error {
			_, err := xds.ReadBootstrap(path)
			return err
		}},
		{"static", []string{"endpoints"}, func(path string, data []byte) error {
			_, err := hostfile.DecodeStatic(path, data)
			return err
		}},
		{"service", []string{"service", "check", "port", "ports"}, func(path string, data []byte) error {
			_, err := hostfile.Decode(path, data)
			return err
		}},
		{"proxy", []string{"node", "control", "upstreams", "admin", "outbound", "services", "gossip"}, func(path string, _ []byte) error {
			_, err := proxy.ReadFile(path)
			return err
		}},
	}
}

func checkCommand() *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Check configuration files: all mistakes at once, with line, found and wanted",
		Long: `Check configuration files without starting anything.

It knows control.yaml, proxy.yaml, services.d and static.d files and Envoy bootstraps, and tells them apart by
what they hold (--kind says it for a file that holds too little). The exit status is 1 if any file has a mistake.`,
		Example: `  mesh check /etc/hostmesh/control.yaml /etc/hostmesh/services.d/*.yaml
  mesh check --kind proxy proxy.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			bad := 0
			for _, path := range paths {
				if err := checkFile(cmd.OutOrStdout(), path, kind); err != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), err)
					bad++
				}
			}
			if bad > 0 {
				return fmt.Errorf("check files: %d of %d are wrong", bad, len(paths))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&kind, "kind", "", "control, proxy, service, static or bootstrap (default: told by the content)")
	return cmd
}

func checkFile(out io.Writer, path, kind string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("check file: %w", err)
	}
	found, err := kindOf(path, data, kind)
	if err != nil {
		return err
	}
	if err := found.check(path, data); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: ok (%s)\n", path, found.name)
	return err
}

// kindOf finds the kind of a file: as told, by its folder (services.d, static.d), by its name, or by its keys.
func kindOf(path string, data []byte, told string) (fileKind, error) {
	named := told
	if named == "" {
		switch filepath.Base(filepath.Dir(path)) {
		case "services.d":
			named = "service"
		case "static.d":
			named = "static"
		}
	}
	if named == "" {
		switch filepath.Base(path) {
		case "control.yaml":
			named = "control"
		case "proxy.yaml":
			named = "proxy"
		}
	}
	kinds := fileKinds()
	for _, k := range kinds {
		if k.name == named {
			return k, nil
		}
	}
	if named != "" {
		return fileKind{}, fmt.Errorf("check %s: unknown kind %q, want control, proxy, service, static or bootstrap", path, told)
	}
	documents, err := yamlpos.DecodeAll[map[string]any](path, data)
	if err != nil {
		return fileKind{}, err
	}
	if len(documents) > 0 {
		for _, k := range kinds {
			for _, key := range k.keys {
				if _, ok := documents[0][key]; ok {
					return k, nil
				}
			}
		}
	}
	return fileKind{}, errors.New(path + ": not a file of hostmesh that its content tells; say which with --kind")
}
