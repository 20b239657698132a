package health

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// grpcServer runs a server of gRPC, with a health service unless that is nil.
func grpcServer(t *testing.T, service *grpchealth.Server, options ...grpc.ServerOption) (config.Address, *grpc.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(options...)
	if service != nil {
		healthpb.RegisterHealthServer(s, service)
	}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return config.Address{IP: netip.MustParseAddrPort(l.Addr().String())}, s
}

func grpcCheck(service string) *config.HealthCheck {
	return &config.HealthCheck{Timeout: 5 * time.Second, ReuseConnection: true, GRPC: &config.GRPCCheck{Service: service}}
}

// TestGRPCCheck asks grpc-go's own health service.
func TestGRPCCheck(t *testing.T) {
	service := grpchealth.NewServer()
	service.SetServingStatus("up", healthpb.HealthCheckResponse_SERVING)
	service.SetServingStatus("down", healthpb.HealthCheckResponse_NOT_SERVING)
	service.SetServingStatus("odd", healthpb.HealthCheckResponse_SERVICE_UNKNOWN)
	at, _ := grpcServer(t, service)
	none, _ := grpcServer(t, nil)
	failing, _ := grpcServer(t, service, grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, status.Error(codes.Unavailable, "busy")
	}))
	for _, c := range []struct {
		name, service string
		at            config.Address
		want          Outcome
		kept          bool
	}{
		{"the server as a whole", "", at, Passed, true},
		{"a service", "up", at, Passed, true},
		{"NOT_SERVING", "down", at, Rejected, true},
		{"SERVICE_UNKNOWN", "odd", at, Rejected, true},
		{"NOT_FOUND", "nowhere", at, Rejected, true},
		{"UNIMPLEMENTED", "", none, Rejected, true},
		{"UNAVAILABLE", "", failing, Rejected, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, kept := check(t.Context(), "web", grpcCheck(c.service), c.at, Way{}, nil)
			if got != c.want || (kept != nil) != c.kept {
				t.Errorf("outcome %d, kept %v; want %d, %v", got, kept != nil, c.want, c.kept)
			}
			if kept != nil {
				kept.close()
			}
		})
	}
}

// TestGRPCCheckReuses: a connection serves several checks; one that the server has closed, or said goodbye on, is no failure.
func TestGRPCCheckReuses(t *testing.T) {
	service := grpchealth.NewServer()
	for _, c := range []struct {
		name   string
		option grpc.ServerOption
	}{
		{"open", grpc.MaxConcurrentStreams(10)},
		{"goaway", grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 20 * time.Millisecond, MaxConnectionAgeGrace: 10 * time.Millisecond})},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, _ := grpcServer(t, service, c.option)
			var kept *link
			first := ""
			changed := false
			for range 30 {
				var o Outcome
				if o, kept = check(t.Context(), "web", grpcCheck(""), at, Way{}, kept); o != Passed {
					t.Fatalf("outcome %d", o)
				}
				if kept == nil {
					changed = true
					continue
				}
				if local := kept.conn.LocalAddr().String(); first == "" {
					first = local
				} else if local != first {
					changed = true
				}
				time.Sleep(3 * time.Millisecond)
			}
			if kept != nil {
				kept.close()
			}
			if changed != (c.name == "goaway") {
				t.Errorf("another connection: %v", changed)
			}
		})
	}
}

func TestGRPCCheckSends(t *testing.T) {
	var got metadata.MD
	at, _ := grpcServer(t, grpchealth.NewServer(), grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		got, _ = metadata.FromIncomingContext(ctx)
		return h(ctx, req)
	}))
	hc := grpcCheck("")
	hc.GRPC.Authority, hc.GRPC.Metadata = "api.example", []config.CheckHeader{{Name: "x-check", Value: "a"}, {Name: "x-check", Value: "b"}}
	if o := Once(t.Context(), "web", hc, at); o != Passed {
		t.Fatalf("outcome %d", o)
	}
	if a, x, u := got.Get(":authority"), got.Get("x-check"), got.Get("user-agent"); len(a) != 1 || a[0] != "api.example" || strings.Join(x, ",") != "a,b" || strings.Join(u, "") != "Envoy/HC" {
		t.Errorf("authority %q, x-check %q, user-agent %q", a, x, u)
	}
}

