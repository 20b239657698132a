package xds_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/xds"
)

// greeter answers every call, as a backend of the mesh.
type greeter struct {
	testgrpc.UnimplementedTestServiceServer
}

func (greeter) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	return &testgrpc.Empty{}, nil
}

// backend starts a gRPC server and returns its address.
func backend(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, greeter{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// A stock gRPC client that knows nothing but the name reaches the service, balances over its endpoints and follows a
// change.
func TestStockGRPCClient(t *testing.T) {
	m := newMesh(t)
	first, second, third := backend(t), backend(t), backend(t)
	m.set("web", first, second)
	m.publish()
	bootstrap := fmt.Sprintf(`{
		"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "app"}}`, m.target)
	builder, err := xds.NewXDSResolverWithConfigForTesting([]byte(bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"web.mesh.internal", "web.mesh.internal:80", "web.default.mesh.internal"} {
		t.Run(target, func(t *testing.T) {
			callAll(t, builder, target, first, second)
		})
	}
	m.set("web", third)
	m.publish()
	callAll(t, builder, "web.mesh.internal", third)

	for _, c := range m.server.Clients() {
		if c.Kind != "grpc" {
			t.Errorf("client %+v, want it known as gRPC", c)
		}
		for _, typ := range c.Types {
			if typ.Nack != nil {
				t.Errorf("%s refused: %s", typ.Type, typ.Nack.Reason)
			}
		}
	}
}

// callAll calls until the last calls have reached exactly the backends that are wanted.
func callAll(t *testing.T, builder resolver.Builder, target string, want ...string) {
	t.Helper()
	conn, err := grpc.NewClient("xds:///"+target, grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	client := testgrpc.NewTestServiceClient(conn)
	slices.Sort(want)
	var window []string
	for {
		var p peer.Peer
		if _, err := client.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Peer(&p), grpc.WaitForReady(true)); err != nil {
			t.Fatalf("call %s: %v; the last calls went to %v, want %v", target, err, window, want)
		}
		if window = append(window, p.Addr.String()); len(window) < 20 {
			continue
		}
		window = window[len(window)-20:]
		if got := slices.Compact(slices.Sorted(slices.Values(window))); slices.Equal(got, want) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// A client that does not read makes nobody wait, however much it is owed.
func TestAClientThatDoesNotReadHoldsNobodyBack(t *testing.T) {
	m := newMesh(t)
	for i := range 2000 { // far more than the stream's window takes
		m.set(fmt.Sprintf("s%04d", i), "10.0.0.1:80")
	}
	m.set("web", "10.0.0.1:80")
	m.publish()
	stuck := m.delta(proxy())
	stuck.subscribe(cds, "*")
	stuck.subscribe(eds, cluster("web"))
	until(t, func() bool {
		c := m.server.Clients()
		return len(c) == 1 && len(c[0].Types) == 2 && c[0].Types[0].Sent > 0
	})

	c := m.delta(proxy())
	c.subscribe(eds, cluster("web"))
	c.want(eds, cluster("web"))
	for i := range 50 {
		m.set("web", fmt.Sprintf("10.0.1.%d:80", i))
		number := m.publish()
		if r := c.want(eds, cluster("web")); r.SystemVersionInfo != number {
			t.Fatalf("change %s arrived as %s", number, r.SystemVersionInfo)
		}
	}
	// Now it reads: what was under way when it stopped, then the latest, nothing between.
	var clusters, updates int
	for latest := false; !latest; {
		r := stuck.receive()
		switch r.TypeUrl {
		case cds:
			clusters += len(r.Resources)
		case eds:
			updates++
			latest = r.SystemVersionInfo == fmt.Sprint(m.number)
		}
	}
	if updates > 2 {
		t.Errorf("%d responses for 50 changes, want the one that was under way and the latest", updates)
	}
	if clusters != 2001 {
		t.Errorf("%d clusters, want 2001", clusters)
	}
	stuck.quiet()
}
