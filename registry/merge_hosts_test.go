package registry

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func hostAt(id string, addrs ...string) Host {
	h := Host{ID: id}
	for _, a := range addrs {
		h.Addrs = append(h.Addrs, netip.MustParseAddr(a))
	}
	return h
}

func deadHost(h Host) Host { h.Dead = true; return h }

// TestMergeListsHosts shows which hosts a snapshot has, and that a change of hosts alone makes another snapshot.
func TestMergeListsHosts(t *testing.T) {
	for _, c := range []struct {
		name  string
		hosts [][]Host // by source
		want  []Host
	}{
		{"none", nil, nil},
		{"of one source", [][]Host{{hostAt("h1", "10.0.0.9", "10.0.0.1"), hostAt("h2", "10.0.0.2")}}, []Host{hostAt("h1", "10.0.0.1", "10.0.0.9"), hostAt("h2", "10.0.0.2")}},
		{"of two", [][]Host{{hostAt("h2", "10.0.0.2")}, {hostAt("h1", "10.0.0.1"), hostAt("h2", "10.0.0.2", "10.0.0.3")}}, []Host{hostAt("h1", "10.0.0.1"), hostAt("h2", "10.0.0.2", "10.0.0.3")}},
		{"an address of two is neither's", [][]Host{{hostAt("h1", "10.0.0.1", "10.0.0.7"), hostAt("h2", "10.0.0.7")}}, []Host{hostAt("h1", "10.0.0.1"), hostAt("h2")}},
		{"dead to one, alive to another", [][]Host{{deadHost(hostAt("h1", "10.0.0.1"))}, {hostAt("h1", "10.0.0.2")}}, []Host{hostAt("h1", "10.0.0.1", "10.0.0.2")}},
		{"dead", [][]Host{{deadHost(hostAt("h1", "10.0.0.1"))}}, []Host{deadHost(hostAt("h1", "10.0.0.1"))}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMerger([]string{"a", "b"}, Rules{})
			for i, hosts := range c.hosts {
				m.setHosts(i, hosts)
			}
			if !slices.EqualFunc(m.known, c.want, Host.equal) {
				t.Errorf("got %+v, want %+v", m.known, c.want)
			}
		})
	}
}