func TestGRPCCheckThatEndsOtherwise(t *testing.T) {
	stuck, _ := grpcServer(t, grpchealth.NewServer(), grpc.UnaryInterceptor(func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	silent := backend(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	closing := backend(t, func(_ net.Conn, r *bufio.Reader) { _, _ = r.ReadByte() })
	old := answers(t, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
	for _, c := range []struct {
		name string
		at   config.Address
		late bool
		want Outcome
	}{
		{"no answer", stuck, true, Late},
		{"a server that says nothing", silent, true, Late},
		{"a server that closes", closing, false, Refused},
		{"HTTP/1.1", old, false, Refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			hc := grpcCheck("")
			if c.late {
				hc.Timeout = 50 * time.Millisecond
			}
			if got, kept := check(t.Context(), "web", hc, c.at, Way{}, nil); got != c.want || kept != nil {
				t.Errorf("outcome %d, kept %v; want %d", got, kept != nil, c.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if got := Once(ctx, "web", grpcCheck(""), stuck); got != Unknown {
		t.Errorf("given up: outcome %d, want %d", got, Unknown)
	}
}

// TestGRPCAnswersAreNotBelieved: what is no answer of the health service is a failure, and a long one is not read to its end.
func TestGRPCAnswersAreNotBelieved(t *testing.T) {
	serving := []byte{0, 0, 0, 0, 2, 8, 1}
	for _, c := range []struct {
		name   string
		status int
		body   []byte
		grpc   string
		want   Outcome
	}{
		{"right", 200, serving, "0", Passed},
		{"another status", 503, serving, "0", Rejected},
		{"no grpc-status", 200, serving, "", Rejected},
		{"an error", 200, serving, "14", Rejected},
		{"nothing", 200, nil, "0", Rejected},
		{"a frame cut short", 200, serving[:6], "0", Rejected},
		{"two frames", 200, append(bytes.Clone(serving), serving...), "0", Rejected},
		{"compressed", 200, append([]byte{1}, serving[1:]...), "0", Rejected},
		{"no message", 200, []byte{0, 0, 0, 0, 2, 0xff, 0xff}, "0", Rejected},
		{"no end", 200, make([]byte, 1<<20), "0", Rejected},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := http2Server(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/grpc")
				w.WriteHeader(c.status)
				_, _ = w.Write(c.body)
				if c.grpc != "" {
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", c.grpc)
				}
			})
			if got := Once(t.Context(), "web", grpcCheck(""), at); got != c.want {
				t.Errorf("outcome %d, want %d", got, c.want)
			}
		})
	}
}

// http2Server speaks HTTP/2 in plaintext, and no other.
func http2Server(t *testing.T, h http.HandlerFunc) config.Address {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return config.Address{IP: netip.MustParseAddrPort(s.Listener.Addr().String())}
}

func TestHTTP2Check(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		change  func(*config.HTTPCheck)
		want    Outcome
		kept    bool
	}{
		{"200", func(w http.ResponseWriter, r *http.Request) {}, nil, Passed, true},
		{"503", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, nil, Rejected, true},
		{"retriable", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) }, func(c *config.HTTPCheck) { c.Retriable = []config.StatusRange{{From: 500, To: 600}} }, Retriable, true},
		{"a redirect is not followed", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) }, nil, Rejected, true},
		{"degraded", func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Envoy-Degraded", "1") }, nil, PassedDegraded, true},
		{"interim", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); w.WriteHeader(200) }, nil, Passed, true},
		{"a long body", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }, nil, Passed, false},
		{"reset", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, nil, Refused, false},
		{"what it sends", func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor != 2 || r.Method != "HEAD" || r.RequestURI != "/ready?a=%2F" || r.Host != "web.example" || r.Header.Get("X-Check") != "b" || r.Header.Get("User-Agent") != "Envoy/HC" {
				w.WriteHeader(400)
			}
		}, func(c *config.HTTPCheck) {
			c.Method, c.Host, c.Path, c.Headers = "HEAD", "web.example", "/ready?a=%2F", []config.CheckHeader{{Name: "x-check", Value: "b"}}
		}, Passed, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			hc := httpCheck()
			hc.ReuseConnection, hc.HTTP.HTTP2 = true, true
			if c.change != nil {
				c.change(hc.HTTP)
			}
			got, kept := check(t.Context(), "web", hc, http2Server(t, c.handler), Way{}, nil)
			if got != c.want || (kept != nil) != c.kept {
				t.Errorf("outcome %d, kept %v; want %d, %v", got, kept != nil, c.want, c.kept)
			}
			if kept != nil {
				kept.close()
			}
		})
	}
}

