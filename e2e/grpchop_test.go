package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/google/go-cmp/cmp"
)

// callee is a server whose two calls are the test's.
type callee struct {
	testgrpc.UnimplementedTestServiceServer
	unary  func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error)
	duplex func(testgrpc.TestService_FullDuplexCallServer) error
}

func (c *callee) UnaryCall(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	return c.unary(ctx, in)
}

func (c *callee) FullDuplexCall(stream testgrpc.TestService_FullDuplexCallServer) error {
	return c.duplex(stream)
}

// echoDuplex sends back what it gets.
func echoDuplex(stream testgrpc.TestService_FullDuplexCallServer) error {
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

// smallWindow keeps gRPC from opening its windows wider by itself, so that what is under way is what the hops keep.
const smallWindow = 64 << 10

// serve runs the callee and returns where.
func (c *callee) serve(t testing.TB, options ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, c)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// grpcTest is one promise about calls over hops.
type grpcTest struct {
	name string
	run  func(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn)
}

// judgeGRPC holds each promise over each way.
func judgeGRPC(t *testing.T, kind hopKind) {
	for _, w := range grpcWays() {
		t.Run(w.name, func(t *testing.T) {
			s := &callee{}
			addr, caFile := w.make(t, kind, s.serve(t, grpc.StaticStreamWindowSize(smallWindow), grpc.StaticConnWindowSize(smallWindow)))
			for _, c := range []grpcTest{
				{"cancel reaches the server", grpcCancel},
				{"deadlines", grpcDeadline},
				{"trailers only", grpcTrailersOnly},
				{"big metadata", grpcMetadata},
				{"4 MiB", grpcLarge},
				{"a server that does not read", grpcServerStalls},
				{"a client that does not read", grpcClientStalls},
				{"1,000 streams", grpcManyStreams},
				{"the server is done first", grpcServerIsDone},
			} {
				if c.name == "the server is done first" && kind == stockEnvoy {
					continue // it throws away what the client has not read yet (RFC 9113 section 8.1 forbids that)
				}
				t.Run(c.name, func(t *testing.T) {
					c.run(t, s, func(more ...grpc.DialOption) *grpc.ClientConn {
						conn, err := dialGRPC(addr, caFile, more...)
						if err != nil {
							t.Fatal(err)
						}
						t.Cleanup(func() { _ = conn.Close() })
						return conn
					})
				})
			}
			t.Run("a long conversation", func(t *testing.T) {
				s := &callee{}
				addr, caFile := w.make(t, kind, s.serve(t))
				grpcConversation(t, s, func() (*grpc.ClientConn, error) { return dialGRPC(addr, caFile) })
			})
			if caFile == "" {
				t.Run("trailers only on the wire", func(t *testing.T) { trailersOnlyOnTheWire(t, s, addr) })
			}
		})
	}
}

// patience is for what must come at once; it only ends a broken test.
const patience = 20 * time.Second

func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %s", what, patience)
		panic("unreachable")
	}
}

