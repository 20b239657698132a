package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var errRefused = errors.New("connection refused")

// ward is a merger and its vitals, put together as in a Catalog, without I/O and without time.
type ward struct {
	t      *testing.T
	merger *merger
	vitals vitals
}

// newWard has registries a and b, and c for the hosts.
func newWard(t *testing.T, rules Rules) *ward {
	return &ward{t, newMerger([]string{"a", "b", "c"}, rules), newVitals()}
}

func (w *ward) hosts(hosts ...Host) {
	w.t.Helper()
	if err := (View{Hosts: hosts}).Validate(); err != nil {
		w.t.Fatalf("hosts of the test: %v", err)
	}
	if w.merger.setHosts(2, hosts) {
		w.vitals.takeHosts(w.merger.at)
	}
	w.merge()
}

func (w *ward) merge() []*Service {
	if verdicts, fresh := w.vitals.verdicts(); fresh {
		w.merger.setVitals(verdicts)
	}
	services, _ := w.merger.merge()
	w.vitals.takeServices(services)
	return services
}

// check ends one check of a place.
func (w *ward) check(place string, failed error) {
	w.t.Helper()
	at := netip.MustParseAddrPort(place)
	c := w.vitals.places[at]
	if c == nil {
		w.t.Fatalf("%s is not checked", place)
	}
	c.begin(time.Time{})
	w.vitals.take(time.Unix(1_000_000, 0), at, c, failed)
	w.merge()
}

// text is the health of every endpoint, a "†" with those that are unreachable, and a "…" with those on standby.
func (w *ward) text() string {
	var all []string
	add := func(endpoints []*Endpoint, mark string) {
		for _, e := range endpoints {
			why := ""
			if e.Unreachable != nil {
				why = "†"
			}
			all = append(all, fmt.Sprintf("%s=%v%s%s", e.ID, e.Health, why, mark))
		}
	}
	for _, s := range w.merge() {
		add(s.Endpoints, "")
		add(s.Standby, "…")
	}
	return strings.Join(all, " ")
}

func (w *ward) want(want string) {
	w.t.Helper()
	if got := w.text(); got != want {
		w.t.Errorf("got %q, want %q", got, want)
	}
}

// checked wants exactly these places to be checked.
func (w *ward) checked(want ...string) {
	w.t.Helper()
	w.merge()
	var got []string
	for at := range w.vitals.places {
		got = append(got, at.String())
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.t.Errorf("checked are %q, want %q", got, want)
	}
}

