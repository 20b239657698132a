package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/preamble"
)

// shortDir is a directory whose name leaves room: a socket's path has at most 107 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestChecksOverUnixSockets: every kind of check finds a host that serves on one in order, over connections that are kept, and one
// that does not accept at fault.
func TestChecksOverUnixSockets(t *testing.T) {
	dir := shortDir(t)
	listen := func(path string) net.Listener {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	path, name := filepath.Join(dir, "web"), "@"+dir+"/web"
	web := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), Protocols: new(http.Protocols)}
	web.Protocols.SetHTTP1(true)
	web.Protocols.SetUnencryptedHTTP2(true)
	for _, at := range []string{path, name} {
		l := listen(at)
		go func() { _ = web.Serve(l) }()
	}
	t.Cleanup(func() { web.Close() })
	a := testbed.NewAuthority(t)
	secure := &http.Server{Handler: web.Handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{a.Leaf("web.test")}}}
	secured := listen(filepath.Join(dir, "secure"))
	go func() { _ = secure.ServeTLS(secured, "", "") }()
	t.Cleanup(func() { secure.Close() })
	api, service := grpc.NewServer(), grpchealth.NewServer()
	healthpb.RegisterHealthServer(api, service)
	called := listen(filepath.Join(dir, "api"))
	go func() { _ = api.Serve(called) }()
	t.Cleanup(api.Stop)

	for _, c := range []struct {
		name   string
		at     string
		change func(*config.HealthCheck)
		alpn   string // and TLS
	}{
		{"HTTP/1.1", path, func(*config.HealthCheck) {}, ""},
		{"an abstract name", name, func(*config.HealthCheck) {}, ""},
		{"HTTP/2", path, func(c *config.HealthCheck) { c.HTTP.HTTP2 = true }, ""},
		{"HTTP/1.1 over TLS", secured.Addr().String(), func(*config.HealthCheck) {}, "http/1.1"},
		{"HTTP/2 over TLS", secured.Addr().String(), func(c *config.HealthCheck) { c.HTTP.HTTP2 = true }, "h2"},
		{"gRPC", called.Addr().String(), func(c *config.HealthCheck) { c.HTTP, c.GRPC = nil, &config.GRPCCheck{} }, ""},
		{"TCP", path, func(c *config.HealthCheck) {
			c.HTTP, c.TCP = nil, &config.TCPCheck{Send: []byte("GET / HTTP/1.1\r\nhost: a\r\n\r\n"), Receive: [][]byte{[]byte("200")}}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			hc := httpCheck()
			hc.ReuseConnection = true
			c.change(hc)
			way := Way{}
			if c.alpn != "" {
				way.TLS = &tls.Config{RootCAs: a.Pool(), ServerName: "web.test", NextProtos: []string{c.alpn}}
			}
			var kept *link
			for range 2 {
				var got Outcome
				if got, kept = check(context.Background(), "web", hc, config.Address{Path: c.at}, way, kept); got != Passed || kept == nil {
					t.Fatalf("outcome %d, kept %v", got, kept != nil)
				}
			}
			kept.close()
		})
	}
}

// TestUnixSocketsThatDoNotAccept are the endpoint's fault, whatever the reason.
func TestUnixSocketsThatDoNotAccept(t *testing.T) {
	dir := shortDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	file, dead, full := in("file"), in("dead"), in("full")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dead, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: full}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		conn, err := net.Dial("unix", full)
		if err != nil {
			if !errors.Is(err, syscall.EAGAIN) {
				t.Fatal(err)
			}
			break
		}
		defer conn.Close()
	}
	for name, at := range map[string]string{
		"missing": in("none"), "in no directory": file + "/none", "no socket": file, "dead": dead, "full": full, "no such name": "@" + dir + "/none",
	} {
		if got := Once(context.Background(), "web", httpCheck(), config.Address{Path: at}); got != Refused {
			t.Errorf("%s: outcome %d, want %d", name, got, Refused)
		}
		if got := Connect(context.Background(), config.Address{Path: at}, time.Second); got != Refused {
			t.Errorf("%s: connect: outcome %d, want %d", name, got, Refused)
		}
	}
}

// TestHeaderOverUnixSockets: no address is known to speak of.
func TestHeaderOverUnixSockets(t *testing.T) {
	at := filepath.Join(shortDir(t), "web")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for version, want := range map[int]string{1: "PROXY UNKNOWN\r\n", 2: string(preamble.Append(nil, preamble.Header{Version: 2}))} {
		got := make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			b := make([]byte, len(want))
			_, _ = io.ReadFull(r, b)
			got <- string(b)
		}()
		hc := &config.HealthCheck{Timeout: 5 * time.Second, TCP: &config.TCPCheck{}}
		if o, _ := check(context.Background(), "web", hc, config.Address{Path: at}, Way{Header: &config.ProxyHeader{Version: version}}, nil); o != Passed {
			t.Errorf("version %d: outcome %d", version, o)
		}
		if b := <-got; b != want {
			t.Errorf("version %d: got %q, want %q", version, b, want)
		}
	}
}
