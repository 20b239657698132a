package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// interopCase is one case of gRPC's interoperability tests. They end the process that is not content.
type interopCase struct {
	name string
	run  func(ctx context.Context, dial func() *grpc.ClientConn, client testgrpc.TestServiceClient)
}

// interopOf makes a case of a function that wants no more than a client.
func interopOf(name string, do func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)) interopCase {
	return interopCase{name, func(ctx context.Context, _ func() *grpc.ClientConn, client testgrpc.TestServiceClient) {
		do(ctx, client)
	}}
}

func soak(ctx context.Context, channel func() (*grpc.ClientConn, func())) {
	interop.DoSoakTest(ctx, interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: time.Minute, OverallTimeout: time.Minute,
		NumWorkers: 2, Iterations: 20, ChannelForTest: channel,
	})
}

func interopCases() []interopCase {
	return []interopCase{
		interopOf("empty_unary", interop.DoEmptyUnaryCall),
		interopOf("large_unary", interop.DoLargeUnaryCall),
		interopOf("client_streaming", interop.DoClientStreaming),
		interopOf("server_streaming", interop.DoServerStreaming),
		interopOf("ping_pong", interop.DoPingPong),
		interopOf("empty_stream", interop.DoEmptyStream),
		interopOf("timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer),
		interopOf("cancel_after_begin", interop.DoCancelAfterBegin),
		interopOf("cancel_after_first_response", interop.DoCancelAfterFirstResponse),
		interopOf("status_code_and_message", interop.DoStatusCodeAndMessage),
		interopOf("special_status_message", interop.DoSpecialStatusMessage),
		interopOf("custom_metadata", interop.DoCustomMetadata),
		{"unimplemented_method", func(ctx context.Context, dial func() *grpc.ClientConn, _ testgrpc.TestServiceClient) {
			interop.DoUnimplementedMethod(ctx, dial())
		}},
		{"unimplemented_service", func(ctx context.Context, dial func() *grpc.ClientConn, _ testgrpc.TestServiceClient) {
			interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(dial()))
		}},
		{"rpc_soak", func(ctx context.Context, dial func() *grpc.ClientConn, _ testgrpc.TestServiceClient) {
			conn := dial()
			soak(ctx, func() (*grpc.ClientConn, func()) { return conn, func() {} })
		}},
		{"channel_soak", func(ctx context.Context, dial func() *grpc.ClientConn, _ testgrpc.TestServiceClient) {
			soak(ctx, func() (*grpc.ClientConn, func()) {
				conn := dial()
				return conn, func() { _ = conn.Close() }
			})
		}},
	}
}

// dialGRPC makes a channel to addr, over TLS if the file of an authority is named.
func dialGRPC(addr, caFile string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		transport = credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "localhost"})
	}
	return grpc.NewClient("passthrough:///"+addr, append(more, grpc.WithTransportCredentials(transport))...)
}

// playInterop is a client of its own process that runs one case: NAME ADDRESS [CA-FILE].
func playInterop(args ...string) error {
	caFile := ""
	if len(args) > 2 {
		caFile = args[2]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	dial := func() *grpc.ClientConn {
		conn, err := dialGRPC(args[1], caFile)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return conn
	}
	for _, c := range interopCases() {
		if c.name == args[0] {
			c.run(ctx, dial, testgrpc.NewTestServiceClient(dial()))
			fmt.Println("passed", c.name)
			return nil
		}
	}
	return fmt.Errorf("no case %s", args[0])
}

// way is how gRPC gets from a client to a server: over one hop or more. It returns where the client dials, and the authority that
// it verifies that by, if any.
type way struct {
	name string
	make func(t testing.TB, kind hopKind, server string) (addr, caFile string)
}

// grpcWays are the ways of a mesh: one hop in plaintext, one that ends TLS, and two with mTLS between them.
func grpcWays() []way {
	return []way{
		{"one hop", func(t testing.TB, kind hopKind, server string) (string, string) {
			return startHop(t, kind, hopSpec{to: []string{server}, http2: true, route: noTimeout}).addr, ""
		}},
		{"one hop with TLS", func(t testing.TB, kind hopKind, server string) (string, string) {
			certs := testbed.NewCerts(t)
			return startHop(t, kind, hopSpec{to: []string{server}, http2: true, tls: &certs, route: noTimeout}).addr, certs.CAFile
		}},
		{"two hops with mTLS", func(t testing.TB, kind hopKind, server string) (string, string) {
			certs := testbed.NewCerts(t)
			second := startHop(t, kind, hopSpec{to: []string{server}, http2: true, tls: &certs, demand: true, route: noTimeout})
			return startHop(t, kind, hopSpec{to: []string{second.addr}, http2: true, toTLS: &certs, route: noTimeout}).addr, ""
		}},
	}
}

// noTimeout leaves the time that a call may take to its deadline.
const noTimeout = ", timeout: 0s"

// judgeInterop runs gRPC's own client against its own server over each way.
func judgeInterop(t *testing.T, kind hopKind) {
	server := fmt.Sprintf("127.0.0.1:%d", interopServer(t, "interop"))
	for _, w := range grpcWays() {
		t.Run(w.name, func(t *testing.T) {
			addr, caFile := w.make(t, kind, server)
			for _, c := range interopCases() {
				t.Run(c.name, func(t *testing.T) {
					out, err := role(t.Context(), "interop", c.name, addr, caFile)
					if err != nil || out != "passed "+c.name+"\n" {
						t.Errorf("%q: %v", out, err)
					}
				})
			}
		})
	}
}