func TestVitals(t *testing.T) {
	h1, h2 := hostAt("h1", "10.0.0.1"), hostAt("h2", "10.0.0.2")
	plain := web(tcpPorts(""), endpoint("x", "10.0.0.1:80"), endpoint("y", "10.0.0.2:80", health(Healthy)))
	for _, c := range []struct {
		name string
		a, b *Service
		rule Rule
		do   func(w *ward)
	}{
		{"a dead host alone means nothing", plain, nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1), h2)
			w.want("x=unknown y=healthy")
			w.checked("10.0.0.1:80")
			w.check("10.0.0.1:80", nil)
			w.want("x=unknown y=healthy")
		}},
		{"two failed checks in a row do", plain, nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1), h2)
			w.check("10.0.0.1:80", errRefused)
			w.check("10.0.0.1:80", nil)
			w.check("10.0.0.1:80", errRefused)
			w.want("x=unknown y=healthy")
			w.check("10.0.0.1:80", errRefused)
			w.want("x=unhealthy† y=healthy")
			w.check("10.0.0.1:80", errRefused) // it goes on
			w.want("x=unhealthy† y=healthy")
			w.check("10.0.0.1:80", nil)
			w.want("x=unknown y=healthy")
		}},
		{"a host that lives again is believed at once", plain, nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1), deadHost(h2))
			for range 2 {
				w.check("10.0.0.1:80", errRefused)
				w.check("10.0.0.2:80", errRefused)
			}
			w.want("x=unhealthy† y=unhealthy†")
			w.hosts(h1, deadHost(h2))
			w.want("x=unknown y=unhealthy†")
			w.checked("10.0.0.2:80")
			w.hosts(deadHost(h1), deadHost(h2)) // and dies again: it counts from the start
			w.check("10.0.0.1:80", errRefused)
			w.want("x=unknown y=unhealthy†")
		}},
		{"another host that lives has the address", plain, nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1))
			w.check("10.0.0.1:80", errRefused)
			w.check("10.0.0.1:80", errRefused)
			w.want("x=unhealthy† y=healthy")
			w.hosts(deadHost(h1), hostAt("h3", "10.0.0.1"))
			w.want("x=unknown y=healthy")
			w.checked()
		}},
		{"a host that is forgotten is not well again", plain, nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1), h2)
			w.check("10.0.0.1:80", errRefused)
			w.check("10.0.0.1:80", errRefused)
			w.hosts(h2)
			w.want("x=unhealthy† y=healthy")
			w.checked("10.0.0.1:80")
			w.check("10.0.0.1:80", nil)
			w.want("x=unknown y=healthy")
			w.hosts(h2, hostAt("h4", "10.0.0.1"))
			w.checked()
		}},
		{"a host that is forgotten with nothing there", plain, nil, Rule{}, func(w *ward) {
			w.hosts(h2, deadHost(hostAt("h3", "10.0.0.3")))
			w.hosts(h2)
			if w.merge(); len(w.vitals.suspects) > 0 {
				w.t.Errorf("%v are remembered for nobody", w.vitals.suspects)
			}
		}},
		{"what its registries call unhealthy or draining is not ours to judge", web(tcpPorts(""),
			endpoint("x", "10.0.0.1:80", health(Unhealthy)), endpoint("y", "10.0.0.1:81", health(Draining))), nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1))
			w.checked()
			w.want("x=unhealthy y=draining")
		}},
		{
			"one that its host announced too is ready for when that is forgotten", web(tcpPorts(""), endpoint("x", "10.0.0.1:80")),
			web(tcpPorts(""), endpoint("h1/x", "10.0.0.1:80", health(Unhealthy))),
			Rule{},
			func(w *ward) {
				w.hosts(deadHost(h1))
				w.check("10.0.0.1:80", errRefused)
				w.check("10.0.0.1:80", errRefused)
				w.want("x=unhealthy")
				w.merger.set(1, nil)
				w.hosts()
				w.want("x=unhealthy†")
			},
		},
		{"all ports must be silent", web(tcpPorts("admin"), both("x", "10.0.0.1:80", 81)), nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1))
			w.checked("10.0.0.1:80", "10.0.0.1:81")
			w.check("10.0.0.1:80", errRefused)
			w.check("10.0.0.1:80", errRefused)
			w.check("10.0.0.1:81", errRefused)
			w.want("x=unknown")
			w.check("10.0.0.1:81", errRefused)
			w.want("x=unhealthy†")
			w.check("10.0.0.1:80", nil)
			w.want("x=unknown")
		}},
		{"UDP says nothing", web([]Port{{Protocol: TCP}, {Name: "admin", Protocol: UDP}}, both("x", "10.0.0.1:80", 81)), nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1))
			w.checked("10.0.0.1:80")
			w.check("10.0.0.1:80", errRefused)
			w.check("10.0.0.1:80", errRefused)
			w.want("x=unhealthy†")
		}},
		{"UDP alone is not checked", web([]Port{{Protocol: UDP}}, endpoint("x", "10.0.0.1:80")), nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1))
			w.checked()
			w.want("x=unknown")
		}},
		{
			"a failover goes by it", web(tcpPorts(""), endpoint("x", "10.0.0.1:80")), web(tcpPorts(""), endpoint("y", "10.0.0.2:80")),
			Rule{Failover: []string{"a", "b"}},
			func(w *ward) {
				w.hosts(deadHost(h1), h2)
				w.want("x=unknown y=unknown…")
				w.check("10.0.0.1:80", errRefused)
				w.check("10.0.0.1:80", errRefused)
				w.want("y=unknown x=unhealthy†…")
				w.checked("10.0.0.1:80") // on standby too
				w.check("10.0.0.1:80", nil)
				w.want("x=unknown y=unknown…")
			},
		},
		{"one address on two dead hosts, and then on one that lives", plain, nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1), deadHost(hostAt("h3", "10.0.0.1")))
			w.check("10.0.0.1:80", errRefused)
			w.check("10.0.0.1:80", errRefused)
			w.want("x=unhealthy† y=healthy")
			w.hosts(deadHost(h1), hostAt("h3", "10.0.0.1"))
			w.want("x=unknown y=healthy")
		}},
		{"a loopback address is each host's own", web(tcpPorts(""), endpoint("x", "127.0.0.1:80")), nil, Rule{}, func(w *ward) {
			dead := deadHost(hostAt("h1", "127.0.0.1"))
			w.hosts(dead)
			w.check("127.0.0.1:80", errRefused)
			w.check("127.0.0.1:80", errRefused)
			w.want("x=unhealthy†")
			w.hosts(dead, hostAt("h2", "127.0.0.1"))
			w.want("x=unknown")
			w.hosts(dead, deadHost(hostAt("h2", "127.0.0.1")))
			w.checked()
		}},
		{"a result that comes too late", plain, nil, Rule{}, func(w *ward) {
			at := netip.MustParseAddrPort("10.0.0.1:80")
			w.hosts(deadHost(h1))
			w.check("10.0.0.1:80", errRefused)
			late := w.vitals.places[at]
			late.begin(time.Time{})
			w.hosts(h1)
			w.hosts(deadHost(h1))
			if w.vitals.take(time.Time{}, at, late, errRefused) {
				w.t.Error("it makes a verdict")
			}
			w.want("x=unknown y=healthy")
		}},
		{"the registry's own word on the host does not matter", web(tcpPorts(""), endpoint("x", "10.0.0.1:80", func(e *Endpoint) { e.Host = "node-7" })), nil, Rule{}, func(w *ward) {
			w.hosts(deadHost(h1))
			w.checked("10.0.0.1:80")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWard(t, Rules{Default: c.rule})
			for i, s := range []*Service{c.a, c.b} {
				if s != nil {
					w.merger.set(i, viewOf(t, s).Services)
				}
			}
			c.do(w)
		})
	}
}

