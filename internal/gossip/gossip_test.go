package gossip

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// running is a node with its Run.
type running struct {
	*Node
	stop context.CancelFunc
	done chan error
}

func (r *running) wait(t testing.TB) {
	t.Helper()
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
		r.done <- nil
	case <-time.After(10 * time.Second):
		t.Fatal("Run did not return")
	}
}

// kill ends the node as a crash would.
func (r *running) kill(t testing.TB) {
	t.Helper()
	r.Abandon()
	r.wait(t)
}

// leave ends the node in order.
func (r *running) leave(t testing.TB) {
	t.Helper()
	r.stop()
	r.wait(t)
}

func start(t testing.TB, o Options) *running {
	t.Helper()
	return startWith(t, o, func(*Node) {})
}

// lasting returns an address that no other program is given while a node is away from it.
func lasting(t testing.TB) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(testbed.FreePort(t)))
}

// startWith starts a node that prepare has seen.
func startWith(t testing.TB, o Options, prepare func(*Node)) *running {
	t.Helper()
	if !o.Bind.IsValid() {
		o.Bind = netip.MustParseAddrPort("127.0.0.1:0")
	}
	n, err := Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	prepare(n)
	ctx, stop := context.WithCancel(context.Background())
	r := &running{Node: n, stop: stop, done: make(chan error, 1)}
	go func() { r.done <- n.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		r.Abandon()
		r.wait(t)
	})
	return r
}

