package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/xds"
)

// interopServer is gRPC's own interoperability server; every answer carries which instance gave it.
func interopServer(t testing.TB, id string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	sayWho := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := grpc.SetHeader(ctx, metadata.Pairs("instance", id)); err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(sayWho))
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().(*net.TCPAddr).Port
}

func grpcServiceFile(ports ...int) string {
	text := "service: web\nports: [{name: grpc, port: 80, protocol: grpc}]\nendpoints:\n"
	for _, port := range ports {
		text += fmt.Sprintf("  - {address: 127.0.0.1, port: %d}\n", port)
	}
	return text
}

func TestGRPCStockXDSClientBalancesAndFollows(t *testing.T) {
	static := shortDir(t)
	p := newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	first, second, third := interopServer(t, "first"), interopServer(t, "second"), interopServer(t, "third")
	writeFile(t, filepath.Join(static, "web.yaml"), grpcServiceFile(first, second))
	p.startControl(t)
	eventually(t, 20*time.Second, "the control plane is ready", func() error { _, err := fetch(p.api, "", "/readyz"); return err })

	bootstrap := fmt.Sprintf(`{"xds_servers": [{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}],
		"node": {"id": "grpc-client"}}`, p.xds)
	resolver, err := xds.NewXDSResolverWithConfigForTesting([]byte(bootstrap))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///web.mesh.internal", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithResolvers(resolver))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()

	// The unary and streaming cases of gRPC's interoperability suite; each ends the test if it fails.
	interop.DoEmptyUnaryCall(ctx, client, grpc.WaitForReady(true))
	interop.DoLargeUnaryCall(ctx, client)
	interop.DoClientStreaming(ctx, client)
	interop.DoServerStreaming(ctx, client)
	interop.DoPingPong(ctx, client)
	interop.DoEmptyStream(ctx, client)

	seen := func() map[string]int {
		counts := map[string]int{}
		for range 60 {
			var header metadata.MD
			if _, err := client.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Header(&header)); err != nil {
				t.Fatalf("call: %v", err)
			}
			counts[header.Get("instance")[0]]++
		}
		return counts
	}
	if counts := seen(); counts["first"] < 20 || counts["second"] < 20 || counts["third"] != 0 {
		t.Errorf("calls by instance %v, want first and second in equal shares", counts)
	}
	writeFile(t, filepath.Join(static, "web.yaml"), grpcServiceFile(second, third))
	eventually(t, 20*time.Second, "the client follows the change", func() error {
		if counts := seen(); counts["first"] != 0 || counts["third"] == 0 {
			return fmt.Errorf("calls by instance %v", counts)
		}
		return nil
	})
	if err := os.Remove(filepath.Join(static, "web.yaml")); err != nil {
		t.Fatal(err)
	}
}

// TestGRPCServiceThroughMeshProxy: a service that declares gRPC is called through the host's proxy, by name, with calls of every
// kind; calls are balanced one by one though they come over one connection, and follow a change.
func TestGRPCServiceThroughMeshProxy(t *testing.T) {
	static := shortDir(t)
	p := newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	first, second := interopServer(t, "first"), interopServer(t, "second")
	writeFile(t, filepath.Join(static, "web.yaml"), grpcServiceFile(first, second))
	p.startPair(t)

	conn, err := grpc.NewClient(p.outbound, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("web.mesh.internal"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	seen := func() (map[string]int, error) {
		counts := map[string]int{}
		for range 60 {
			var header metadata.MD
			if _, err := client.EmptyCall(ctx, &testgrpc.Empty{}, grpc.Header(&header)); err != nil {
				return counts, err
			}
			counts[header.Get("instance")[0]]++
		}
		return counts, nil
	}
	eventually(t, 20*time.Second, "both are called in equal shares", func() error {
		if counts, err := seen(); err != nil || counts["first"] < 20 || counts["second"] < 20 {
			return fmt.Errorf("calls by instance %v, %w", counts, err)
		}
		return nil
	})
	interop.DoLargeUnaryCall(ctx, client)
	interop.DoClientStreaming(ctx, client)
	interop.DoServerStreaming(ctx, client)
	interop.DoPingPong(ctx, client)
	writeFile(t, filepath.Join(static, "web.yaml"), grpcServiceFile(second))
	eventually(t, 20*time.Second, "the proxy follows the change", func() error {
		if counts, err := seen(); err != nil || counts["first"] != 0 {
			return fmt.Errorf("calls by instance %v, %w", counts, err)
		}
		return nil
	})
}
