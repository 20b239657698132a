package controlplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// given is a registry that publishes one view when it is told to.
type given struct{ views chan registry.View }

func (g given) Watch(ctx context.Context, publish func(registry.View)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case v := <-g.views:
			publish(v)
		}
	}
}

func web(health registry.Health) registry.View {
	return registry.View{Services: []*registry.Service{{
		Name:  registry.Name{Namespace: "default", Name: "web"},
		Ports: []registry.Port{{Name: "http", Number: 80, Protocol: registry.HTTP}},
		Endpoints: []*registry.Endpoint{{
			ID: "one", Addr: netip.MustParseAddr("192.0.2.1"), Ports: []registry.EndpointPort{{Name: "http", Number: 8080}}, Weight: 1, Health: health,
		}},
	}}}
}

type running struct {
	registry given
	api      string
}

func start(t testing.TB, options controlplane.Options) running {
	t.Helper()
	r := running{registry: given{make(chan registry.View)}, api: freeAddr(t)}
	catalog, err := registry.NewCatalog([]registry.Source{{Name: "dc1", Kind: "given", Registry: r.registry}}, registry.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	options.Domain, options.Catalog, options.Log, options.HTTP = "mesh.internal", catalog, slog.New(slog.DiscardHandler), r.api
	server, err := controlplane.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- catalog.Run(ctx) }()
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		}
	})
	return r
}

func freeAddr(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", testbed.FreePort(t))
}

func get(t *testing.T, addr, path string, header http.Header) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	req.Host = header.Get("Host")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !check(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 20 s: " + what)
		}
	}
}

func TestReadyOnlyWhenTheRegistryHasSpoken(t *testing.T) {
	r := start(t, controlplane.Options{})
	if status, body := get(t, r.api, "/readyz", nil); status != http.StatusServiceUnavailable || !strings.Contains(body, "dc1") {
		t.Errorf("before the first view: %d %q, want 503 naming dc1", status, body)
	}
	if status, _ := get(t, r.api, "/healthz", nil); status != http.StatusOK {
		t.Errorf("/healthz: %d, want 200", status)
	}
	r.registry.views <- web(registry.Healthy)
	eventually(t, "ready", func() bool { status, _ := get(t, r.api, "/readyz", nil); return status == http.StatusOK })
}

func TestAPIShowsServicesEndpointsRegistriesAndMetrics(t *testing.T) {
	r := start(t, controlplane.Options{})
	r.registry.views <- web(registry.Unhealthy)
	var services controlplane.Services
	eventually(t, "web is there", func() bool {
		_, body := get(t, r.api, "/api/v1/services", nil)
		return json.Unmarshal([]byte(body), &services) == nil && len(services.Services) == 1
	})
	if s := services.Services[0]; s.Host != "web.default.mesh.internal" || s.Endpoints != 1 || s.Serving != 0 || s.Sources[0] != "dc1" {
		t.Errorf("service %+v", s)
	}
	for _, name := range []string{"web", "default/web", "web.default", "web.mesh.internal", "WEB.default.mesh.internal."} {
		status, body := get(t, r.api, "/api/v1/endpoints?service="+name, nil)
		if status != http.StatusOK || !strings.Contains(body, `"health": "unhealthy"`) || !strings.Contains(body, `"dc1"`) {
			t.Errorf("endpoints of %s: %d %s", name, status, body)
		}
	}
	if status, body := get(t, r.api, "/api/v1/endpoints?service=wbe", nil); status != http.StatusNotFound || !strings.Contains(body, "no service default/wbe") {
		t.Errorf("endpoints of an unknown service: %d %s", status, body)
	}
	if _, body := get(t, r.api, "/api/v1/registries", nil); !strings.Contains(body, `"state": "synced"`) {
		t.Errorf("registries: %s", body)
	}
	if _, body := get(t, r.api, "/api/v1/proxies", nil); !strings.Contains(body, `"proxies": []`) {
		t.Errorf("proxies: %s, want an empty list", body)
	}
	_, metrics := get(t, r.api, "/metrics", nil)
	for _, want := range []string{
		"hostmesh_snapshot_number " + strconv.FormatFloat(float64(services.Number), 'g', -1, 64),
		`hostmesh_endpoints{health="unhealthy"} 1`, `hostmesh_registry_up{kind="given",registry="dc1"} 1`,
		`hostmesh_registry_state{kind="given",registry="dc1",state="synced"} 1`, "process_resident_memory_bytes",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

// A page in a browser can make it send requests here: DNS rebinding (a foreign Host) and cross-origin requests.
func TestCVEClass20_APIRefusesForeignHostsAndOrigins(t *testing.T) {
	r := start(t, controlplane.Options{})
	_, port, _ := net.SplitHostPort(r.api)
	for _, c := range []struct {
		name   string
		header http.Header
		want   int
	}{
		{"its address", http.Header{"Host": {r.api}}, http.StatusOK},
		{"localhost", http.Header{"Host": {"localhost:" + port}}, http.StatusOK},
		{"another loopback address", http.Header{"Host": {"[::1]:" + port}}, http.StatusOK},
		{"its own origin", http.Header{"Host": {r.api}, "Origin": {"http://" + r.api}}, http.StatusOK},
		{"a rebound name", http.Header{"Host": {"evil.example:" + port}}, http.StatusForbidden},
		{"without a port", http.Header{"Host": {"127.0.0.1"}}, http.StatusForbidden},
		{"a foreign origin", http.Header{"Host": {r.api}, "Origin": {"http://evil.example"}}, http.StatusForbidden},
		{"origin null", http.Header{"Host": {r.api}, "Origin": {"null"}}, http.StatusForbidden},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, path := range []string{"/healthz", "/api/v1/services", "/metrics"} {
				if status, body := get(t, r.api, path, c.header); status != c.want {
					t.Errorf("%s: %d %s, want %d", path, status, body, c.want)
				}
			}
		})
	}
}

func TestNewRefusesAddresses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	socket := filepath.Join(dir, "taken.sock")
	unix, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	for _, c := range []struct {
		name    string
		options controlplane.Options
		want    string
	}{
		{"xDS to the world", controlplane.Options{XDS: []string{"0.0.0.0:0"}}, "want unix:/PATH or a loopback address"},
		{"xDS without a port", controlplane.Options{XDS: []string{"127.0.0.1"}}, "want unix:/PATH or a loopback address"},
		{"API to the world", controlplane.Options{HTTP: ":0"}, "want a loopback address"},
		{"xDS port taken", controlplane.Options{XDS: []string{taken.Addr().String()}}, "address already in use"},
		{"xDS socket taken", controlplane.Options{XDS: []string{"unix:" + socket}}, "in use by another process"},
		{"DNS port taken", controlplane.Options{DNS: controlplane.DNS{Listen: []string{taken.Addr().String()}}}, "listen for DNS"},
	} {
		t.Run(c.name, func(t *testing.T) {
			catalog, err := registry.NewCatalog(nil, registry.Options{})
			if err != nil {
				t.Fatal(err)
			}
			c.options.Domain, c.options.Catalog, c.options.Log = "mesh.internal", catalog, slog.New(slog.DiscardHandler)
			if _, err := controlplane.New(c.options); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New: %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestASocketLeftByAKilledServerIsReplaced(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "xds.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	start(t, controlplane.Options{XDS: []string{"unix:" + socket}})
	info, err := os.Stat(socket)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v, want mode 0660", info, err)
	}
}
