package host

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/internal/hostfile"
)

func TestTally(t *testing.T) {
	for _, c := range []struct {
		name       string
		rise, fall int
		results    string // + pass, - fail
		want       string // health after each
	}{
		{"the first pass decides", 3, 3, "+", "+"},
		{"the first failure decides", 3, 3, "-", "-"},
		{"fall", 2, 3, "+--+---", "+++++" + "+-"},
		{"rise", 2, 3, "-+-++", "----+"},
		{"at once", 1, 1, "+-+-", "+-+-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			y := tally{rise: c.rise, fall: c.fall}
			got := ""
			last := false
			for i, r := range c.results {
				changed := y.take(r == '+')
				if changed != (i == 0 || y.healthy != last) {
					t.Errorf("result %d: changed %v, health was %v and is %v", i, changed, last, y.healthy)
				}
				last = y.healthy
				got += map[bool]string{true: "+", false: "-"}[last]
			}
			if got != c.want {
				t.Errorf("%s became %s, want %s", c.results, got, c.want)
			}
		})
	}
}

func portOf(t *testing.T, addr net.Addr) uint16 {
	t.Helper()
	return netip.MustParseAddrPort(addr.String()).Port()
}

func TestOnce(t *testing.T) {
	var followed atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Add(1) }))
	defer elsewhere.Close()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, elsewhere.URL, http.StatusFound)
		case "/slow":
			select {
			case <-release:
			case <-r.Context().Done():
			}
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		case "/head":
			w.Header().Set("X", strings.Repeat("x", 2*maxCheckHead))
		default:
			code, _ := strconv.Atoi(r.URL.Path[1:])
			w.WriteHeader(code)
		}
	}))
	defer server.Close()
	defer close(release)
	port := portOf(t, server.Listener.Addr())
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedPort := portOf(t, closed.Addr())
	_ = closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	c := newChecks(t.Context(), nil)
	for _, v := range []struct {
		name  string
		check hostfile.Check
		want  string // of the error; "" passes
	}{
		{"200", hostfile.Check{HTTP: "/200", Port: port}, ""},
		{"204", hostfile.Check{HTTP: "/204", Port: port}, ""},
		{"a redirect passes and is not followed", hostfile.Check{HTTP: "/moved", Port: port}, ""},
		{"404", hostfile.Check{HTTP: "/404", Port: port}, "status 404"},
		{"503", hostfile.Check{HTTP: "/503", Port: port}, "status 503"},
		{"a body without end", hostfile.Check{HTTP: "/endless", Port: port}, ""},
		{"a head beyond bounds", hostfile.Check{HTTP: "/head", Port: port}, "server response headers exceeded"},
		{"slow", hostfile.Check{HTTP: "/slow", Port: port, Timeout: 100 * time.Millisecond}, "no answer within 100ms"},
		{"http refused", hostfile.Check{HTTP: "/", Port: closedPort}, "connection refused"},
		{"http to one that does not speak", hostfile.Check{HTTP: "/", Port: portOf(t, silent.Addr()), Timeout: 100 * time.Millisecond}, "no answer within 100ms"},
		{"tcp", hostfile.Check{TCP: true, Port: port}, ""},
		{"tcp refused", hostfile.Check{TCP: true, Port: closedPort}, "connect 127.0.0.1:" + strconv.Itoa(int(closedPort)) + ": connection refused"},
	} {
		t.Run(v.name, func(t *testing.T) {
			if v.check.Timeout == 0 {
				v.check.Timeout = 5 * time.Second
			}
			_, err := c.once(t.Context(), &hostfile.Service{Check: &v.check})
			if v.want == "" && err != nil || v.want != "" && (err == nil || !strings.Contains(err.Error(), v.want)) {
				t.Errorf("got %v, want %q", err, v.want)
			}
		})
	}
	if followed.Load() != 0 {
		t.Error("a check followed a redirect to another server")
	}
}

