package e2e

import (
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// stalled waits until nothing more is sent and returns how much was. Who sends is only ever held up by windows here.
func stalled(t *testing.T, sent *atomic.Int64) int64 {
	t.Helper()
	last := int64(-1)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(300 * time.Millisecond) {
		now := sent.Load()
		if now == last && now > 0 {
			return now
		}
		last = now
	}
	t.Fatalf("%d bytes were sent and more still are", last)
	return 0
}

const (
	stallPiece = 16 << 10
	stallBound = 8 << 20 // of hops and kernels together; nobody is to keep more of one stream
	stallTotal = 32 << 20
)

func grpcServerStalls(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	release, got := make(chan struct{}), make(chan int, 1)
	s.duplex = func(stream testgrpc.TestService_FullDuplexCallServer) error {
		<-release
		n := 0
		for {
			in, err := stream.Recv()
			if err != nil {
				got <- n
				return nil
			}
			n += len(in.GetPayload().GetBody())
		}
	}
	stream, err := testgrpc.NewTestServiceClient(dial()).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var sent atomic.Int64
	var sender errgroup.Group
	sender.Go(func() error {
		in := &testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: make([]byte, stallPiece)}}
		for sent.Load() < stallTotal {
			if err := stream.Send(in); err != nil {
				return err
			}
			sent.Add(stallPiece)
		}
		return stream.CloseSend()
	})
	if n := stalled(t, &sent); n > stallBound {
		t.Errorf("%d bytes were taken for a server that does not read", n)
	}
	close(release)
	if n := within(t, "the server has read all", got); n != stallTotal {
		t.Errorf("the server got %d bytes, want %d", n, stallTotal)
	}
	if err := sender.Wait(); err != nil {
		t.Error(err)
	}
}

func grpcClientStalls(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	clientStalls(t, s, dial, true)
}

// grpcServerIsDone: a server that is done before the client has ended its request resets the stream with NO_ERROR behind its answer.
func grpcServerIsDone(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn) {
	clientStalls(t, s, dial, false)
}

func clientStalls(t *testing.T, s *callee, dial func(...grpc.DialOption) *grpc.ClientConn, endFirst bool) {
	t.Helper()
	var sent atomic.Int64
	s.duplex = func(stream testgrpc.TestService_FullDuplexCallServer) error {
		if endFirst {
			if _, err := stream.Recv(); err != io.EOF {
				return status.Errorf(codes.Internal, "got %v, want the end", err)
			}
		}
		out := &testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, stallPiece)}}
		for sent.Load() < stallTotal {
			if err := stream.Send(out); err != nil {
				return err
			}
			sent.Add(stallPiece)
		}
		return nil
	}
	conn := dial(grpc.WithStaticStreamWindowSize(smallWindow), grpc.WithStaticConnWindowSize(smallWindow))
	stream, err := testgrpc.NewTestServiceClient(conn).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if endFirst {
		_ = stream.CloseSend()
	}
	if n := stalled(t, &sent); n > stallBound {
		t.Errorf("%d bytes were taken for a client that does not read", n)
	}
	n := 0
	for {
		out, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		n += len(out.GetPayload().GetBody())
	}
	if n != stallTotal {
		t.Errorf("the client got %d bytes, want %d", n, stallTotal)
	}
}

// grpcConversation: one stream of thousands of messages, both ends as they are by default. These measure the way to set their windows:
// a ping is under way whenever content came.
func grpcConversation(t *testing.T, s *callee, dial func() (*grpc.ClientConn, error)) {
	t.Helper()
	const turns = 5000
	s.duplex = echoDuplex
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := testgrpc.NewTestServiceClient(conn).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say := &testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: make([]byte, 100)}}
	for i := range turns {
		if err := stream.Send(say); err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatalf("answer %d: %v", i, err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the end of the stream: %v", err)
	}
}
