package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/hostdns"
	"github.com/hostmesh/hostmesh/proxy/loopback"
)

// finding is one step of the way from a program of this host to an answer about the mesh.
type finding struct {
	Step string `json:"step"`
	OK   bool   `json:"ok"`
	Says string `json:"says"`
	Fix  string `json:"fix,omitempty"` // what to do, if it is not OK
}

// doctor follows a name of the mesh on its way.
type doctor struct {
	resolvConf, proxyFile string
	stub                  netip.AddrPort // of systemd-resolved
	steers                func(context.Context) bool

	domain string
	listen netip.AddrPort
	found  []finding
}

func (c *client) dnsDoctorCommand() *cobra.Command {
	d := &doctor{stub: netip.MustParseAddrPort("127.0.0.53:53"), steers: loopback.Steers}
	cmd := &cobra.Command{
		Use: "doctor [NAME]", Short: "Follow the mesh's names on this mesh host: resolv.conf, systemd-resolved, mesh-proxy, answer", Args: cobra.MaximumNArgs(1),
		Long: `Follow the mesh's names on this mesh host, from /etc/resolv.conf over the resolver that it names to mesh-proxy and its answer, and say
what to fix. With NAME, such as web or web.default.mesh.internal, the answer about it is looked at as well.`,
		Example: "  mesh dns doctor web",
		RunE: func(cmd *cobra.Command, args []string) error {
			d.examine(cmd.Context(), strings.Join(args, ""))
			data, err := asJSON(d.found)
			if err != nil {
				return err
			}
			if err := c.show(data, func(w io.Writer) { showFindings(w, d.found) }); err != nil {
				return err
			}
			if slices.ContainsFunc(d.found, func(f finding) bool { return !f.OK }) {
				return errors.New("the mesh's names do not get through on this host: FIX says what to do")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&d.proxyFile, "config", "/etc/hostmesh/proxy.yaml", "the proxy.yaml of this host")
	cmd.Flags().StringVar(&d.resolvConf, "resolv-conf", "/etc/resolv.conf", "the file that says whom programs ask")
	return cmd
}

func showFindings(w io.Writer, found []finding) {
	row(w, "STEP", "STATE", "SAYS", "FIX")
	for _, f := range found {
		state := "ok"
		if !f.OK {
			state = "WRONG"
		}
		row(w, f.Step, state, f.Says, f.Fix)
	}
}

func (d *doctor) note(step string, ok bool, says, fix string) {
	if ok {
		fix = ""
	}
	d.found = append(d.found, finding{step, ok, says, fix})
}

// examine follows the way from its end: what is wrong there makes the rest fail.
func (d *doctor) examine(ctx context.Context, name string) {
	d.domain, d.listen = "mesh.internal", hostdns.DefaultAddr()
	f, err := proxy.ReadFile(d.proxyFile)
	switch {
	case err != nil:
		d.note("proxy.yaml", false, err.Error(), "mesh check "+d.proxyFile)
	case f.DNS == nil:
		d.note("proxy.yaml", false, "it has no dns:", "add the line \"dns: {}\" to "+d.proxyFile+" and reload mesh-proxy")
	default:
		d.domain, d.listen = f.DNS.Domain, f.DNS.Listen
		d.note("proxy.yaml", true, fmt.Sprintf("%s is answered at %s", d.domain, d.listen), "")
	}
	ours := d.soa(ctx, d.listen)
	d.note("mesh-proxy", ours.ok, ours.says, "systemctl status mesh-proxy: does it run, and does its log say why it cannot listen there?")
	if ours.ok {
		d.connections(ctx)
	}
	d.way(ctx)
	if name != "" && ours.ok {
		d.name(ctx, name)
	}
}

// connections says how they reach the proxy. Both ways are right.
func (d *doctor) connections(ctx context.Context) {
	says := "ports are bound one by one, those that this host's own programs may want excepted; mesh-steer.service is not in use"
	if d.steers(ctx) {
		says = "the kernel steers connections to " + loopback.Range().String() + " to mesh-proxy"
	}
	d.note("connections", true, says, "")
}

// way looks at whom programs ask, and whether the mesh's names get from there to mesh-proxy.
func (d *doctor) way(ctx context.Context) {
	config, err := dns.ClientConfigFromFile(d.resolvConf)
	if err != nil || len(config.Servers) == 0 {
		d.note("resolv.conf", false, fmt.Sprintf("%s names no server (%v)", d.resolvConf, err), "point it at systemd-resolved: ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf")
		return
	}
	if config.Servers[0] == d.listen.Addr().String() {
		d.note("resolv.conf", false, "it names mesh-proxy, which answers "+d.domain+" alone", "name a resolver that sends mesh-proxy that domain only: docs/dns-host.md")
		return
	}
	d.note("resolv.conf", true, "programs ask "+strings.Join(config.Servers, ", "), "")
	server, err := netip.ParseAddr(config.Servers[0])
	if err != nil {
		d.note("resolver", false, err.Error(), "correct "+d.resolvConf)
		return
	}
	port, err := netip.ParseAddrPort(net.JoinHostPort(server.String(), config.Port))
	if err != nil {
		port = netip.AddrPortFrom(server, 53)
	}
	fix := "have the resolver at " + server.String() + " send " + d.domain + " to " + d.listen.String() + ": docs/dns-host.md has dnsmasq, unbound, NetworkManager and others"
	if port == d.stub {
		fix = "systemctl enable --now mesh-resolve.service; resolvectl status mesh0 shows the domain ~" + d.domain + " and the server " + d.listen.Addr().String()
	}
	through := d.soa(ctx, port)
	d.note("resolver", through.ok, through.says, fix)
}

// name compares what mesh-proxy and the resolver say of a name.
func (d *doctor) name(ctx context.Context, name string) {
	fqdn := strings.TrimSuffix(name, ".")
	if fqdn != d.domain && !strings.HasSuffix(fqdn, "."+d.domain) {
		fqdn += "." + d.domain
	}
	m, err := ask(ctx, d.listen, fqdn, dns.TypeA)
	if err != nil {
		d.note(fqdn, false, err.Error(), "systemctl status mesh-proxy")
		return
	}
	says := verdict(m)
	switch {
	case m.Rcode == dns.RcodeNameError:
		d.note(fqdn, false, says+": the control plane says that there is no such service", "mesh get services shows those that there are")
	case m.Rcode != dns.RcodeSuccess:
		d.note(fqdn, false, says, "what it says of the control plane or of a port is to be put right; the log of mesh-proxy has more")
	case len(m.Answer) == 0:
		d.note(fqdn, false, says+": it has no address of IPv4", "mesh get endpoints "+strings.SplitN(fqdn, ".", 2)[0])
	default:
		d.note(fqdn, true, says, "")
	}
}

// outcome is what became of a question.
type outcome struct {
	ok   bool
	says string
}

// soa asks a server for the domain's SOA and reports whether mesh-proxy has answered.
func (d *doctor) soa(ctx context.Context, server netip.AddrPort) outcome {
	m, err := ask(ctx, server, d.domain, dns.TypeSOA)
	if err != nil {
		return outcome{false, err.Error()}
	}
	for _, rr := range m.Answer {
		if soa, ok := rr.(*dns.SOA); ok {
			if strings.HasPrefix(soa.Ns, "localhost.host.") {
				return outcome{true, fmt.Sprintf("%s answers for %s with what mesh-proxy says", server, d.domain)}
			}
			return outcome{false, fmt.Sprintf("%s answers for %s with what %s says, not mesh-proxy", server, d.domain, soa.Ns)}
		}
	}
	return outcome{false, fmt.Sprintf("%s does not answer for %s: %s", server, d.domain, verdict(m))}
}

// verdict is an answer in short.
func verdict(m *dns.Msg) string {
	says := dns.RcodeToString[m.Rcode]
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			says += " " + a.A.String()
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				says += " (" + e.ExtraText + ")"
			}
		}
	}
	return says
}

func ask(ctx context.Context, server netip.AddrPort, name string, rtype uint16) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), rtype)
	m.SetEdns0(1232, false)
	answer, _, err := (&dns.Client{Timeout: 5 * time.Second}).ExchangeContext(ctx, m, server.String())
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", server, name, err)
	}
	return answer, nil
}