// tcpPorts is an unnamed port, and another one if name has one.
func tcpPorts(name string) []Port {
	ports := []Port{{Protocol: TCP}}
	if name != "" {
		ports = append(ports, Port{Name: name, Protocol: HTTP})
	}
	return ports
}

// both is an endpoint that has the port "admin" too.
func both(id, at string, admin uint16) *Endpoint {
	return endpoint(id, at, func(e *Endpoint) { e.Ports = append(e.Ports, EndpointPort{Name: "admin", Number: admin}) })
}

func TestVitalsSayWhyAndSinceWhen(t *testing.T) {
	w := newWard(t, Rules{})
	s := web(tcpPorts(""), endpoint("x", "10.0.0.1:80"))
	w.merger.set(0, viewOf(t, s).Services)
	w.hosts(deadHost(hostAt("h1", "10.0.0.1")))
	w.check("10.0.0.1:80", errRefused)
	w.check("10.0.0.1:80", errRefused)
	first := w.merge()[0]
	want := &Unreachable{Since: time.Unix(1_000_000, 0), Host: "h1", Reason: "connection refused"}
	if got := first.Endpoints[0]; !got.Unreachable.equal(want) || got.Host != "h1" {
		t.Errorf("got %+v on host %q, want %+v", got.Unreachable, got.Host, want)
	}
	w.check("10.0.0.1:80", errors.New("no route to host")) // another reason is no news
	if w.merge()[0] != first {
		t.Error("a check that says the same made another service")
	}
	if e := s.Endpoints[0]; e.Health != Unknown || e.Unreachable != nil {
		t.Error("the merge changed its input")
	}
}

