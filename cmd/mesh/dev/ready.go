package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	probeTimeout  = time.Second
	probeInterval = 50 * time.Millisecond
	bothVersions  = 40 // requests within which both versions of the demo must have answered
)

// prober tries by itself what it is going to print, so that every line it prints is true.
type prober struct {
	Options
	ports    ports
	loopback netip.AddrPort // web's loopback address, once found
	noPort80 error          // why it is not bound, if it is not
}

// wait returns nil when everything that will be printed works.
func (p *prober) wait(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := p.all(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(probeInterval):
		}
	}
}

func (p *prober) all(ctx context.Context) error {
	if _, err := get(ctx, loopback(p.ports.api), "", "/readyz"); err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	if _, err := get(ctx, loopback(p.ports.admin), "", "/ready"); err != nil {
		return fmt.Errorf("mesh-proxy: %w", err)
	}
	if !p.Demo {
		return nil
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeSRV} {
		if err := p.lookup(ctx, p.name("web"), qtype); err != nil {
			return err
		}
	}
	if err := p.bothAnswer(ctx, loopback(p.ports.outbound)); err != nil {
		return fmt.Errorf("outbound listener: %w", err)
	}
	return p.findLoopback(ctx)
}

func (p *prober) name(service string) string { return service + "." + p.Domain }

func (p *prober) lookup(ctx context.Context, name string, qtype uint16) error {
	query := new(dns.Msg)
	query.SetQuestion(dns.Fqdn(name), qtype)
	client := dns.Client{Timeout: probeTimeout}
	answer, _, err := client.ExchangeContext(ctx, query, loopback(p.ports.dns))
	switch {
	case err != nil:
		return fmt.Errorf("look up %s: %w", name, err)
	case len(answer.Answer) == 0:
		return fmt.Errorf("look up %s %s: %s without an answer", name, dns.TypeToString[qtype], dns.RcodeToString[answer.Rcode])
	}
	return nil
}

// bothAnswer asks for web at addr until both of its versions have answered.
func (p *prober) bothAnswer(ctx context.Context, addr string) error {
	var v1, v2 bool
	for range bothVersions {
		body, err := get(ctx, addr, p.name("web"), "/")
		if err != nil {
			return err
		}
		v1 = v1 || strings.HasPrefix(body, "web v1 ")
		v2 = v2 || strings.HasPrefix(body, "web v2 ")
		if v1 && v2 {
			return nil
		}
	}
	return errors.New("only one version of web answers")
}

// findLoopback reads web's loopback address from the proxy and tries it. A proxy that may not bind port 80 (it needs
// root, or a lower net.ipv4.ip_unprivileged_port_start) is no reason not to be ready: the line is then left out.
func (p *prober) findLoopback(ctx context.Context) error {
	body, err := get(ctx, loopback(p.ports.admin), "", "/listeners")
	if err != nil {
		return err
	}
	p.loopback, p.noPort80, err = webListener(body, p.Domain)
	if err != nil || p.noPort80 != nil {
		return err
	}
	if err := p.bothAnswer(ctx, p.loopback.String()); err != nil {
		return fmt.Errorf("loopback address of web: %w", err)
	}
	return nil
}

// webListener finds web's address in the proxy's /listeners, whose lines are NAME::ADDRESS and, for an address that could
// not be bound, ::REASON.
func webListener(listeners, domain string) (addr netip.AddrPort, notBound, err error) {
	for line := range strings.Lines(listeners) {
		parts := strings.SplitN(strings.TrimSpace(line), "::", 3)
		if len(parts) < 2 || parts[0] != "web.default."+domain {
			continue
		}
		if addr, err = netip.ParseAddrPort(parts[1]); err != nil {
			return addr, nil, fmt.Errorf("read /listeners: %w", err)
		}
		if len(parts) == 3 {
			notBound = errors.New(parts[2])
		}
		return addr, notBound, nil
	}
	return addr, nil, errors.New("the proxy has no listener for web yet")
}

// get returns the body of a 200 answer; host overrides the Host header when it is not empty.
func get(ctx context.Context, addr, host, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return "", err
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s%s: %s: %s", addr, path, resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}

func (p *prober) print(took time.Duration) {
	server := ""
	if p.Offset != 0 {
		server = " --server " + loopback(p.ports.api)
	}
	out := p.Out
	fmt.Fprintf(out, "\nThe mesh is ready after %.1f s. Its files and logs are in %s; Ctrl-C ends it.\n\n", took.Seconds(), p.Dir)
	if p.Demo {
		fmt.Fprintf(out, "  dig +short %s @127.0.0.1 -p %d\n", p.name("web"), p.ports.dns)
		fmt.Fprintf(out, "  dig +short SRV %s @127.0.0.1 -p %d\n", p.name("web"), p.ports.dns)
		fmt.Fprintf(out, "  curl -H 'Host: %s' http://%s/\n", p.name("web"), loopback(p.ports.outbound))
		if p.noPort80 == nil {
			fmt.Fprintf(out, "  curl --resolve %[1]s:80:%[2]s http://%[1]s/\n", p.name("web"), p.loopback.Addr())
		} else {
			fmt.Fprintf(out, "  (http://%s/ by its loopback address: %v; it needs root, or net.ipv4.ip_unprivileged_port_start=80)\n", p.name("web"), p.noPort80)
		}
	}
	for _, what := range []string{"services", "endpoints", "proxies", "registries"} {
		fmt.Fprintf(out, "  %s get %s%s\n", p.Mesh, what, server)
	}
	fmt.Fprintln(out)
}