func announcement(names ...string) Announcement {
	a := Announcement{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	for i, name := range names {
		a.Instances = append(a.Instances, Instance{
			Namespace: "default", Service: name, ID: name, Address: netip.MustParseAddr("10.0.0.1"),
			Ports: []Port{{Number: 80, Target: uint16(8080 + i), Protocol: "http"}}, Weight: 1, Health: Healthy,
		})
	}
	return a
}

// until waits for a condition over the hosts that a control node sees.
func until(t testing.TB, n *running, what string, ok func(map[string]Host) bool) {
	t.Helper()
	deadline := time.After(time.Minute) // several rounds of push/pull
	for {
		hosts := map[string]Host{}
		for _, h := range n.Hosts() {
			hosts[h.ID] = h
		}
		if ok(hosts) {
			return
		}
		select {
		case <-n.Changed():
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("waited for %s, the control node sees %+v, its status is %+v", what, hosts, n.Status())
		}
	}
}

func is(id string, state State) func(map[string]Host) bool {
	return func(hosts map[string]Host) bool { return hosts[id].State == state }
}

func announces(id string, names ...string) func(map[string]Host) bool {
	return func(hosts map[string]Host) bool {
		h := hosts[id]
		if h.State != Alive || !h.Current || h.Body == nil || len(h.Body.Instances) != len(names) {
			return false
		}
		for i, name := range names {
			if h.Body.Instances[i].Service != name {
				return false
			}
		}
		return true
	}
}

func seeds(nodes ...*running) Config {
	c := Config{}
	for _, n := range nodes {
		c.Join = append(c.Join, n.Addr().String())
	}
	return c
}

func TestAnnouncementReachesEveryControlNode(t *testing.T) {
	noLeak(t)
	first := start(t, Options{HostID: "control-1", Role: Control})
	second := start(t, Options{HostID: "control-2", Role: Control, Config: seeds(first)})
	host := start(t, Options{HostID: "h1", Role: Proxy, Config: seeds(second)})
	if err := host.Announce(announcement("web", "api")); err != nil {
		t.Fatal(err)
	}
	for _, control := range []*running{first, second} {
		until(t, control, "the announcement", announces("h1", "api", "web"))
	}
	// What changes is asked for again; what does not change keeps its pointer.
	before := first.Hosts()[0].Body
	if err := host.Announce(announcement("api", "web")); err != nil {
		t.Fatal(err)
	}
	if err := host.Announce(announcement("web", "api")); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := host.Announce(announcement("web")); err != nil {
		t.Fatal(err)
	}
	until(t, first, "the change", announces("h1", "web"))
	t.Logf("a change was seen after %v", time.Since(begin).Round(time.Millisecond))
	if before == first.Hosts()[0].Body {
		t.Error("a changed announcement kept its pointer")
	}
	if len(host.Hosts()) != 0 {
		t.Error("a proxy follows hosts")
	}
}

func TestDeathIsSeen(t *testing.T) {
	noLeak(t)
	control := start(t, Options{HostID: "control", Role: Control})
	var hosts []*running
	for i := range 7 {
		h := start(t, Options{HostID: fmt.Sprintf("h%d", i), Role: Proxy, Config: seeds(control)})
		if err := h.Announce(announcement("web")); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	for i := range hosts {
		until(t, control, "all hosts", announces(fmt.Sprintf("h%d", i), "web"))
	}
	hosts[3].kill(t)
	begin := time.Now()
	until(t, control, "the death", is("h3", Dead))
	// Probe, its time-out, suspicion: 3 s on a machine that is not busy. The bound allows for one that is.
	took := time.Since(begin)
	t.Logf("death was seen after %v", took.Round(time.Millisecond))
	if took > 9*time.Second {
		t.Errorf("death was seen after %v, want about 3 s at most", took)
	}
	for _, h := range control.Hosts() {
		if h.ID != "h3" && h.State != Alive {
			t.Errorf("%s is %v, want alive", h.ID, h.State)
		}
	}
	hosts[4].leave(t)
	until(t, control, "the leave", is("h4", Left))
}

func TestHostReturns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		bind func(old netip.AddrPort) netip.AddrPort
		dead bool // found dead before it returns
		inc  uint64
	}{
		{"at once at the same address", func(a netip.AddrPort) netip.AddrPort { return a }, false, 2},
		{"at once at another address", func(netip.AddrPort) netip.AddrPort { return netip.MustParseAddrPort("127.0.0.2:0") }, false, 2},
		{"after its death", func(a netip.AddrPort) netip.AddrPort { return a }, true, 2},
		{"with the clock set back", func(a netip.AddrPort) netip.AddrPort { return a }, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			control := start(t, Options{HostID: "control", Role: Control})
			o := Options{HostID: "h1", Role: Proxy, Incarnation: 1<<40 + 1, Config: seeds(control)}
			o.Bind = lasting(t)
			host := start(t, o)
			if err := host.Announce(announcement("web")); err != nil {
				t.Fatal(err)
			}
			until(t, control, "the host", announces("h1", "web"))
			body := control.Hosts()[0].Body
			host.kill(t)
			if c.dead {
				until(t, control, "the death", is("h1", Dead))
			}
			o.Incarnation = 1<<40 + c.inc
			if c.inc == 1 {
				o.Incarnation = 7
			}
			o.Bind = c.bind(host.Addr())
			again := start(t, o)
			if err := again.Announce(announcement("web")); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			until(t, control, "the return", func(hosts map[string]Host) bool {
				h := hosts["h1"]
				return h.State == Alive && h.Current && h.Incarnation == o.Incarnation && h.Addr == again.Addr()
			})
			t.Logf("taken over after %v", time.Since(begin).Round(time.Millisecond))
			if control.Hosts()[0].Body != body {
				t.Error("the same announcement was fetched again")
			}
			// Long enough for the earlier life to be found dead: TestLives shows that this changes nothing.
			time.Sleep(3 * time.Second)
			until(t, control, "the later life still", func(hosts map[string]Host) bool {
				h := hosts["h1"]
				return h.State == Alive && h.Incarnation == o.Incarnation && h.Addr == again.Addr()
			})
		})
	}
}