func grpcCancel(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	begun, ended := make(chan struct{}), make(chan error, 1)
	s.duplex = func(stream testgrpc.TestService_FullDuplexCallServer) error {
		close(begun)
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := testgrpc.NewTestServiceClient(dial()).FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the call arrives", begun)
	cancel()
	if err := within(t, "the server learns of the end", ended); err != context.Canceled {
		t.Errorf("the server's context ended with %v", err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("the client got %v", err)
	}
}

// grpcDeadline asks again when the server's clock was first: its reset, which comes a moment after the client's own deadline, can
// overtake a client that is busy, and is then another code.
func grpcDeadline(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	const tries = 5
	for n := 1; ; n++ {
		switch err := grpcDeadlineOnce(t, s, dial); {
		case status.Code(err) == codes.DeadlineExceeded:
			return
		case n == tries || err == nil:
			t.Fatalf("the client got %v at try %d", err, n)
		}
	}
}

func grpcDeadlineOnce(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) error {
	left, ended := make(chan time.Duration, 1), make(chan struct{})
	s.unary = func(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		at, ok := ctx.Deadline()
		if !ok {
			return nil, status.Error(codes.Internal, "no deadline came along")
		}
		left <- time.Until(at)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	const limit = 500 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := testgrpc.NewTestServiceClient(dial()).UnaryCall(ctx, &testgrpc.SimpleRequest{})
	if d := within(t, "the call arrives", left); d > limit {
		t.Errorf("the server had %s left of %s", d, limit)
	}
	within(t, "the server learns of the end", ended)
	return err
}

func grpcTrailersOnly(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	const text = "not here: ünïcode, % and\ttab"
	s.unary = func(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		_ = grpc.SetTrailer(ctx, metadata.Pairs("why", "because", "why-bin", "\x00\xff"))
		return nil, status.Error(codes.NotFound, text)
	}
	var trailer metadata.MD
	_, err := testgrpc.NewTestServiceClient(dial()).UnaryCall(t.Context(), &testgrpc.SimpleRequest{}, grpc.Trailer(&trailer))
	if st := status.Convert(err); st.Code() != codes.NotFound || st.Message() != text {
		t.Errorf("got %v", err)
	}
	if got := fmt.Sprintf("%q %q", trailer["why"], trailer["why-bin"]); got != `["because"] ["\x00\xff"]` {
		t.Errorf("trailers %s", got)
	}
}

// trailersOnlyOnTheWire: an answer of one HEADERS frame stays one, for clients that look at it so.
func trailersOnlyOnTheWire(t *testing.T, s *callee, addr string) {
	s.unary = func(context.Context, *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		return nil, status.Error(codes.NotFound, "gone")
	}
	transport := h2cTransport()
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/grpc.testing.TestService/UnaryCall", bytes.NewReader(make([]byte, 5)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) > 0 || resp.Header.Get("Grpc-Status") != "5" || len(resp.Trailer) > 0 {
		t.Errorf("%d bytes, %v, headers %v, trailers %v", len(body), err, resp.Header, resp.Trailer)
	}
}

// h2cTransport is a client that speaks HTTP/2 in plaintext with prior knowledge.
func h2cTransport() *http.Transport {
	only := new(http.Protocols)
	only.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: only}
}

func grpcMetadata(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	want := metadata.MD{}
	for i := range 25 { // three lines each: with gRPC's own ones less than 100
		want.Append(fmt.Sprint("x-", i), strings.Repeat(string(rune('a'+i%26)), 900), strings.Repeat("z", 300))
		want.Append(fmt.Sprintf("x-%d-bin", i), string(bytes.Repeat([]byte{byte(i), 0, 255}, 50)))
	}
	s.unary = func(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		got, _ := metadata.FromIncomingContext(ctx)
		back := metadata.MD{}
		for name := range want {
			back[name] = got[name]
		}
		_ = grpc.SetHeader(ctx, back)
		_ = grpc.SetTrailer(ctx, back)
		return &testgrpc.SimpleResponse{}, nil
	}
	var header, trailer metadata.MD
	ctx := metadata.NewOutgoingContext(t.Context(), want)
	if _, err := testgrpc.NewTestServiceClient(dial()).UnaryCall(ctx, &testgrpc.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]metadata.MD{"header": header, "trailer": trailer} {
		back := metadata.MD{}
		for name := range want {
			back[name] = got[name]
		}
		if diff := cmp.Diff(want, back); diff != "" {
			t.Errorf("%s (-sent +got):\n%s", what, tail(diff, 2000))
		}
	}
}

func grpcLarge(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	s.unary = func(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
		return &testgrpc.SimpleResponse{Payload: in.GetPayload()}, nil
	}
	body := make([]byte, 4<<20-64) // gRPC takes no more than 4 MiB with all that is around it
	for i := range body {
		body[i] = byte(i * i >> 7)
	}
	client := testgrpc.NewTestServiceClient(dial())
	for range 3 {
		out, err := client.UnaryCall(t.Context(), &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: body}})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.GetPayload().GetBody(), body) {
			t.Error("the message came back as another")
		}
	}
}

// grpcManyStreams has all streams open at once, of ten clients.
func grpcManyStreams(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	const clients, streams = 10, 100
	s.duplex = echoDuplex
	var all []testgrpc.TestService_FullDuplexCallClient
	echo := func(round int) {
		t.Helper()
		var group errgroup.Group
		for i, stream := range all {
			group.Go(func() error {
				body := []byte(fmt.Sprint(round, " ", i))
				if err := stream.Send(&testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: body}}); err != nil && err != io.EOF { //nolint:errorlint // io.EOF: Recv tells why
					return err
				}
				out, err := stream.Recv()
				if err == nil && !bytes.Equal(out.GetPayload().GetBody(), body) {
					err = fmt.Errorf("stream %d: got %q, want %q", i, out.GetPayload().GetBody(), body)
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	for range clients {
		client := testgrpc.NewTestServiceClient(dial())
		for range streams {
			stream, err := client.FullDuplexCall(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, stream)
		}
	}
	for round := range 3 {
		echo(round)
	}
	for _, stream := range all {
		_ = stream.CloseSend()
	}
	for i, stream := range all {
		if _, err := stream.Recv(); err != io.EOF {
			t.Errorf("stream %d ended with %v", i, err)
		}
	}
}
