package proxy_test

import (
	"net"
	"testing"

	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestGRPCHealthTakesHostsOutAndBack: what a server of gRPC says of itself, and that it is gone, counts.
func TestGRPCHealthTakesHostsOutAndBack(t *testing.T) {
	serve := func() (string, *grpchealth.Server, *grpc.Server) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		service, s := grpchealth.NewServer(), grpc.NewServer()
		healthpb.RegisterHealthServer(s, service)
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		return l.Addr().String(), service, s
	}
	first, service, _ := serve()
	second, _, server := serve()
	service.SetServingStatus("api", healthpb.HealthCheckResponse_SERVING)
	c := cluster("web", first, second)
	c.HealthCheck = readiness()
	c.HealthCheck.HTTP, c.HealthCheck.GRPC = nil, &config.GRPCCheck{Service: "api"}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, nil)
	p.waitFlags(first, "healthy")
	p.waitFlags(second, "/failed_active_hc") // it knows no such service
	service.SetServingStatus("api", healthpb.HealthCheckResponse_NOT_SERVING)
	p.waitFlags(first, "/failed_active_hc")
	service.SetServingStatus("api", healthpb.HealthCheckResponse_SERVING)
	p.waitFlags(first, "healthy")
	server.Stop()
	p.waitFlags(second, "/failed_active_hc")
	if n := p.stat("cluster.web.health_check.healthy"); n != "1" {
		t.Errorf("health_check.healthy is %s", n)
	}
}
