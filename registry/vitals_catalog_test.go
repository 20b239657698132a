package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// network is what connect checks meet: nil or an error by address, and how often it was asked.
type network struct {
	mu     sync.Mutex
	errs   map[netip.Addr]error
	checks map[netip.AddrPort]int
	now    int // checks under way
	most   int // of them at once, ever
}

func newNetwork() *network {
	return &network{errs: map[netip.Addr]error{}, checks: map[netip.AddrPort]int{}}
}

// set says what a check of that address meets; context.DeadlineExceeded stands for silence.
func (n *network) set(addr string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.errs[netip.MustParseAddr(addr)] = err
}

func (n *network) connect(ctx context.Context, at netip.AddrPort) error {
	n.mu.Lock()
	n.checks[at]++
	n.now++
	n.most = max(n.most, n.now)
	err := n.errs[at.Addr()]
	n.mu.Unlock()
	if errors.Is(err, context.DeadlineExceeded) {
		<-ctx.Done()
		err = ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now--
	return err
}

func (n *network) count() (checks int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.checks {
		checks += c
	}
	return checks
}

// hostsView is a view of hosts h1, h2 …, at 10.0.0.1, 10.0.0.2 …, of which some are dead.
func hostsView(hosts int, dead ...int) registry.View {
	var v registry.View
	for i := range hosts {
		v.Hosts = append(v.Hosts, registry.Host{ID: fmt.Sprintf("h%d", i+1), Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}})
	}
	for _, d := range dead {
		v.Hosts[d-1].Dead = true
	}
	return v
}

// healths is the health of the endpoints of the first service, a "†" with those that are unreachable.
func healths(s *registry.Snapshot) string {
	var all []string
	if len(s.Services) == 0 {
		return ""
	}
	for _, e := range s.Services[0].Endpoints {
		text := e.Health.String()
		if e.Unreachable != nil {
			text += "†"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// awaitHealths returns when they are as wanted, and how long it took.
func awaitHealths(t *testing.T, c *registry.Catalog, want string) time.Duration {
	t.Helper()
	began := time.Now()
	for deadline := time.After(time.Minute); ; {
		s, changed := c.Current()
		if healths(s) == want {
			return time.Since(began)
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("the endpoints are %q, want %q", healths(s), want)
		}
	}
}

func TestConnectCheckDecidesAtADeadHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		a, hosts := make(script), make(script)
		c := newCatalog(t, registry.Options{Connect: n.connect}, source("dc1", a), source("hosts", hosts))
		defer start(t, c)()
		a.publish(view(3, "web"))
		hosts.publish(hostsView(3))
		awaitHealths(t, c, "unknown unknown unknown")
		time.Sleep(time.Hour)
		if n.count() != 0 {
			t.Fatalf("%d checks while all hosts live", n.count())
		}

		n.set("10.0.0.1", context.DeadlineExceeded)
		hosts.publish(hostsView(3, 1, 2)) // at 10.0.0.2 the process runs on
		// A check of a second, the next within 2.5 s, and one of a second.
		if took := awaitHealths(t, c, "unhealthy† unknown unknown"); took < 2*time.Second || took > 4*time.Second {
			t.Errorf("known after %v, want two checks", took)
		}
		s, changed := c.Current()
		if u := s.Services[0].Endpoints[0].Unreachable; u.Host != "h1" || !strings.Contains(u.Reason, "deadline") || time.Since(u.Since) > time.Second {
			t.Errorf("got %+v", u)
		}
		before := n.count()
		time.Sleep(time.Minute)
		if checks := n.count() - before; checks < 2*60/3 || checks > 2*60/1 {
			t.Errorf("%d checks of two places within a minute, want one each 2 s", checks)
		}
		select {
		case <-changed:
			t.Error("checks that say the same made a snapshot")
		default:
		}

		n.set("10.0.0.1", nil)
		awaitHealths(t, c, "unknown unknown unknown")
		n.set("10.0.0.1", syscall.ECONNREFUSED)
		awaitHealths(t, c, "unhealthy† unknown unknown")
		hosts.publish(hostsView(3, 2))
		if took := awaitHealths(t, c, "unknown unknown unknown"); took > 100*time.Millisecond {
			t.Errorf("a host that lives is believed after %v, want at once", took)
		}
		n.mu.Lock()
		n.checks = map[netip.AddrPort]int{}
		n.mu.Unlock()
		time.Sleep(time.Minute)
		n.mu.Lock()
		defer n.mu.Unlock()
		for at := range n.checks {
			if at.Addr() != netip.MustParseAddr("10.0.0.2") {
				t.Errorf("%s is checked, its host lives", at)
			}
		}
	})
}