func TestControlNodeRelearns(t *testing.T) {
	t.Parallel()
	control := start(t, Options{HostID: "control", Role: Control, Config: Config{Bind: lasting(t)}})
	var hosts []*running
	for i := range 3 {
		h := start(t, Options{HostID: fmt.Sprintf("h%d", i), Role: Proxy, Config: seeds(control)})
		if err := h.Announce(announcement("web")); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	for i := range hosts {
		until(t, control, "all hosts", announces(fmt.Sprintf("h%d", i), "web"))
	}
	at := control.Addr()
	control.kill(t)
	time.Sleep(3 * time.Second) // long enough for the hosts to find it dead
	again := start(t, Options{HostID: "control", Role: Control, Config: Config{Bind: at}})
	begin := time.Now()
	for i := range hosts {
		until(t, again, "all hosts again", announces(fmt.Sprintf("h%d", i), "web"))
	}
	t.Logf("relearned after %v", time.Since(begin).Round(time.Millisecond))
}

func TestSeedThatComesLate(t *testing.T) {
	t.Parallel()
	reserve, err := listen(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	at := reserve.addr()
	_ = reserve.Shutdown()
	host := start(t, Options{HostID: "h1", Role: Proxy, Config: Config{Join: []string{at.String()}}})
	if err := host.Announce(announcement("web")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); host.Status().Problem == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a seed that is away is not told")
		}
	}
	control := start(t, Options{HostID: "control", Role: Control, Config: Config{Bind: at}})
	until(t, control, "the host", announces("h1", "web"))
	for deadline := time.Now().Add(10 * time.Second); host.Status().Problem != ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("joined, and the status says %q", host.Status().Problem)
		}
	}
}

func writeKey(t *testing.T, keys ...byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	text := "# the ring's keys\n"
	for _, k := range keys {
		text += base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(k)), 32))) + "\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestEncryption(t *testing.T) {
	t.Parallel()
	var log buffer
	control := start(t, Options{
		HostID: "control", Role: Control, Config: Config{KeyFile: writeKey(t, 'a', 'b')},
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	with := func(key string) Options {
		c := seeds(control)
		c.KeyFile = key
		return Options{HostID: "h" + strings.ToLower(strings.ReplaceAll(filepath.Base(t.TempDir()), "_", "")), Role: Proxy, Config: c}
	}
	old := start(t, with(writeKey(t, 'b'))) // the ring is changing keys: what the control node still reads
	_ = old
	both := with(writeKey(t, 'b', 'a'))
	both.HostID = "rotating"
	good := start(t, both)
	if err := good.Announce(announcement("web")); err != nil {
		t.Fatal(err)
	}
	until(t, control, "the host with both keys", announces("rotating", "web"))

	for _, c := range []struct{ name, key, want string }{
		{"another key", writeKey(t, 'x'), "its key is another one"},
		{"no key", "", "it encrypts and we have no keyFile"},
	} {
		o := with(c.key)
		o.HostID = "stranger"
		stranger := start(t, o)
		deadline := time.Now().Add(10 * time.Second)
		for !strings.Contains(stranger.Status().Problem, c.want) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: problem %q, want %q", c.name, stranger.Status().Problem, c.want)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if stranger.Status().Members != 0 {
			t.Errorf("%s: it has members", c.name)
		}
	}
	for _, h := range control.Hosts() {
		if h.ID == "stranger" {
			t.Error("a node without the key is in the ring")
		}
	}
	if !strings.Contains(log.String(), "no installed keys could decrypt") {
		t.Errorf("the control node's log does not tell of the wrong key:\n%s", log.String())
	}
}

// noLeak fails the test when goroutines of this package or memberlist stay. The test must not run in parallel.
func noLeak(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		var stacks string
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			buf := make([]byte, 1<<20)
			stacks = string(buf[:runtime.Stack(buf, true)])
			if !strings.Contains(stacks, "memberlist.") && !strings.Contains(stacks, "gossip.(*") {
				return
			}
		}
		t.Errorf("goroutines stayed:\n%s", stacks)
	})
}
