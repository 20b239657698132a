package chain_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/chain"
	"github.com/hostmesh/hostmesh/proxy/config"
)

func prefixes(all ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(all))
	for i, p := range all {
		out[i] = netip.MustParsePrefix(p)
	}
	return out
}

func listener(otherwise bool, matches ...config.ChainMatch) *config.Listener {
	l := &config.Listener{}
	for _, m := range matches {
		l.Chains = append(l.Chains, &config.FilterChain{Match: m})
	}
	if otherwise {
		l.Otherwise = &config.FilterChain{}
	}
	return l
}

// TestMatch: Envoy's order, step by step; what is more specific wins and is not left again.
func TestMatch(t *testing.T) {
	name := func(all ...string) config.ChainMatch { return config.ChainMatch{ServerNames: all} }
	tls := func(name string, protocols ...string) chain.Connection {
		return chain.Connection{
			Local: netip.MustParseAddrPort("192.0.2.1:443"), Remote: netip.MustParseAddrPort("203.0.113.9:5000"), Direct: netip.MustParseAddr("203.0.113.9"),
			ServerName: name, TLS: true, Protocols: protocols,
		}
	}
	from := func(remote string) chain.Connection {
		c := tls("")
		c.Remote = netip.MustParseAddrPort(remote)
		return c
	}
	names := []config.ChainMatch{name("a.example"), name(".example", "b.test"), name(".sub.a.example"), {}}
	for _, c := range []struct {
		what  string
		chain *config.Listener
		conn  chain.Connection
		want  int
	}{
		{"a name", listener(false, names...), tls("a.example"), 0},
		{"a name by a wildcard", listener(false, names...), tls("c.example"), 1},
		{"a deep name by a wildcard", listener(false, names...), tls("x.c.example"), 1},
		{"the longest wildcard", listener(false, names...), tls("x.y.sub.a.example"), 2},
		{"below a name", listener(false, names...), tls("sub.a.example"), 1},
		{"the wildcard's own domain", listener(false, names...), tls("example"), 3},
		{"another name", listener(false, names...), tls("b.testing"), 3},
		{"the end of a label", listener(false, names...), tls("xexample"), 3},
		{"no name", listener(false, names...), tls(""), 3},
		{"no name and no chain for it", listener(false, names[:3]...), tls(""), chain.None},
		{"no name and one for the rest", listener(true, names[:3]...), tls(""), 3},
		{"a dot", listener(false, names[:3]...), tls("."), chain.None},
		{"a dot at the end", listener(false, names...), tls("a.example."), 3},
		{
			"the right name with the wrong transport does not fall back",
			listener(false, config.ChainMatch{ServerNames: []string{"a"}, Transport: config.TransportPlain}, config.ChainMatch{}), tls("a"), chain.None,
		},
		{
			"the transport",
			listener(false, config.ChainMatch{Transport: config.TransportPlain}, config.ChainMatch{Transport: config.TransportTLS}), tls(""), 1,
		},
		{"the client's first protocol", listener(false, config.ChainMatch{Protocols: []string{"h2"}}, config.ChainMatch{Protocols: []string{"istio"}}), tls("", "x", "istio", "h2"), 1},
		{"no protocol", listener(false, config.ChainMatch{Protocols: []string{"h2"}}, config.ChainMatch{}), tls("", "x"), 1},
		{"an empty protocol is none", listener(false, config.ChainMatch{Protocols: []string{"h2"}}), tls("", ""), chain.None},
		{"the port, whatever the name", listener(false, config.ChainMatch{Port: 443}, config.ChainMatch{ServerNames: []string{"a"}}), tls("a"), 0},
		{"another port", listener(false, config.ChainMatch{Port: 80}, config.ChainMatch{ServerNames: []string{"a"}}), tls("a"), 1},
		{
			"the longest prefix of the destination",
			listener(false, config.ChainMatch{Destinations: prefixes("192.0.0.0/16")}, config.ChainMatch{Destinations: prefixes("192.0.2.0/24", "::/0")}, config.ChainMatch{}), tls(""), 1,
		},
		{"local", listener(false, config.ChainMatch{From: config.SourceLocal}, config.ChainMatch{From: config.SourceExternal}), from("127.0.0.1:1"), 0},
		{"not Envoy's loopback", listener(false, config.ChainMatch{From: config.SourceLocal}, config.ChainMatch{From: config.SourceExternal}), from("127.0.0.7:1"), 1},
		{"local by the same address", listener(false, config.ChainMatch{From: config.SourceLocal}, config.ChainMatch{}), from("192.0.2.1:1"), 0},
		{"external", listener(false, config.ChainMatch{From: config.SourceLocal}, config.ChainMatch{From: config.SourceExternal}), from("203.0.113.9:1"), 1},
		{"any source", listener(false, config.ChainMatch{From: config.SourceLocal}, config.ChainMatch{}), from("203.0.113.9:1"), 1},
		{"a source", listener(false, config.ChainMatch{Sources: prefixes("203.0.113.0/24")}, config.ChainMatch{}), tls(""), 0},
		{"another source", listener(false, config.ChainMatch{Sources: prefixes("203.0.114.0/24")}), tls(""), chain.None},
		{"a direct source", listener(false, config.ChainMatch{Directs: prefixes("10.0.0.0/8")}, config.ChainMatch{}), tls(""), 1},
		{"a source port", listener(false, config.ChainMatch{SourcePorts: []uint16{1, 5000}}, config.ChainMatch{}), tls(""), 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			table, err := chain.New(c.chain)
			if err != nil {
				t.Fatal(err)
			}
			if got := table.Match(&c.conn); got != c.want {
				t.Errorf("got chain %d, want %d", got, c.want)
			}
		})
	}
}

func TestSameMatchTwice(t *testing.T) {
	for _, c := range []struct {
		what    string
		matches []config.ChainMatch
	}{
		{"nothing", []config.ChainMatch{{}, {}}},
		{"a name of two", []config.ChainMatch{{ServerNames: []string{"a", "b"}}, {ServerNames: []string{"b"}}}},
		{"all", []config.ChainMatch{{Port: 1, Sources: prefixes("10.0.0.0/8", "::/0")}, {Port: 1, Sources: prefixes("10.0.0.0/8")}}},
	} {
		if _, err := chain.New(listener(false, c.matches...)); err == nil || !strings.Contains(err.Error(), "number 0 and number 1 with the same match") {
			t.Errorf("%s: got %v", c.what, err)
		}
	}
}

// FuzzMatch: whatever the name, a chain that names names is only reached by one of them.
func FuzzMatch(f *testing.F) {
	for _, name := range []string{"", ".", "a.example", "A.EXAMPLE", "x.a.example", "a.example.", "..example", "example"} {
		f.Add(name)
	}
	names := [][]string{{"a.example"}, {".example"}, {".x.example", "y"}}
	l := listener(false)
	for _, n := range names {
		l.Chains = append(l.Chains, &config.FilterChain{Match: config.ChainMatch{ServerNames: n}})
	}
	table, err := chain.New(l)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := table.Match(&chain.Connection{ServerName: name, TLS: true})
		if got == chain.None {
			return
		}
		for _, n := range names[got] {
			if n == name || n[0] == '.' && strings.HasSuffix(name, n) && len(name) > len(n) {
				return
			}
		}
		t.Errorf("%q reached %v", name, names[got])
	})
}
