package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// shortDir is a directory whose name leaves room: a socket's path has at most 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// ask sends a request on a connection of its own and returns the answer.
func ask(t *testing.T, network, addr, request string) (*http.Response, string, error) {
	t.Helper()
	conn, err := net.DialTimeout(network, addr, 10*time.Second)
	if err != nil {
		return nil, "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// TestUnixSocketListeners: HTTP and TCP are served on paths and on abstract names, with the mode that is asked for; a path
// that is taken is not, what a dead process left is; the file goes with the listener.
func TestUnixSocketListeners(t *testing.T) {
	dir := shortDir(t)
	path, abstract, taken, stale := filepath.Join(dir, "web"), "@"+filepath.Base(dir), filepath.Join(dir, "taken"), filepath.Join(dir, "stale")
	other, err := net.Listen("unix", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	heads := make(chan string, 10)
	backend := server(t, func(w http.ResponseWriter, r *http.Request) {
		heads <- r.Header.Get("X-Forwarded-For") + "|" + r.Host
		_, _ = io.WriteString(w, "hello")
	})
	web := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	web.Pipes = []config.Pipe{{Path: path, Mode: 0o620}, {Path: abstract}, {Path: taken}}
	tcp := &config.Listener{Name: "raw", Pipes: []config.Pipe{{Path: stale}}, TCP: &config.TCP{
		StatPrefix: "raw", Clusters: []config.WeightedCluster{{Name: "web", Weight: 1}}, IdleTimeout: time.Minute,
		AccessLogs: []config.AccessLog{{Path: "/dev/stdout"}},
	}}
	p := start(t, &config.Config{Listeners: []*config.Listener{web, tcp}, Clusters: clusters(cluster("web", backend))}, nil)
	for _, c := range []struct{ name, addr, forwarded string }{
		{"path", path, "|"}, {"abstract", abstract, "|"}, {"TCP", stale, "|"},
	} {
		for range 20 { // on all loops
			resp, body, err := ask(t, "unix", c.addr, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
			if err != nil || resp.StatusCode != 200 || body != "hello" {
				t.Fatalf("%s: %v %q, %v", c.name, resp, body, err)
			}
			if got := <-heads; got != c.forwarded+"web.mesh.internal" {
				t.Errorf("%s: the upstream sees %q", c.name, got)
			}
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o620 || info.Mode()&fs.ModeSocket == 0 {
		t.Errorf("got %v, %v, want a socket with mode 0620", info, err)
	}
	listeners := p.adminGet("/listeners")
	for _, want := range []string{"outbound::" + path + "\n", "outbound::" + abstract + "\n", "outbound::" + taken + "::not bound: listen on " + taken + ": address already in use\n", "raw::" + stale + "\n"} {
		if !strings.Contains(listeners, want) {
			t.Errorf("/listeners has no %q:\n%s", want, listeners)
		}
	}
	if got := p.adminGet("/listeners?format=json"); !strings.Contains(got, `"path": "`+path+`"`) {
		t.Errorf("/listeners in JSON: %s", got)
	}
	if got := p.stat("listener." + path + ".downstream_cx_total"); got != "20" {
		t.Errorf("%s connections were counted, want 20", got)
	}
	p.config.Set(&config.Config{Listeners: []*config.Listener{httpConfig(p.addr, vhost("web.mesh.internal", "web"))}, Clusters: clusters(cluster("web", backend))})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the file stays")
		}
	}
	if _, err := os.Stat(taken); err != nil {
		t.Errorf("another's socket: %v", err)
	}
	p.stop()
	if !strings.Contains(p.log.String(), `"GET / HTTP/1.1" 200 - 0 5 `) {
		t.Errorf("access log %q", p.log)
	}
}

// TestIPv6Listener: both families at one port, each with its own listener, and the client's address as the upstream and
// the log see it.
func TestIPv6Listener(t *testing.T) {
	port := uint16(testbed.FreePort(t))
	heads := make(chan string, 10)
	backend := server(t, func(w http.ResponseWriter, r *http.Request) { heads <- r.Header.Get("X-Forwarded-For") })
	config6 := httpConfig(netip.AddrPortFrom(netip.IPv6Unspecified(), port), vhost("web.mesh.internal", "web"))
	config6.Name = "six"
	four := httpConfig(netip.AddrPortFrom(netip.IPv4Unspecified(), port), vhost("web.mesh.internal", "web"))
	p := start(t, &config.Config{Listeners: []*config.Listener{four, config6}, Clusters: clusters(cluster("web", backend))}, nil)
	p.waitBound(config6.Addresses[0])
	for _, c := range []struct{ addr, client string }{
		{netip.AddrPortFrom(netip.IPv6Loopback(), port).String(), "::1"},
		{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String(), "127.0.0.1"},
	} {
		resp, _, err := ask(t, "tcp", c.addr, get)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: %v, %v", c.addr, resp, err)
		}
		if got := <-heads; got != c.client {
			t.Errorf("%s: the client is %q, want %q", c.addr, got, c.client)
		}
	}
	for name, want := range map[string]string{"listener.[__]_": "1", "listener.0.0.0.0_": "1"} {
		name += strings.TrimPrefix(netip.AddrPortFrom(netip.IPv4Unspecified(), port).String(), "0.0.0.0:") + ".downstream_cx_total"
		if got := p.stat(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// TestCVEClass20_UpgradeIsAskedAtTheSocketAlone (class 20), and tells how it went.
func TestCVEClass20_UpgradeIsAskedAtTheSocketAlone(t *testing.T) {
	socket := filepath.Join(shortDir(t), "s")
	fail := errors.New("no program")
	asked := 0
	p := start(t, &config.Config{Listeners: []*config.Listener{direct(freeAddr(t))}}, func(o *proxy.Options) {
		o.AdminSocket = socket
		o.Upgrade = func(context.Context) error {
			if asked++; asked == 1 {
				return fail
			}
			return nil
		}
	})
	for _, c := range []struct {
		network, addr, method string
		status                int
	}{
		{"tcp", p.AdminAddr(), "GET", 405},
		{"tcp", p.AdminAddr(), "POST", 405},
		{"unix", socket, "GET", 405},
		{"unix", socket, "POST", 503},
		{"unix", socket, "POST", 200},
	} {
		resp, body, err := ask(t, c.network, c.addr, c.method+" /upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if err != nil || resp.StatusCode != c.status || c.status == 503 && body != "no program\n" {
			t.Errorf("%s over %s: got %v %q, %v, want %d", c.method, c.network, resp, body, err, c.status)
		}
	}
	if asked != 2 {
		t.Errorf("it was asked %d times, want 2", asked)
	}
}
