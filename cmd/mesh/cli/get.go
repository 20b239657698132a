package cli

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/registry"
)

// GetCommand is mesh get, with one subcommand for each thing there is to see.
func GetCommand() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "get",
		Short: "Show what the control plane knows",
		Example: `  mesh get services
  mesh get endpoints web
  mesh get proxies -o json
  mesh get registries`,
	}
	c.flags(cmd)
	cmd.AddCommand(
		&cobra.Command{
			Use: "services", Short: "Services, merged from all registries", Args: cobra.NoArgs, Example: "  mesh get services -o yaml",
			RunE: func(cmd *cobra.Command, _ []string) error { return c.services(cmd) },
		},
		&cobra.Command{
			Use: "endpoints [SERVICE]", Short: "Endpoints with their health and the registries that report them",
			Args: cobra.MaximumNArgs(1), Example: "  mesh get endpoints web\n  mesh get endpoints shop/orders",
			RunE: func(cmd *cobra.Command, args []string) error { return c.endpoints(cmd, strings.Join(args, "")) },
		},
		&cobra.Command{
			Use: "proxies", Short: "Proxies and other xDS clients, and what they have accepted or refused", Args: cobra.NoArgs,
			Example: "  mesh get proxies",
			RunE:    func(cmd *cobra.Command, _ []string) error { return c.proxies(cmd) },
		},
		&cobra.Command{
			Use: "registries", Short: "Registries, whether they answer, and since when", Args: cobra.NoArgs,
			Example: "  mesh get registries",
			RunE:    func(cmd *cobra.Command, _ []string) error { return c.registries(cmd) },
		},
	)
	return cmd
}

func (c *client) services(cmd *cobra.Command) error {
	var all controlplane.Services
	data, err := c.ask(cmd.Context(), "/api/v1/services", &all)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) {
		row(w, "NAMESPACE", "NAME", "SERVING", "PORTS", "ADDRESS", "SOURCES", "CONFLICTS")
		for _, s := range all.Services {
			var ports []string
			for _, p := range s.Ports {
				ports = append(ports, fmt.Sprintf("%d/%s", p.Number, p.Protocol))
			}
			row(w, s.Namespace, s.Name.Name, fmt.Sprintf("%d/%d", s.Serving, s.Endpoints), strings.Join(ports, ","), s.Address.String(),
				strings.Join(s.Sources, ","), count(len(s.Conflicts)))
		}
	})
}

func (c *client) endpoints(cmd *cobra.Command, service string) error {
	path := "/api/v1/endpoints"
	if service != "" {
		path += "?service=" + url.QueryEscape(service)
	}
	var all controlplane.Endpoints
	data, err := c.ask(cmd.Context(), path, &all)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) {
		row(w, "SERVICE", "ADDRESS", "HEALTH", "WEIGHT", "HOST", "SOURCES", "LABELS")
		for _, e := range all.Endpoints {
			row(w, e.Service.String(), addresses(e.Endpoint), e.Health.String(), strconv.FormatUint(uint64(e.Weight), 10), e.Host,
				strings.Join(e.Sources, ","), labels(e.Labels))
		}
	})
}

func addresses(e *registry.Endpoint) string {
	var all []string
	for _, p := range e.Ports {
		all = append(all, netip.AddrPortFrom(e.Addr, p.Number).String())
	}
	return strings.Join(all, ",")
}

func labels(l map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(l)) {
		all = append(all, key+"="+l[key])
	}
	return strings.Join(all, ",")
}

func count(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
