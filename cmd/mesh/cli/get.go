package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

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
  mesh get conflicts
  mesh get proxies -o json
  mesh get registries`,
	}
	c.flags(cmd)
	refuseUnknown(cmd)
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
			Use: "conflicts [SERVICE]", Short: "What registries say differently about a service, with every side",
			Args: cobra.MaximumNArgs(1), Example: "  mesh get conflicts\n  mesh get conflicts shop/orders -o yaml",
			RunE: func(cmd *cobra.Command, args []string) error { return c.conflicts(cmd, strings.Join(args, "")) },
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
	var all controlplane.Endpoints
	data, err := c.ask(cmd.Context(), ofService("/api/v1/endpoints", service), &all)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) {
		row(w, "SERVICE", "ADDRESS", "HEALTH", "WEIGHT", "HOST", "SOURCES", "LABELS")
		for _, e := range all.Endpoints {
			row(w, e.Service.String(), addresses(e.Endpoint), state(e), strconv.FormatUint(uint64(e.Weight), 10), e.Host,
				strings.Join(e.Sources, ","), labels(e.Labels))
		}
		explainDoubts(w, time.Now(), all.Endpoints)
		explainUnreachable(w, time.Now(), all.Endpoints)
	})
}

// state is an endpoint's health, and what else there is to say of its traffic.
func state(e controlplane.ServiceEndpoint) string {
	var notes []string
	if e.Standby {
		notes = append(notes, "standby")
	}
	if e.Unreachable != nil {
		notes = append(notes, "unreachable")
	}
	if e.Doubt != nil {
		notes = append(notes, "doubted")
	}
	if len(notes) == 0 {
		return e.Health.String()
	}
	return e.Health.String() + " (" + strings.Join(notes, ", ") + ")"
}

// explainDoubts says, below the table, why endpoints are kept that their registries do not report: for each registry how
// many, since when, and the reasons that most of them have. A loss that went on for a while has many reasons.
func explainDoubts(w io.Writer, now time.Time, endpoints []controlplane.ServiceEndpoint) {
	const most = 3
	type doubts struct {
		since   time.Time
		count   int
		reasons map[string]int
	}
	bySources := map[string]*doubts{}
	for _, e := range endpoints {
		if e.Doubt == nil {
			continue
		}
		sources := strings.Join(e.Sources, ",")
		d := bySources[sources]
		if d == nil {
			d = &doubts{since: e.Doubt.Since, reasons: map[string]int{}}
			bySources[sources] = d
		}
		if e.Doubt.Since.Before(d.since) {
			d.since = e.Doubt.Since
		}
		d.count++
		d.reasons[e.Doubt.Reason]++
	}
	for _, sources := range slices.Sorted(maps.Keys(bySources)) {
		d := bySources[sources]
		reasons := slices.SortedFunc(maps.Keys(d.reasons), func(a, b string) int {
			return cmp.Or(cmp.Compare(d.reasons[b], d.reasons[a]), cmp.Compare(a, b))
		})
		why := printable(strings.Join(reasons[:min(most, len(reasons))], "; "))
		if more := len(reasons) - most; more > 0 {
			why += fmt.Sprintf("; and %d more reasons", more)
		}
		fmt.Fprintf(w, "\n%d doubted for %s: %s: %s\n  they are kept and served; mesh registry accept %s lets them go\n",
			d.count, age(now, d.since), printable(sources), why, printable(strings.ReplaceAll(sources, ",", ", and accept ")))
	}
}

// explainUnreachable says, below the table, which hosts died with endpoints that their registries would have served, each
// host once.
func explainUnreachable(w io.Writer, now time.Time, endpoints []controlplane.ServiceEndpoint) {
	said := map[string]bool{}
	for _, e := range endpoints {
		u := e.Unreachable
		if u == nil || said[u.Host] {
			continue
		}
		said[u.Host] = true
		fmt.Fprintf(w, "\nunreachable for %s: host %s died: %s\n  they are served again when the host lives, or takes connections there\n",
			age(now, u.Since), printable(u.Host), printable(u.Reason))
	}
}

func (c *client) conflicts(cmd *cobra.Command, service string) error {
	var all controlplane.Conflicts
	data, err := c.ask(cmd.Context(), ofService("/api/v1/conflicts", service), &all)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) {
		row(w, "SERVICE", "CONFLICT", "TAKEN", "OTHERS", "ENDPOINTS")
		for _, conflict := range all.Conflicts {
			var sides []string
			for _, s := range conflict.Sides {
				sides = append(sides, s.Source+": "+s.Says)
			}
			if len(sides) == 0 {
				sides = []string{conflict.Text}
			}
			taken, others := sides[0], sides[1:]
			if slices.Contains([]string{"host", "no number", "unnamed port"}, conflict.What) { // of these none is
				taken, others = "", sides
			}
			row(w, conflict.Service.String(), strings.TrimSpace(conflict.What+" "+conflict.Object), taken, strings.Join(others, ", "),
				count(len(conflict.Endpoints)+conflict.More))
		}
	})
}

func ofService(path, service string) string {
	if service == "" {
		return path
	}
	return path + "?service=" + url.QueryEscape(service)
}

func addresses(e *registry.Endpoint) string {
	if len(e.Ports) == 0 {
		return e.Addr.String()
	}
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
