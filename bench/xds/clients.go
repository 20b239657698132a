package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/hostmesh/hostmesh/controlplane/compile"
)

// runClients connects all clients, prints how long it took until the last had everything, and from then on, whenever
// each has answered one more change, the time of the last answer.
func runClients(o options, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tasks, ctx := errgroup.WithContext(ctx)
	crowd := &crowd{options: o, synced: make(chan struct{}), answered: make(chan int64, 1)}
	start := time.Now()
	for i := range o.clients {
		tasks.Go(func() error { return crowd.client(ctx, i) })
	}
	tasks.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-crowd.synced:
		}
		fmt.Fprintln(out, time.Since(start).Nanoseconds())
		for {
			select {
			case <-ctx.Done():
				return nil
			case at := <-crowd.answered:
				fmt.Fprintln(out, at)
			}
		}
	})
	_, err := io.Copy(io.Discard, in) // until the benchmark ends
	cancel()
	return errors.Join(err, tasks.Wait())
}

// crowd is all clients together.
type crowd struct {
	options
	have     atomic.Int64 // clients that are synced
	synced   chan struct{}
	answers  atomic.Int64 // changes acknowledged, of all clients
	answered chan int64
}

// head is what a client reads of a response: it does not decode the resources, so that the machine is the servers'.
type head struct {
	typeURL, nonce string
	resources      int
}

// rawCodec reads heads and leaves the rest to gRPC's codec.
type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	h, ok := v.(*head)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return h.read(buf.ReadOnlyData())
}

// read takes the fields of a DeltaDiscoveryResponse.
func (h *head) read(b []byte) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.BytesType {
			return errors.New("read response: not what was expected")
		}
		value, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return fmt.Errorf("read response: %w", protowire.ParseError(m))
		}
		switch number {
		case 2:
			h.resources++
		case 4:
			h.typeURL = string(value)
		case 5:
			h.nonce = string(value)
		}
		b = b[n+m:]
	}
	return nil
}

// client is one proxy: a connection, a stream, everything subscribed, every response acknowledged.
func (c *crowd) client(ctx context.Context, i int) error {
	conn, err := grpc.NewClient(c.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.ForceCodecV2(rawCodec{encoding.GetCodecV2("proto")})))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.WaitForReady(true))
	if err != nil {
		return c.ended(ctx, err)
	}
	names := make([]string, c.services)
	for j := range names {
		names[j] = "outbound|80||" + serviceName(j).Name + ".default." + compile.DefaultDomain
	}
	missing := map[string]int{
		compile.Cluster.URL(): c.services, compile.Endpoint.URL(): c.services, compile.Listener.URL(): 1, compile.Route.URL(): 1,
	}
	for _, req := range []*discovery.DeltaDiscoveryRequest{
		{Node: &corev3.Node{Id: fmt.Sprintf("host-%d", i), UserAgentName: "bench"}, TypeUrl: compile.Cluster.URL(), ResourceNamesSubscribe: []string{"*"}},
		{TypeUrl: compile.Endpoint.URL(), ResourceNamesSubscribe: names},
		{TypeUrl: compile.Listener.URL(), ResourceNamesSubscribe: []string{"*"}},
		{TypeUrl: compile.Route.URL(), ResourceNamesSubscribe: []string{"outbound"}},
	} {
		if err := stream.Send(req); err != nil {
			return c.ended(ctx, err)
		}
	}
	for {
		var h head
		if err := stream.RecvMsg(&h); err != nil {
			return c.ended(ctx, err)
		}
		if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: h.typeURL, ResponseNonce: h.nonce}); err != nil {
			return c.ended(ctx, err)
		}
		c.count(missing, h)
	}
}

// count notes what came: first everything once, then changes.
func (c *crowd) count(missing map[string]int, h head) {
	if len(missing) == 0 {
		if c.answers.Add(1)%int64(c.clients) == 0 {
			c.answered <- time.Now().UnixNano()
		}
		return
	}
	if missing[h.typeURL] -= h.resources; missing[h.typeURL] <= 0 {
		delete(missing, h.typeURL)
	}
	if len(missing) == 0 && c.have.Add(1) == int64(c.clients) {
		close(c.synced)
	}
}

// ended tells the end of the benchmark from a failure.
func (c *crowd) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("xDS stream: %w", err)
}
