package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/probe"
)

// moreListeners are an HTTP listener without and one with TLS: what is gRPC goes to a cluster of HTTP/2, the rest where it went.
const moreListeners = `  - name: %[1]s
    address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: %[1]s
          codec_type: AUTO
          route_config:
            name: %[1]s
            virtual_hosts: [{name: all, domains: ["*"], routes: [
              {match: {prefix: /grpc.testing.TestService/}, route: {cluster: grpc, timeout: 0s}},
              {match: {prefix: /}, route: {cluster: back}}]}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
%[3]s`

const serverTLS = `      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates: [{certificate_chain: {filename: %q}, private_key: {filename: %q}}]
`

const grpcCluster = `  - name: grpc
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

// echoService sends back what it gets.
type echoService struct {
	testgrpc.UnimplementedTestServiceServer
}

func (echoService) UnaryCall(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return &testgrpc.SimpleResponse{Payload: in.GetPayload()}, nil
}

func (echoService) FullDuplexCall(stream testgrpc.TestService_FullDuplexCallServer) error {
	for {
		in, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&testgrpc.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
}

// load is traffic of every kind through a mesh-proxy that is installed.
type load struct {
	t          *testing.T
	plain, tls int // ports
	roots      *x509.CertPool
	every      time.Duration // between the messages of a stream, and the calls of a caller

	ctx  context.Context //nolint:containedctx // it is the load's life
	all  sync.WaitGroup
	mu   sync.Mutex
	lost map[string]int // by what and why; guarded by mu
	done map[string]int // guarded by mu
}

// installLoad adds what a load needs to a mesh-proxy that has not been started.
func installLoad(t *testing.T, i *installed) *load {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, echoService{})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)

	certs := testbed.NewCerts(t)
	pem, err := os.ReadFile(certs.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	n := &load{t: t, plain: testbed.FreePort(t), tls: testbed.FreePort(t), roots: x509.NewCertPool(), lost: map[string]int{}, done: map[string]int{}}
	n.roots.AppendCertsFromPEM(pem)
	text, err := os.ReadFile(i.config)
	if err != nil {
		t.Fatal(err)
	}
	more := fmt.Sprintf(moreListeners, "plain", n.plain, "") + fmt.Sprintf(moreListeners, "tls", n.tls, fmt.Sprintf(serverTLS, certs.ServerCertFile, certs.ServerKeyFile))
	whole := strings.Replace(string(text), "  clusters:\n", more+"  clusters:\n", 1) + fmt.Sprintf(grpcCluster, l.Addr().(*net.TCPAddr).Port)
	if err := os.WriteFile(i.config, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	return n
}

// note counts what was done, or lost if there is an error.
func (n *load) note(what string, err error) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.lost[fmt.Sprintf("%s: %v", what, err)]++
		return false
	}
	n.done[what]++
	return true
}

// pause waits for an interval; false: the load is to end.
func (n *load) pause() bool {
	select {
	case <-n.ctx.Done():
		return false
	case <-time.After(n.every):
		return true
	}
}

func (n *load) dial(secure bool) *grpc.ClientConn {
	n.t.Helper()
	port, creds := n.plain, insecure.NewCredentials()
	if secure {
		port, creds = n.tls, credentials.NewTLS(&tls.Config{RootCAs: n.roots, ServerName: "localhost"})
	}
	conn, err := grpc.NewClient(fmt.Sprintf("passthrough:///127.0.0.1:%d", port), grpc.WithTransportCredentials(creds))
	if err != nil {
		n.t.Fatal(err)
	}
	return conn
}

// grpc begins streams that stay open until the load ends, as many that last for a few messages, and callers, on one connection.
func (n *load) grpc(secure bool, streams, callers int) {
	conn := n.dial(secure)
	client := testgrpc.NewTestServiceClient(conn)
	name := map[bool]string{false: "gRPC ", true: "gRPC over TLS "}[secure]
	var users sync.WaitGroup
	for range streams {
		users.Go(func() { n.stream(client, name+"stream", 0) })
		users.Go(func() {
			for n.stream(client, name+"short stream", 3) {
			}
		})
	}
	for range callers {
		users.Go(func() {
			for k := 0; n.pause(); k++ {
				_, err := client.UnaryCall(context.Background(), &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: fmt.Append(nil, k)}})
				n.note(name+"call", err)
			}
		})
	}
	n.all.Go(func() {
		users.Wait()
		_ = conn.Close()
	})
}

// stream echoes messages on a stream, most of them or until the load ends, and ends it in order. It reports whether the load goes on.
func (n *load) stream(client testgrpc.TestServiceClient, what string, most int) bool {
	s, err := client.FullDuplexCall(context.Background())
	if !n.note(what+" opened", err) {
		return n.pause()
	}
	more := true
	for k := 0; more && (most == 0 || k < most); k++ {
		text := fmt.Sprint("message ", k)
		_ = s.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: []byte(text)}}) // Recv tells why not
		out, err := s.Recv()
		if err == nil && string(out.GetPayload().GetBody()) != text {
			err = fmt.Errorf("got %q, want %q", out.GetPayload().GetBody(), text)
		}
		if !n.note(what+" message", err) {
			return n.pause()
		}
		more = n.pause()
	}
	_ = s.CloseSend()
	if _, err = s.Recv(); err == io.EOF {
		err = nil
	} else if err == nil {
		err = fmt.Errorf("got another message")
	}
	n.note(what+" ended", err)
	return more
}

// probes sends plain requests over HTTP/1 with TLS and over HTTP/2 without and with it.
func (n *load) probes(rate int) {
	for _, p := range []struct {
		name          string
		secure, http2 bool
	}{{"HTTP/1 over TLS", true, false}, {"HTTP/2", false, true}, {"HTTP/2 over TLS", true, true}} {
		o := probe.Options{URL: fmt.Sprintf("http://localhost:%d/", n.plain), Rate: rate, Duration: 2 * time.Minute, Kept: 4, Fresh: 10, HTTP2: p.http2}
		if p.secure {
			o.URL, o.TLS = fmt.Sprintf("https://localhost:%d/", n.tls), &tls.Config{RootCAs: n.roots}
		}
		n.all.Go(func() {
			r, err := probe.Run(n.ctx, o)
			if err == nil && (r.Dropped != 0 || r.Answered != r.Requests || r.Answered == 0) {
				err = fmt.Errorf("%+v", r)
			}
			n.note(p.name, err)
			n.mu.Lock()
			defer n.mu.Unlock()
			n.done[p.name+" request"] += int(r.Answered)
		})
	}
}

// TestUpgradeMovesWhatHasNotSpoken: a connection that nothing has come on moves like any that is idle, and may speak HTTP/2 as before.
func TestUpgradeMovesWhatHasNotSpoken(t *testing.T) {
	i := install(t)
	n := installLoad(t, i)
	i.start(nil, nil, i.command()...)
	for _, http2 := range []bool{true, false} {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n.plain))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		await := func(what, name, want string) {
			t.Helper()
			for deadline := time.Now().Add(patience); stat(t, i.admin, name) != want; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("not %s: %s is %s", what, name, stat(t, i.admin, name))
				}
			}
		}
		await("accepted", "http.plain.downstream_cx_total", "1")
		before := i.pid()
		if code, said := i.reload(); code != 0 {
			t.Fatalf("reload: exit status %d, %q", code, said)
		}
		i.await("taken over", func() bool { return i.main != before })
		await("moved", "upgrade.adopted_connections", "1")
		tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
		tr.Protocols.SetHTTP1(!http2)
		tr.Protocols.SetUnencryptedHTTP2(http2)
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("http://a/")
		if err != nil {
			t.Fatalf("HTTP/2 %v: %v", http2, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "hello" || err != nil || (resp.ProtoMajor == 2) != http2 {
			t.Errorf("HTTP/2 %v: got %s, %q, %v", http2, resp.Proto, body, err)
		}
		tr.CloseIdleConnections()
		before = i.pid()
		if code, said := i.reload(); code != 0 { // whose figures begin at 0
			t.Fatalf("reload: exit status %d, %q", code, said)
		}
		i.await("taken over", func() bool { return i.main != before })
		await("at the beginning", "http.plain.downstream_cx_total", "0")
	}
}