func TestVitalsAreBounded(t *testing.T) {
	w := newWard(t, Rules{})
	var endpoints []*Endpoint
	for i := range mostChecked {
		endpoints = append(endpoints, both(fmt.Sprintf("x%04d", i), fmt.Sprintf("10.0.0.1:%d", 2*i+1), uint16(2*i+2)))
	}
	w.merger.set(0, viewOf(t, web(tcpPorts("admin"), endpoints...)).Services)
	w.hosts(deadHost(hostAt("h1", "10.0.0.1")))
	if got := len(w.vitals.places); got != mostChecked || w.vitals.beyond != mostChecked/2 {
		t.Errorf("%d places are checked, %d endpoints are not, want %d and %d", got, w.vitals.beyond, mostChecked, mostChecked/2)
	}
}

// TestVitalsAtRandom lets hosts die, live, and be forgotten, registries change their mind, and processes end and start. No
// endpoint ever leaves for it; and when all is quiet those are unreachable, and only those, that would be served, have a
// suspect address and take no connection.
func TestVitalsAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	w := newWard(t, Rules{})
	listens := map[netip.AddrPort]bool{}
	suspects := map[netip.Addr]string{}
	var view []*Service
	unreachable := 0
	round := func() {
		for at := range listens {
			if c := w.vitals.places[at]; c != nil {
				var failed error
				if !listens[at] {
					failed = errRefused
				}
				c.begin(time.Time{})
				w.vitals.take(time.Unix(1, 0), at, c, failed)
			}
		}
		w.merge()
	}
	for step := range 3000 {
		switch random.IntN(4) {
		case 0:
			view = nil
			for i := range 3 {
				s := &Service{Name: Name{DefaultNamespace, fmt.Sprintf("s%d", i)}, Ports: tcpPorts("")}
				for j := range 4 {
					at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(j)}), uint16(1+i))
					listens[at] = random.IntN(2) == 0
					s.Endpoints = append(s.Endpoints, endpoint(fmt.Sprint(j), at.String(), health(Health(random.IntN(4)))))
				}
				view = append(view, s)
			}
			w.merger.set(0, view)
			w.merge()
		case 1, 2:
			var hosts []Host
			for j := range 4 {
				h := hostAt(fmt.Sprintf("h%d", j), fmt.Sprintf("10.0.0.%d", j))
				h.Dead = random.IntN(2) == 0
				if random.IntN(4) == 0 {
					continue
				}
				hosts = append(hosts, h)
				if delete(suspects, h.Addrs[0]); h.Dead {
					suspects[h.Addrs[0]] = h.ID
				}
			}
			w.hosts(hosts...)
		default:
			round()
			continue
		}
		if len(view) == 0 {
			clear(suspects) // nothing was there to remember them for
			w = newWard(t, Rules{})
			continue
		}
		if random.IntN(3) > 0 {
			continue
		}
		round()
		round()
		for i, s := range w.merge() {
			if len(s.Endpoints) != 4 {
				t.Fatalf("step %d: %d endpoints, want 4", step, len(s.Endpoints))
			}
			for j, e := range s.Endpoints {
				said := view[i].Endpoints[j].Health
				_, suspect := suspects[e.Addr]
				want := said
				if suspect && said.Serving() && !listens[netip.AddrPortFrom(e.Addr, e.Ports[0].Number)] {
					want = Unhealthy
					unreachable++
				}
				if e.Health != want || (e.Unreachable != nil) != (want != said) {
					t.Fatalf("step %d: %s at a suspect address (%v), which its registry calls %v: got %v, %+v, want %v", step, e.ID, suspect, said, e.Health, e.Unreachable, want)
				}
			}
		}
	}
	if unreachable == 0 {
		t.Error("nothing was ever unreachable")
	}
}