func TestMergePlacesEndpointsOnHosts(t *testing.T) {
	on := func(host string) func(*Endpoint) { return func(e *Endpoint) { e.Host = host } }
	for _, c := range []struct {
		name     string
		hosts    [][]Host // by source: b, c
		endpoint *Endpoint
		host     string
		conflict []Side
	}{
		{"no host is known", nil, endpoint("w", "10.0.0.1:80"), "", nil},
		{"by its address", [][]Host{{hostAt("h1", "10.0.0.9", "10.0.0.1"), hostAt("h2", "10.0.0.2")}}, endpoint("w", "10.0.0.1:80"), "h1", nil},
		{"at no host's address", [][]Host{{hostAt("h1", "10.0.0.9")}}, endpoint("w", "10.0.0.1:80"), "", nil},
		{"the registry's word goes first", [][]Host{{hostAt("h1", "10.0.0.1")}}, endpoint("w", "10.0.0.1:80", on("node-7")), "node-7", nil},
		{"two sources of hosts agree", [][]Host{{hostAt("h1", "10.0.0.1")}, {hostAt("h1", "10.0.0.1")}}, endpoint("w", "10.0.0.1:80"), "h1", nil},
		{"one address on two hosts", [][]Host{{hostAt("h1", "10.0.0.1"), hostAt("h2", "10.0.0.1")}}, endpoint("w", "10.0.0.1:80"), "", []Side{{"b", "h1"}, {"b", "h2"}}},
		{"one address on hosts of two sources", [][]Host{{hostAt("h1", "10.0.0.1")}, {hostAt("h2", "10.0.0.1")}}, endpoint("w", "10.0.0.1:80"), "", []Side{{"b", "h1"}, {"c", "h2"}}},
		{"the one that lives has it", [][]Host{{deadHost(hostAt("h1", "10.0.0.1")), hostAt("h2", "10.0.0.1"), deadHost(hostAt("h3", "10.0.0.1"))}}, endpoint("w", "10.0.0.1:80"), "h2", nil},
		{"a loopback address is each one's own", [][]Host{{deadHost(hostAt("h1", "127.0.0.1")), hostAt("h2", "127.0.0.1")}}, endpoint("w", "127.0.0.1:80"), "", []Side{{"b", "h1"}, {"b", "h2"}}},
		{"a dead one keeps what nobody else has", [][]Host{{deadHost(hostAt("h1", "10.0.0.1"))}}, endpoint("w", "10.0.0.1:80"), "h1", nil},
		{"two dead ones", [][]Host{{deadHost(hostAt("h1", "10.0.0.1")), deadHost(hostAt("h2", "10.0.0.1"))}}, endpoint("w", "10.0.0.1:80"), "", []Side{{"b", "h1"}, {"b", "h2"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMerger([]string{"a", "b", "c"}, Rules{})
			for i, hosts := range c.hosts {
				if err := (View{Hosts: hosts}).Validate(); err != nil {
					t.Fatalf("hosts of the test: %v", err)
				}
				m.setHosts(i+1, hosts)
			}
			view := viewOf(t, web([]Port{{Number: 80, Protocol: HTTP}}, c.endpoint))
			was := c.endpoint.Host
			m.set(0, view.Services)
			services, _ := m.merge()
			s := services[0]
			if got := s.Endpoints[0].Host; got != c.host {
				t.Errorf("host %q, want %q", got, c.host)
			}
			if c.endpoint.Host != was {
				t.Error("the merge changed its input")
			}
			var want []Conflict
			if c.conflict != nil {
				text := "host of " + c.endpoint.Addr.String() + ": " + c.conflict[0].Source + ` says "h1", ` + c.conflict[1].Source + ` says "h2"; none is taken (w)`
				want = []Conflict{{What: "host", Object: c.endpoint.Addr.String(), Sides: c.conflict, Endpoints: []string{"w"}, Text: text}}
			}
			if d := cmp.Diff(want, s.Conflicts); d != "" {
				t.Errorf("conflicts (-want +got):\n%s", d)
			}
		})
	}
}

// TestHostsThatMoveTouchOnlyTheirServices changes hosts at random: the merger by steps must agree with a fresh one, and
// a service without an endpoint on a host that changed keeps its pointer.
func TestHostsThatMoveTouchOnlyTheirServices(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	names := []string{"a", "b", "c"}
	var view []*Service
	for i := range 20 {
		s := numbered(i+1, 1)[i]
		s.Endpoints[0].Addr = netip.AddrFrom4([4]byte{10, 0, 0, byte(i / 2)})
		view = append(view, s)
	}
	rules := Rules{Default: Rule{Prefer: []string{"b"}}}
	steps := newMerger(names, rules)
	steps.set(0, view)
	last, _ := steps.merge()
	hosts := make([][]Host, len(names))
	moved := 0
	for step := range 1000 {
		source := 1 + random.IntN(2)
		var next []Host
		for _, id := range []string{"h1", "h2", "h3"} {
			if random.IntN(3) > 0 {
				h := Host{ID: id, Dead: random.IntN(3) == 0, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(10))})}}
				next = append(next, h)
			}
		}
		hosts[source] = next
		steps.setHosts(source, next)
		got, _ := steps.merge()
		fresh := newMerger(names, rules)
		for i, h := range hosts {
			fresh.setHosts(i, h)
		}
		fresh.set(0, view)
		want, _ := fresh.merge()
		if !slices.EqualFunc(want, got, (*Service).equal) {
			t.Fatalf("step %d (-at once +by steps):\n%s", step, cmp.Diff(want, got, compareValues))
		}
		for i := range got {
			if got[i] == last[i] {
				continue
			}
			if moved++; got[i].equal(last[i]) {
				t.Fatalf("step %d: %s has another pointer and says the same", step, got[i].Name)
			}
		}
		last = got
	}
	if moved == 0 {
		t.Error("no endpoint ever moved")
	}
}

func TestValidateRefusesHosts(t *testing.T) {
	for want, hosts := range map[string][]Host{
		"no ID":                     {{}},
		"without duplicates":        {hostAt("h"), hostAt("h")},
		"want hosts sorted":         {hostAt("i"), hostAt("h")},
		"no address":                {{ID: "h", Addrs: []netip.Addr{{}}}},
		"want IPv4 as IPv4":         {hostAt("h", "::ffff:10.0.0.1")},
		"address 0.0.0.0":           {hostAt("h", "0.0.0.0")},
		"address fe80::1%eth0":      {hostAt("h", "10.0.0.1", "fe80::1%eth0")},
		"address 224.0.0.1":         {hostAt("h", "224.0.0.1")},
		`host "h2": address ::: wa`: {hostAt("h1"), hostAt("h2", "::")},
	} {
		if err := (View{Hosts: hosts}).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate: %v, want %q", err, want)
		}
	}
}

func TestMergeTakesExternalNames(t *testing.T) {
	alias := func(name string) []*Service {
		return []*Service{{Name: Name{DefaultNamespace, "db"}, ExternalName: name}}
	}
	m := newMerger([]string{"a", "b"}, Rules{})
	m.set(0, alias("one.example"))
	m.set(1, alias("two.example"))
	services, _ := m.merge()
	if s := services[0]; s.ExternalName != "one.example" || len(s.Conflicts) != 1 || s.Conflicts[0].What != "external name" || s.Conflicts[0].Sides[1] != (Side{"b", "two.example"}) {
		t.Errorf("got %+v, want the first one's name and a conflict", s)
	}
	m.set(0, alias("two.example"))
	services, changed := m.merge()
	if s := services[0]; !changed || s.ExternalName != "two.example" || len(s.Conflicts) != 0 {
		t.Errorf("got %+v, changed %v, want the name that both say", s, changed)
	}
}