// TestConnectCheckFindsWhatComesLater: an endpoint is registered at the address of a host that is dead, or forgotten.
func TestConnectCheckFindsWhatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.set("10.0.0.2", syscall.ECONNREFUSED)
		a, hosts := make(script), make(script)
		c := newCatalog(t, registry.Options{Connect: n.connect}, source("dc1", a), source("hosts", hosts))
		defer start(t, c)()
		hosts.publish(hostsView(3, 2))
		a.publish(view(1, "web"))
		awaitHealths(t, c, "unknown")
		time.Sleep(time.Hour)
		a.publish(view(2, "web"))
		awaitHealths(t, c, "unknown unhealthy†")
		hosts.publish(registry.View{Hosts: hostsView(1).Hosts}) // h2 is forgotten
		time.Sleep(time.Hour)
		awaitHealths(t, c, "unknown unhealthy†")
		n.set("10.0.0.2", nil)
		awaitHealths(t, c, "unknown unknown")
	})
}

// TestConnectCheckAfterARestart: a host that was dead when mesh control stopped is unknown to the ring after its start.
func TestConnectCheckAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := newNetwork()
		n.set("10.0.0.2", syscall.EHOSTUNREACH)
		for i := range 2 {
			a, hosts := make(script), make(script)
			c := newCatalog(t, registry.Options{Connect: n.connect, StateDir: dir}, source("dc1", a), source("hosts", hosts))
			stop := start(t, c)
			a.publish(view(2, "web"))
			if i == 0 {
				hosts.publish(hostsView(2, 2))
			} else {
				hosts.publish(hostsView(1))
			}
			awaitHealths(t, c, "unknown unhealthy†")
			stop()
		}
	})
}

// TestConnectCheckOfThisMachinesOwnErrors wants only what is about the place to count.
func TestConnectCheckOfThisMachinesOwnErrors(t *testing.T) {
	for err, tells := range map[error]bool{
		syscall.ECONNREFUSED: true, syscall.ECONNRESET: true, syscall.EHOSTUNREACH: true, syscall.ETIMEDOUT: true, context.DeadlineExceeded: true,
		syscall.EMFILE: false, syscall.ENETUNREACH: false, syscall.EADDRNOTAVAIL: false, syscall.EACCES: false, errors.New("what is this"): false,
	} {
		t.Run(err.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				n.set("10.0.0.1", fmt.Errorf("dial: %w", err))
				a, hosts := make(script), make(script)
				c := newCatalog(t, registry.Options{Connect: n.connect}, source("dc1", a), source("hosts", hosts))
				defer start(t, c)()
				a.publish(view(1, "web"))
				hosts.publish(hostsView(1, 1))
				time.Sleep(time.Minute)
				if n.count() < 10 {
					t.Errorf("%d checks", n.count())
				}
				if got := healths(current(c)); (got == "unhealthy†") != tells {
					t.Errorf("the endpoint is %s", got)
				}
			})
		})
	}
}

// TestConnectChecksAreFew: of 1,200 endpoints at a silent host 1,000 are checked, 16 at a time, the others stay.
func TestConnectChecksAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		n.set("10.0.0.1", context.DeadlineExceeded)
		a, hosts := make(script), make(script)
		c := newCatalog(t, registry.Options{Connect: n.connect}, source("dc1", a), source("hosts", hosts))
		defer start(t, c)()
		all := view(0, "web")
		for i := range 1200 {
			all.Services[0].Endpoints = append(all.Services[0].Endpoints, &registry.Endpoint{
				ID: fmt.Sprintf("web-%04d", i), Addr: netip.MustParseAddr("10.0.0.1"), Ports: []registry.EndpointPort{{Number: uint16(1000 + i)}}, Weight: 1,
			})
		}
		a.publish(all)
		hosts.publish(hostsView(1, 1))
		time.Sleep(5 * time.Minute)
		if got := strings.Count(healths(current(c)), "†"); got != 1000 {
			t.Errorf("%d endpoints are unreachable, want 1000", got)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.checks) != 1000 || n.most != 16 {
			t.Errorf("%d places were checked, %d at once, want 1000 and 16", len(n.checks), n.most)
		}
	})
}

// TestConnectCheckOfRealListeners does what happens: the host of three processes dies, one of them with it.
func TestConnectCheckOfRealListeners(t *testing.T) {
	t.Parallel()
	all := view(2, "web")
	var listeners []net.Listener
	for _, e := range all.Services[0].Endpoints {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		listeners = append(listeners, l)
		at := l.Addr().(*net.TCPAddr).AddrPort()
		e.Addr, e.Ports = at.Addr(), []registry.EndpointPort{{Number: at.Port()}}
	}
	a, hosts := make(script), make(script)
	c := newCatalog(t, registry.Options{}, source("dc1", a), source("hosts", hosts))
	defer start(t, c)()
	a.publish(all)
	hosts.publish(registry.View{Hosts: []registry.Host{{ID: "h1", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Dead: true}}})
	_ = listeners[1].Close()
	took := awaitHealths(t, c, "unknown unhealthy†")
	t.Logf("known after %v: %+v", took.Round(time.Millisecond), current(c).Services[0].Endpoints[1].Unreachable)
	again, err := net.Listen("tcp", listeners[1].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	awaitHealths(t, c, "unknown unknown")
}
