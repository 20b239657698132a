package gossip

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	ring "github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/registry"
)

// freePort returns a loopback address that is free for UDP and TCP.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(testbed.FreePort(t)))
}

// host is a real node of the ring that announces.
type host struct {
	id   string
	node *ring.Node
	stop context.CancelFunc
	done chan error
}

func startHost(t *testing.T, id string, control netip.AddrPort, a ring.Announcement) *host {
	t.Helper()
	node, err := ring.Listen(ring.Options{HostID: id, Role: ring.Proxy, Config: ring.Config{
		Bind: netip.MustParseAddrPort("127.0.0.1:0"), Join: []string{control.String()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	h := &host{id: id, node: node, stop: stop, done: make(chan error, 1)}
	h.announce(t, a)
	go func() { h.done <- node.Run(ctx) }()
	t.Cleanup(func() { h.kill(t) })
	return h
}

func (h *host) announce(t *testing.T, a ring.Announcement) {
	t.Helper()
	if a.Addresses == nil {
		a.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	if err := h.node.Announce(a); err != nil {
		t.Fatal(err)
	}
}

func (h *host) kill(t *testing.T) {
	t.Helper()
	h.node.Abandon()
	h.end(t)
}

func (h *host) leave(t *testing.T) {
	t.Helper()
	h.stop()
	h.end(t)
}

func (h *host) end(t *testing.T) {
	t.Helper()
	defer h.stop()
	select {
	case err := <-h.done:
		if err != nil {
			t.Error(err)
		}
		h.done <- nil
	case <-time.After(10 * time.Second):
		t.Fatalf("%s does not end", h.id)
	}
}

func web(id string, health ring.Health) ring.Announcement {
	return ring.Announcement{
		Locality: ring.Locality{Region: "eu", Zone: "eu-1"},
		Instances: []ring.Instance{{
			Namespace: "default", Service: "web", ID: "8080", Address: netip.MustParseAddr("127.0.0.1"),
			Ports: []ring.Port{{Number: 80, Target: 8080, Protocol: "http"}}, Weight: 3, Health: health, Labels: map[string]string{"of": id},
		}},
	}
}

// watching is a Watch under way.
type watching struct {
	mu    sync.Mutex
	views []registry.View
	wake  chan struct{}
	stop  context.CancelFunc
	done  chan error
}

func watch(t *testing.T, cfg Config) *watching {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &watching{wake: make(chan struct{}, 1), stop: stop, done: make(chan error, 1)}
	go func() {
		w.done <- New(cfg, nil).Watch(ctx, func(v registry.View) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if err := v.Validate(); err != nil {
				t.Errorf("published what is not valid: %v", err)
			}
			w.views = append(w.views, v)
			select {
			case w.wake <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() { w.end(t) })
	return w
}

func (w *watching) end(t *testing.T) {
	t.Helper()
	w.stop()
	select {
	case err := <-w.done:
		w.done <- err
	case <-time.After(10 * time.Second):
		t.Fatal("Watch does not return")
	}
}

// summary is the health of web's endpoints by host, and the problems' objects.
func summary(v registry.View) string {
	var b strings.Builder
	for _, s := range v.Services {
		for _, e := range s.Endpoints {
			fmt.Fprintf(&b, "%s=%v ", e.Host, e.Health)
		}
	}
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "!%s ", p.Object)
	}
	return strings.TrimSpace(b.String())
}

func (w *watching) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.views) == 0 {
		return "nothing"
	}
	return summary(w.views[len(w.views)-1])
}

func (w *watching) await(t *testing.T, want string) time.Duration {
	t.Helper()
	begin := time.Now()
	for deadline := time.After(20 * time.Second); w.last() != want; {
		select {
		case <-w.wake:
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("the view is %q, want %q", w.last(), want)
		}
	}
	return time.Since(begin)
}

func TestDeathLeaveAndReturn(t *testing.T) {
	t.Parallel()
	at := freePort(t)
	w := watch(t, Config{Config: ring.Config{Bind: at}, HostID: "control", Reap: 6 * time.Second})
	hosts := map[string]*host{}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		health := ring.Healthy
		if id == "e" {
			health = ring.Unknown
		}
		hosts[id] = startHost(t, id, at, web(id, health))
	}
	w.await(t, "a=healthy b=healthy c=healthy d=healthy e=unknown")
	want := &registry.Endpoint{
		ID: "a/8080", Addr: netip.MustParseAddr("127.0.0.1"), Ports: []registry.EndpointPort{{Number: 8080}}, Host: "a",
		Locality: registry.Locality{Region: "eu", Zone: "eu-1"}, Labels: map[string]string{"of": "a"}, Weight: 3, Health: registry.Healthy,
	}
	w.mu.Lock()
	got := w.views[len(w.views)-1].Services[0]
	w.mu.Unlock()
	if diff := cmp.Diff(want, got.Endpoints[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]registry.Port{{Number: 80, Protocol: registry.HTTP}}, got.Ports); diff != "" {
		t.Error(diff)
	}

	hosts["b"].kill(t)
	took := w.await(t, "a=healthy b=unhealthy c=healthy d=healthy e=unknown")
	t.Logf("the death was published after %v", took.Round(time.Millisecond))
	again := startHost(t, "b", at, web("b", ring.Healthy))
	took = w.await(t, "a=healthy b=healthy c=healthy d=healthy e=unknown")
	t.Logf("the return was published after %v", took.Round(time.Millisecond))

	hosts["c"].leave(t)
	w.await(t, "a=healthy b=healthy d=healthy e=unknown")
	w.mu.Lock()
	drained := false
	for _, v := range w.views {
		drained = drained || strings.Contains(summary(v), "c=draining")
		if strings.Contains(summary(v), "c=unhealthy") {
			t.Error("a host that left in order was called unhealthy")
		}
	}
	w.mu.Unlock()
	if !drained {
		t.Error("a host that left was not seen draining")
	}

	again.kill(t)
	w.await(t, "a=healthy b=unhealthy d=healthy e=unknown")
	took = w.await(t, "a=healthy d=healthy e=unknown")
	t.Logf("the dead host was removed after %v", took.Round(time.Millisecond))
}

// hostsText is the hosts of a view with their addresses, a dead one with a "†".
func hostsText(v registry.View) string {
	var b strings.Builder
	for _, h := range v.Hosts {
		b.WriteString(h.ID)
		if h.Dead {
			b.WriteString("†")
		}
		fmt.Fprintf(&b, "%v ", h.Addrs)
	}
	return strings.TrimSpace(b.String())
}

// TestViewHasTheHosts wants each host with the addresses that it announces, and dead while it is.
func TestViewHasTheHosts(t *testing.T) {
	t.Parallel()
	at := freePort(t)
	w := watch(t, Config{Config: ring.Config{Bind: at}, HostID: "control", Reap: 4 * time.Second})
	on := func(addrs ...string) ring.Announcement {
		a := ring.Announcement{Addresses: []netip.Addr{}}
		for _, addr := range addrs {
			a.Addresses = append(a.Addresses, netip.MustParseAddr(addr))
		}
		return a
	}
	await := func(want string) {
		t.Helper()
		for deadline := time.After(20 * time.Second); ; {
			w.mu.Lock()
			got := ""
			if len(w.views) > 0 {
				got = hostsText(w.views[len(w.views)-1])
			}
			w.mu.Unlock()
			if got == want {
				return
			}
			select {
			case <-w.wake:
			case <-time.After(20 * time.Millisecond):
			case <-deadline:
				t.Fatalf("the view's hosts are %q, want %q", got, want)
			}
		}
	}
	startHost(t, "a", at, on("10.0.0.9", "10.0.0.1", "fd00::1", "10.0.0.9"))
	b := startHost(t, "b", at, on("10.0.0.2"))
	c := startHost(t, "c", at, on())
	startHost(t, "d", at, on("10.0.0.4"))
	await("a[10.0.0.1 10.0.0.9 fd00::1] b[10.0.0.2] c[] d[10.0.0.4]")
	b.announce(t, on("10.0.0.3"))
	await("a[10.0.0.1 10.0.0.9 fd00::1] b[10.0.0.3] c[] d[10.0.0.4]")
	b.kill(t)
	await("a[10.0.0.1 10.0.0.9 fd00::1] b†[10.0.0.3] c[] d[10.0.0.4]")
	again := startHost(t, "b", at, on("10.0.0.3"))
	await("a[10.0.0.1 10.0.0.9 fd00::1] b[10.0.0.3] c[] d[10.0.0.4]")
	c.leave(t) // that is no death
	await("a[10.0.0.1 10.0.0.9 fd00::1] b[10.0.0.3] d[10.0.0.4]")
	again.kill(t)
	await("a[10.0.0.1 10.0.0.9 fd00::1] b†[10.0.0.3] d[10.0.0.4]")
	await("a[10.0.0.1 10.0.0.9 fd00::1] d[10.0.0.4]") // forgotten after Reap
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.views {
		if strings.Contains(hostsText(v), "c†") {
			t.Error("a host that left in order was called dead")
		}
	}
}

func TestDoubt(t *testing.T) {
	t.Parallel()
	at := freePort(t)
	w := watch(t, Config{Config: ring.Config{Bind: at}, HostID: "control"})
	var hosts []*host
	for _, id := range []string{"a", "b", "c", "d"} {
		hosts = append(hosts, startHost(t, id, at, web(id, ring.Healthy)))
	}
	w.await(t, "a=healthy b=healthy c=healthy d=healthy")
	for _, h := range hosts[:3] {
		h.kill(t)
	}
	w.await(t, "a=healthy b=healthy c=healthy d=healthy !hosts")
	w.mu.Lock()
	if got := hostsText(w.views[len(w.views)-1]); strings.Contains(got, "†") {
		t.Errorf("hosts %q, want none dead in doubt", got)
	}
	w.mu.Unlock()
	startHost(t, "a", at, web("a", ring.Healthy))
	startHost(t, "b", at, web("b", ring.Healthy))
	// One of four is no third: its death is believed now.
	w.await(t, "a=healthy b=healthy c=unhealthy d=healthy")
}

func TestRestart(t *testing.T) {
	t.Parallel()
	at := freePort(t)
	cfg := Config{Config: ring.Config{Bind: at}, HostID: "control"}
	w := watch(t, cfg)
	for _, id := range []string{"a", "b", "c"} {
		startHost(t, id, at, web(id, ring.Healthy))
	}
	w.await(t, "a=healthy b=healthy c=healthy")
	w.end(t)
	time.Sleep(2 * time.Second)
	w = watch(t, cfg)
	took := w.await(t, "a=healthy b=healthy c=healthy")
	t.Logf("relearned after %v", took.Round(time.Millisecond))
	w.mu.Lock()
	defer w.mu.Unlock()
	if first := summary(w.views[0]); first != "a=healthy b=healthy c=healthy" {
		t.Errorf("the first view after the restart is %q, want it complete", first)
	}
}

func TestAlone(t *testing.T) {
	t.Parallel()
	w := watch(t, Config{Config: ring.Config{Bind: freePort(t)}, HostID: "control", Settle: 200 * time.Millisecond})
	w.await(t, "")

	cut := watch(t, Config{
		Config: ring.Config{Bind: freePort(t), Join: []string{freePort(t).String()}}, HostID: "control", Settle: 500 * time.Millisecond,
	})
	select {
	case err := <-cut.done:
		cut.done <- err
		if err == nil || !strings.Contains(err.Error(), "join 127.0.0.1:") {
			t.Errorf("Watch: %v, want the seed that cannot be joined", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("Watch goes on although no seed can be reached")
	}
	if got := cut.last(); got != "nothing" {
		t.Errorf("a node that is cut off published %q", got)
	}
}

func TestTwoControlNodes(t *testing.T) {
	t.Parallel()
	first, second := freePort(t), freePort(t)
	one := watch(t, Config{Config: ring.Config{Bind: first, Join: []string{second.String()}}, HostID: "c1"})
	two := watch(t, Config{Config: ring.Config{Bind: second, Join: []string{first.String()}}, HostID: "c2"})
	h := startHost(t, "a", first, web("a", ring.Healthy))
	one.await(t, "a=healthy")
	two.await(t, "a=healthy")
	h.announce(t, web("a", ring.Unhealthy))
	one.await(t, "a=unhealthy")
	two.await(t, "a=unhealthy")
	one.end(t)
	h.announce(t, web("a", ring.Healthy))
	two.await(t, "a=healthy !seeds")
}