// TestChecksOverTLS: each kind of check, and a server that is not the one that is wanted.
func TestChecksOverTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	s.EnableHTTP2, s.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	web := config.Address{IP: netip.MustParseAddrPort(s.Listener.Addr().String())}
	api, _ := grpcServer(t, grpchealth.NewServer(), grpc.Creds(credentials.NewServerTLSFromCert(&s.TLS.Certificates[0])))
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	with := func(name string, protocols ...string) Way {
		return Way{TLS: &tls.Config{RootCAs: roots, ServerName: name, NextProtos: protocols}}
	}
	second := httpCheck()
	second.HTTP.HTTP2 = true
	for _, c := range []struct {
		name  string
		check *config.HealthCheck
		at    config.Address
		way   Way
		want  Outcome
	}{
		{"HTTP/1.1", httpCheck(), web, with("example.com"), Passed},
		{"HTTP/2", second, web, with("example.com", "h2"), Passed},
		{"gRPC", grpcCheck(""), api, with("example.com", "h2"), Passed},
		{"TCP", &config.HealthCheck{Timeout: 5 * time.Second, TCP: &config.TCPCheck{}}, api, with("example.com", "h2"), Passed},
		{"another name", httpCheck(), web, with("other.example"), Refused},
		{"nobody vouches", httpCheck(), web, Way{TLS: &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}}, Refused},
		{"plaintext", httpCheck(), answers(t, "HTTP/1.1 200 OK\r\n\r\n"), with("example.com"), Refused},
		{"not by TLS", httpCheck(), web, Way{}, Rejected},
		{"HTTP/2 that is not agreed upon", second, web, with("example.com", "http/1.1"), Refused},
	} {
		got, kept := check(t.Context(), "web", c.check, c.at, c.way, nil)
		if got != c.want {
			t.Errorf("%s: outcome %d, want %d", c.name, got, c.want)
		}
		if kept != nil {
			kept.close()
		}
	}
}

// TestChecksTellTheHostWhoAsks: behind a PROXY header, for the proxy itself.
func TestChecksTellTheHostWhoAsks(t *testing.T) {
	for version, want := range map[int]string{1: "PROXY TCP4 127.0.0.1 127.0.0.1 ", 2: "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
		at := backend(t, func(conn net.Conn, r *bufio.Reader) {
			head := make([]byte, len(want))
			if _, err := io.ReadFull(r, head); err != nil || string(head) != want {
				t.Errorf("version %d: got %q, %v", version, head, err)
			}
			if version == 1 {
				_, _ = r.ReadString('\n')
			}
			if line, _ := r.ReadString('\n'); line != "GET /ready HTTP/1.1\r\n" {
				t.Errorf("version %d: then %q", version, line)
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
		})
		if got, _ := check(t.Context(), "web", httpCheck(), at, Way{Header: &config.ProxyHeader{Version: version}}, nil); got != Passed {
			t.Errorf("version %d: outcome %d", version, got)
		}
	}
}
