package main

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

func TestForwardSectionIsTaken(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(testbed.NewAuthority(t).PEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := decodeControlFile("control.yaml", []byte(`dns:
  reverse: [10.1.0.0/16]
  forward:
    plaintextFallback: true
    to:
      - {address: 192.0.2.1}
      - {address: 192.0.2.2, serverName: dns.example.org, caFile: `+ca+`}
      - {address: "[2001:db8::1]:5353", timeout: 500ms}
`))
	if err != nil {
		t.Fatal(err)
	}
	o, err := f.DNS.options(f.Domain, "/state", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, u := range o.Forward.Stats().Upstreams {
		how := ""
		if u.TLS {
			how = " TLS"
		}
		addrs = append(addrs, u.Addr.String()+how)
	}
	if want := []string{"192.0.2.1:53", "192.0.2.2:853 TLS", "[2001:db8::1]:5353"}; !slices.Equal(addrs, want) {
		t.Errorf("upstreams %q, want %q", addrs, want)
	}
	for addr, want := range map[string]bool{"127.0.0.1": true, "::1": true, "10.9.9.9": true, "172.31.0.1": true, "192.168.1.1": true, "fd00::1": true, "172.32.0.1": false, "8.8.8.8": false, "2001:db8::1": false, "169.254.0.1": false} {
		if got := slices.ContainsFunc(o.ForwardFor, func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr(addr)) }); got != want {
			t.Errorf("%s may ask: %v, want %v", addr, got, want)
		}
	}
	if f.DNS.Forward.To[1].CAFile = "/nowhere"; f.DNS.forwarder(f.Domain, &o, slog.New(slog.DiscardHandler)) == nil {
		t.Error("took an authority that is not there")
	}
}

func TestForwardsMistakesAreTold(t *testing.T) {
	for text, want := range map[string]string{
		"{}":                                 "dns.forward.to: got nothing",
		"{to: []}":                           "dns.forward.to: got none, want at least one upstream",
		"{to: [{address: dns.example.org}]}": `dns.forward.to[0].address: got "dns.example.org", want IP or IP:port`,
		"{to: [{address: 0.0.0.0}]}":         `dns.forward.to[0].address: got "0.0.0.0"`,
		"{to: [{address: 192.0.2.1}, {address: \"192.0.2.1:53\"}]}":                                       `dns.forward.to[1].address: got 192.0.2.1:53, want each upstream once; to[0] is that one`,
		"{to: [{address: 192.0.2.1, serverName: a.example}, {address: 127.0.0.1}, {address: 192.0.2.2}]}": `dns.forward.to[2].address: got 192.0.2.2, want one that is asked over TLS, with serverName, as to[0] before it is`,
		"{to: [{address: \"127.0.0.1:8053\"}]}":                                                           `dns.forward.to[0].address: got 127.0.0.1:8053, want another server than this one`,
		"{to: [{address: 192.0.2.1, caFile: /ca}]}":                                                       `dns.forward.to[0].caFile: got "/ca", want an absolute path, with serverName`,
		"{to: [{address: 192.0.2.1, serverName: \"a:b\"}]}":                                               `dns.forward.to[0].serverName: got "a:b"`,
		"{to: [{address: 192.0.2.1, timeout: 10s}]}":                                                      `dns.forward.to[0].timeout: got 10s, want 100ms to 5s`,
		"{to: [{address: 192.0.2.1}], allow: [0.0.0.0/0]}":                                                `dns.forward.allow[0]: got 0.0.0.0/0, want networks of the site, /8 or longer`,
		"{to: [{address: 192.0.2.1}], allow: [\"::/0\"]}":                                                 `dns.forward.allow[0]: got ::/0, want networks of the site, /7 or longer`,
		"{to: [{address: 192.0.2.1}], allow: [10.0.0.1/8]}":                                               `dns.forward.allow[0]: got 10.0.0.1/8, want 10.0.0.0/8`,
		"{to: [{address: 192.0.2.1}], cacheBytes: 5}":                                                     `dns.forward.cacheBytes: got 5, want 0 for no cache`,
		"{to: [{address: 192.0.2.1}], minTTL: 2h}":                                                        `dns.forward.minTTL: got 2h0m0s, want whole seconds, 1h0m0s at most`,
		"{to: [{address: 192.0.2.1}], stale: 1000h}":                                                      `dns.forward.stale: got 1000h0m0s`,
		"{to: [{address: 192.0.2.1}], passOn: [example.org]}":                                             `dns.forward.passOn[0]: got "example.org", want one of the domains that are answered here`,
	} {
		if _, err := decodeControlFile("control.yaml", []byte("dns:\n  forward: "+text+"\n")); err == nil || !strings.Contains(err.Error(), "control.yaml:2: "+want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
	for _, text := range []string{"listen: [\":5353\"]", "listen: [\"0.0.0.0:5353\"]", "tls: [\":5353\"], certFile: /c, keyFile: /k"} {
		if _, err := decodeControlFile("control.yaml", []byte("dns: {"+text+", forward: {to: [{address: \"127.0.0.1:5353\"}]}}\n")); err == nil || !strings.Contains(err.Error(), "want another server than this one") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}