// control is a control node of the ring that sees what a host announces.
func control(t *testing.T) *gossip.Node {
	t.Helper()
	n, err := gossip.Listen(gossip.Options{HostID: "control", Role: gossip.Control, Config: gossip.Config{Bind: netip.MustParseAddrPort("127.0.0.1:0")}})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- n.Run(context.Background()) }()
	t.Cleanup(func() {
		n.Abandon()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

// run runs a host until the returned function is called, which returns what Run did.
func run(t *testing.T, dir string, seed *gossip.Node) (*Host, func() error) {
	t.Helper()
	h, err := New(Options{Dir: dir, HostID: "h1", Locality: gossip.Locality{Zone: "z"}, Gossip: gossip.Config{
		Bind: netip.MustParseAddrPort("127.0.0.1:0"), Join: []string{seed.Addr().String()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	var ended bool
	end := func() error {
		if ended {
			return nil
		}
		ended = true
		stop()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			t.Fatal("Run does not return")
			return nil
		}
	}
	t.Cleanup(func() { _ = end() })
	return h, end
}

func announced(n *gossip.Node) string {
	for _, h := range n.Hosts() {
		if h.ID != "h1" {
			continue
		}
		if h.State != gossip.Alive {
			return h.State.String()
		}
		if h.Body == nil || !h.Current {
			return "unknown"
		}
		var list []string
		for _, in := range h.Body.Instances {
			list = append(list, fmt.Sprintf("%s/%s:%d=%s", in.Namespace, in.Service, in.Ports[0].Target, in.Health))
		}
		return strings.Join(list, " ")
	}
	return "absent"
}

func await(t *testing.T, n *gossip.Node, want string) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); announced(n) != want; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("announced is %q, want %q", announced(n), want)
		}
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	tmp := filepath.Join(dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestHost(t *testing.T) {
	noLeak(t)
	var status atomic.Int32
	status.Store(200)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(status.Load())) }))
	defer app.Close()
	port := portOf(t, app.Listener.Addr())
	dir := t.TempDir()
	webFile := func(label string) string {
		return fmt.Sprintf("service: web\nport: %d\nprotocol: http\nlabels: {version: %s}\ncheck: {http: /healthz, interval: 100ms, rise: 2, fall: 2}\n", port, label)
	}
	write(t, dir, "web.yaml", webFile("v1"))
	c := control(t)
	h, end := run(t, dir, c)
	await(t, c, fmt.Sprintf("default/web:%d=healthy", port))
	body := c.Hosts()[0].Body
	want := gossip.Instance{
		Namespace: "default", Service: "web", ID: strconv.Itoa(int(port)), Address: netip.MustParseAddr("127.0.0.1"),
		Ports: []gossip.Port{{Number: port, Target: port, Protocol: "http"}}, Labels: map[string]string{"version": "v1"}, Weight: 1, Health: gossip.Healthy,
	}
	if diff := cmp.Diff(want, body.Instances[0], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if body.Locality.Zone != "z" || len(body.Addresses) != 1 {
		t.Errorf("announced %+v, want locality and address", body)
	}

	status.Store(500)
	await(t, c, fmt.Sprintf("default/web:%d=unhealthy", port))
	status.Store(200)
	await(t, c, fmt.Sprintf("default/web:%d=healthy", port))

	write(t, dir, "api.yaml", "service: data/api\nport: 9\n")
	await(t, c, fmt.Sprintf("data/api:9=unknown default/web:%d=healthy", port))
	// A broken file keeps what it said, an emptied one too; both are told.
	write(t, dir, "web.yaml", "service: web\nport: none\n")
	write(t, dir, "api.yaml", "")
	for deadline := time.Now().Add(10 * time.Second); len(h.Status().Problems) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v, want two problems", h.Status())
		}
	}
	if p := h.Status().Problems; !strings.Contains(p[0], "api.yaml: got an empty file") || !strings.Contains(p[1], "web.yaml:2: port: got") {
		t.Errorf("problems %q, want both files with the reason", p)
	}
	if got, want := announced(c), fmt.Sprintf("data/api:9=unknown default/web:%d=healthy", port); got != want {
		t.Errorf("announced is %q, want %q still", got, want)
	}
	write(t, dir, "api.yaml", "service: web\nport: "+strconv.Itoa(int(port))+"\n") // the same instance twice
	write(t, dir, "web.yaml", webFile("v2"))
	// Until an api.yaml without a check is the first to name the instance, it is believed.
	await(t, c, fmt.Sprintf("default/web:%d=unknown", port))
	if p := h.Status().Problems; len(p) != 1 || !strings.Contains(p[0], "want it once (first in ") {
		t.Errorf("problems %q, want the instance that is there twice", p)
	}
	if err := os.Remove(filepath.Join(dir, "api.yaml")); err != nil {
		t.Fatal(err)
	}
	await(t, c, fmt.Sprintf("default/web:%d=healthy", port))
	s := h.Status()
	if len(s.Services) != 1 || s.Services[0].Health != gossip.Healthy || s.Gossip.Controls != 1 || len(s.Problems) != 0 {
		t.Errorf("status %+v", s)
	}

	begin := time.Now()
	if err := end(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("leaving took %v", took)
	}
	await(t, c, "left")
}

func TestDirectoryThatComesLate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "services.d")
	c := control(t)
	h, _ := run(t, dir, c)
	await(t, c, "")
	if p := h.Status().Problems; len(p) != 1 || !strings.Contains(p[0], "no such file") {
		t.Errorf("problems %q, want the missing directory", p)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "api.yaml", "service: api\nport: 9\n")
	await(t, c, "default/api:9=unknown")
	write(t, dir, "api.yaml", "service: api\nport: 10\n")
	await(t, c, "default/api:10=unknown")
}

// A sick instance is announced as such from the start, a slow check holds nothing back for long.
func TestFirstAnnouncement(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	port := portOf(t, silent.Addr())
	dir := t.TempDir()
	write(t, dir, "web.yaml", fmt.Sprintf("service: web\nport: %d\ncheck: {http: /, interval: 60s}\n", port))
	c := control(t)
	run(t, dir, c)
	await(t, c, fmt.Sprintf("default/web:%d=unhealthy", port))
}

func noLeak(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		var stacks string
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			buf := make([]byte, 1<<20)
			stacks = string(buf[:runtime.Stack(buf, true)])
			if !strings.Contains(stacks, "memberlist.") && !strings.Contains(stacks, "host.(*") && !strings.Contains(stacks, "fsnotify.") {
				return
			}
		}
		t.Errorf("goroutines stayed:\n%s", stacks)
	})
}
