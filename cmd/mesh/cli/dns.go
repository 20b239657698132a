package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
	"github.com/hostmesh/hostmesh/dnsserver/transfer"
)

// DNSCommand is mesh dns: the zones that the control plane serves, and their keys.
func DNSCommand() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Show the zones that DNS serves, roll their keys, and see why a host does not answer",
		Example: `  mesh dns status
  mesh dns ds --for unbound
  mesh dns roll ksk
  mesh dns ds-seen 12345
  mesh dns doctor web`,
	}
	c.flags(cmd)
	refuseUnknown(cmd)
	cmd.AddCommand(c.dnsStatusCommand(), c.dnsDSCommand(), c.dnsRollCommand(), c.dnsSeenCommand(), c.dnsDoctorCommand())
	return cmd
}

func (c *client) dnsStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Zones, their serials and keys, and what each key waits for", Args: cobra.NoArgs,
		Example: "  mesh dns status",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var status controlplane.DNSStatus
			data, err := c.ask(cmd.Context(), "/api/v1/dns", &status)
			if err != nil {
				return err
			}
			return c.show(data, func(w io.Writer) { showDNS(w, status) })
		},
	}
}

func showDNS(w io.Writer, status controlplane.DNSStatus) {
	row(w, "ZONE", "SERIAL", "KEY", "TAG", "STATE", "FOR", "WAITS FOR")
	for _, z := range status.Zones {
		serial := ""
		if z.Serial != 0 {
			serial = strconv.FormatUint(uint64(z.Serial), 10)
		}
		if len(z.Keys) == 0 {
			row(w, z.Zone, serial, "not signed", "", "", "", "")
		}
		for _, k := range z.Keys {
			row(w, z.Zone, serial, string(k.Role), strconv.Itoa(int(k.Tag)), string(k.State), k.Since, waitsFor(k))
		}
	}
	for _, z := range status.Zones {
		if z.Error != "" {
			fmt.Fprintf(w, "\n%s should be signed and is not: %s\n  who validates believes nothing of it; mesh control reads the keys when it starts\n", printable(z.Zone), printable(z.Error))
		}
	}
	showSecondaries(w, status.Secondaries)
	if status.Forward != nil {
		showForward(w, status.Forward)
	}
	if l := status.QueryLog; l != nil {
		fmt.Fprintf(w, "\nquery log: %d written, %d dropped\n", l.Written, l.Dropped)
		if l.Error != "" {
			fmt.Fprintf(w, "  nothing is written now: %s\n", printable(l.Error))
		}
	}
	if len(status.Listen)+len(status.TLS)+len(status.HTTPS) > 0 {
		fmt.Fprintln(w)
	}
	for _, l := range []struct {
		how   string
		addrs []netip.AddrPort
	}{{"UDP and TCP", status.Listen}, {"TLS", status.TLS}, {"HTTPS", status.HTTPS}} {
		for _, addr := range l.addrs {
			fmt.Fprintf(w, "served over %s at %s\n", l.how, addr)
		}
	}
}

// showForward shows who is asked for other names.
func showForward(w io.Writer, f *controlplane.ForwardStatus) {
	fmt.Fprintln(w)
	row(w, "UPSTREAM", "OVER", "ANSWERS", "FAILURES", "STATE")
	for _, u := range f.Upstreams {
		over, state := "UDP and TCP", "ok"
		if u.TLS {
			over = "TLS"
		}
		if u.Error != "" {
			state = printable(u.Error)
		}
		row(w, u.Address.String(), over, strconv.FormatUint(u.Answers, 10), strconv.FormatUint(u.Failures, 10), state)
	}
	fmt.Fprintf(w, "\nforwarded: %d from the cache, %d asked, %d old ones as no upstream answered; the cache has %d answers, %d bytes\n", f.Hits, f.Misses, f.Stale, f.Entries, f.Bytes)
	if f.Loops > 0 {
		fmt.Fprintf(w, "  %d queries came back to us: an upstream forwards to this server\n", f.Loops)
	}
}

// showSecondaries shows what the servers have that copy the zones.
func showSecondaries(w io.Writer, all []transfer.Status) {
	if len(all) == 0 {
		return
	}
	fmt.Fprintln(w)
	row(w, "SECONDARY", "ZONE", "KEY", "HAS SERIAL", "TOLD OF", "LAST ATTEMPT")
	number := func(serial uint32) string {
		if serial == 0 {
			return ""
		}
		return strconv.FormatUint(uint64(serial), 10)
	}
	for _, s := range all {
		last := s.Error
		if last == "" && s.Notified != 0 {
			last = "ok"
		}
		row(w, s.Secondary.String(), s.Zone, s.Key, number(s.Serial), number(s.Notified), last)
	}
}

// waitsFor says what must happen before a key goes on to its next state.
func waitsFor(k dnssec.KeyStatus) string {
	switch {
	case k.State == dnssec.Published:
		return "every resolver to know it"
	case k.State == dnssec.Ready:
		return fmt.Sprintf("its DS at the parent and in trust anchors; then: mesh dns ds-seen %d", k.Tag)
	case k.State == dnssec.Retired && k.Role == dnssec.ZSK:
		return "the end of its signatures"
	case k.State == dnssec.Retired:
		return "the end of its DS"
	}
	return ""
}

// audience is whom a DS is written for.
func audience(name string) (write func(dnssec.KeyStatus) string, ok bool) {
	switch name {
	case "zone":
		return dnssec.KeyStatus.Record, true
	case "unbound":
		return dnssec.KeyStatus.UnboundAnchor, true
	case "bind":
		return dnssec.KeyStatus.BINDAnchor, true
	}
	return nil, false
}

func (c *client) dnsDSCommand() *cobra.Command {
	var reader string
	cmd := &cobra.Command{
		Use:   "ds [ZONE]",
		Short: "Print the DS records that belong to the parent, or into trust anchors",
		Long: `Print the DS records that belong to the parent zone, or into the trust anchors of validators.

The parent of a domain that is delegated to the mesh takes them as they are. Nobody can delegate .internal: there
validators are given a trust anchor, or told not to validate the domain. While the KSK is rolled over both DS are
printed, and both are to be there.`,
		Example: `  mesh dns ds                                   # for the parent zone, or an anchor file
  mesh dns ds --for unbound                     # a line of unbound.conf's server: section
  mesh dns ds --for bind                        # an entry of named.conf's trust-anchors`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, ok := audience(reader)
			if !ok {
				return fmt.Errorf("read --for %q: want zone, unbound or bind", reader)
			}
			var status controlplane.DNSStatus
			if _, err := c.ask(cmd.Context(), "/api/v1/dns", &status); err != nil {
				return err
			}
			return c.showDS(status, zoneName(strings.Join(args, "")), write)
		},
	}
	cmd.Flags().StringVar(&reader, "for", "zone", "zone, unbound or bind: who reads it")
	return cmd
}

// showDS shows the keys of one zone, or of all, that have a DS.
func (c *client) showDS(status controlplane.DNSStatus, zone string, write func(dnssec.KeyStatus) string) error {
	found := []dnssec.KeyStatus{}
	for _, z := range status.Zones {
		for _, k := range z.Keys {
			if k.DS != "" && (zone == "" || z.Zone == zone) {
				found = append(found, k)
			}
		}
	}
	if len(found) == 0 && zone != "" {
		return fmt.Errorf("find the DS of %s: no zone of that name is signed; mesh dns status lists them", printable(zone))
	}
	if len(found) == 0 {
		return errors.New("find DS records: no zone is signed (dns.signed in control.yaml)")
	}
	data, err := asJSON(found)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) {
		for _, k := range found {
			fmt.Fprintln(w, printable(write(k)))
		}
	})
}

func (c *client) dnsRollCommand() *cobra.Command {
	var zone string
	cmd := &cobra.Command{
		Use:   "roll ksk|zsk",
		Short: "Begin a rollover of a zone's keys",
		Long: `Begin a rollover of a zone's keys.

The new key is published first, and signs when every resolver knows it: what is valid stays valid all the time. A ZSK
needs nothing else, and is rolled over every 90 days without being asked. A KSK waits, ready, until its DS is at the parent
and in every trust anchor, and you have said so with mesh dns ds-seen.`,
		Example: "  mesh dns roll zsk\n  mesh dns roll ksk --zone mesh.internal",
		Args:    cobra.ExactArgs(1), ValidArgs: []string{"ksk", "zsk"},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != string(dnssec.KSK) && args[0] != string(dnssec.ZSK) {
				return fmt.Errorf("roll %q: want ksk or zsk", args[0])
			}
			return c.changeKeys(cmd, zone, "roll?role="+args[0])
		},
	}
	cmd.Flags().StringVar(&zone, "zone", "", "the zone (default the mesh's own)")
	return cmd
}

func (c *client) dnsSeenCommand() *cobra.Command {
	var zone string
	cmd := &cobra.Command{
		Use:   "ds-seen TAG",
		Short: "Say that the DS of a new KSK is at the parent and in every trust anchor",
		Long: `Say that the DS of a new KSK is at the parent and in every trust anchor. The old KSK retires with it, so who
validates with the old DS alone finds the zone bogus when that key is removed, two days and two hours later.`,
		Example: "  mesh dns status           # which key is ready\n  mesh dns ds-seen 12345",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changeKeys(cmd, zone, "ds-seen?tag="+url.QueryEscape(args[0]))
		},
	}
	cmd.Flags().StringVar(&zone, "zone", "", "the zone (default the mesh's own)")
	return cmd
}

// changeKeys has the control plane do something with a zone's keys, and shows them.
func (c *client) changeKeys(cmd *cobra.Command, zone, what string) error {
	if zone = zoneName(zone); zone == "" {
		var status controlplane.DNSStatus
		if _, err := c.ask(cmd.Context(), "/api/v1/dns", &status); err != nil {
			return err
		}
		if len(status.Zones) == 0 {
			return errors.New("find the zone: none is served yet; mesh get registries shows what is waited for")
		}
		zone = status.Zones[0].Zone
	}
	var changed controlplane.ZoneStatus
	data, err := c.call(cmd.Context(), http.MethodPost, "/api/v1/dns/"+url.PathEscape(zone)+"/"+what, &changed)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) { showDNS(w, controlplane.DNSStatus{Zones: []controlplane.ZoneStatus{changed}}) })
}

// zoneName is a zone's name with the last dot, "" for none.
func zoneName(name string) string {
	if name == "" {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(name, ".")) + "."
}
