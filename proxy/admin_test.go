package proxy_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/xds"
)

func TestAdminShowsEnvoysShapes(t *testing.T) {
	backend := server(t, func(w http.ResponseWriter, r *http.Request) {})
	down := cluster("web", backend, "127.0.0.9:1")
	down.Endpoints[1].Health = config.Unhealthy
	down.Endpoints[1].Locality = config.Locality{Region: "eu", Zone: "eu-1"}
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(down),
	}, func(o *proxy.Options) {
		o.ConfigDump = func() ([]byte, error) { return []byte(`{"configs":[]}`), nil }
		o.Node = "host-1"
		o.ControlPlane = func() []xds.Stat {
			return []xds.Stat{{Name: "control_plane.connected_state", Value: 1}, {Name: "cluster_manager.cds.update_success", Value: 7, Counter: true}}
		}
	})
	for range 3 {
		_, _, _ = p.get(http.DefaultClient, "web.mesh.internal", "/")
	}
	_, _, _ = p.get(http.DefaultClient, "nobody", "/")
	for _, c := range []struct {
		path string
		want []string
	}{
		{"/ready", []string{"LIVE\n"}},
		{"/listeners", []string{"outbound::" + p.addr.String() + "\n"}},
		{"/clusters", []string{
			"web::default_priority::max_connections::0\n", "web::" + backend + "::rq_total::3\n", "web::" + backend + "::rq_success::3\n",
			"web::" + backend + "::health_flags::healthy\n", "web::127.0.0.9:1::health_flags::/failed_eds_health\n",
			"web::127.0.0.9:1::zone::eu-1\n", "web::127.0.0.9:1::cx_total::0\n", "::weight::1\n", "::success_rate::-1\n",
		}},
		{"/config_dump", []string{`{"configs":[]}`}},
		{"/stats", []string{"cluster.web.upstream_rq_2xx: 3\n", "cluster.web.membership_healthy: ", "http.outbound.downstream_rq_total: 4\n", "http.outbound.no_route: 1\n", "server.live: 1\n", "control_plane.connected_state: 1\n", "cluster_manager.cds.update_success: 7\n"}},
		{"/stats?filter=cluster.web.upstream_rq_2xx", []string{"cluster.web.upstream_rq_2xx: 3\n"}},
		{"/stats/prometheus", []string{
			"# TYPE envoy_cluster_upstream_rq_total counter\nenvoy_cluster_upstream_rq_total{envoy_cluster_name=\"web\"} 3\n",
			"envoy_cluster_upstream_rq_xx{envoy_response_code_class=\"2\",envoy_cluster_name=\"web\"} 3\n",
			"envoy_http_downstream_rq_xx{envoy_response_code_class=\"4\",envoy_http_conn_manager_prefix=\"outbound\"} 1\n",
			"envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"web\",le=\"+Inf\"} 3\n", "envoy_cluster_upstream_rq_time_count{envoy_cluster_name=\"web\"} 3\n",
			"envoy_listener_downstream_cx_total{envoy_listener_address=\"127.0.0.1_", "envoy_server_live{} 1\n",
			"# TYPE envoy_control_plane_connected_state gauge\nenvoy_control_plane_connected_state{} 1\n",
			"# TYPE envoy_cluster_manager_cds_update_success counter\nenvoy_cluster_manager_cds_update_success{} 7\n",
		}},
		{"/server_info", []string{`"state": "LIVE"`, `"version": "test"`, `"id": "host-1"`, `"concurrency": 2`}},
		{"/help", []string{"/drain_listeners"}},
		{"/nonsense", []string{"invalid path"}},
	} {
		got := p.adminGet(c.path)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s has no %q:\n%.3000s", c.path, want, got)
			}
		}
	}
	line := regexp.MustCompile(`^(# TYPE envoy_[a-z0-9_]+ (counter|gauge|histogram)|envoy_[a-z0-9_]+\{([a-z_]+="[^"]*",?)*\} [0-9.e+-]+)$`)
	for text := range strings.Lines(p.adminGet("/stats/prometheus")) {
		if !line.MatchString(strings.TrimSuffix(text, "\n")) {
			t.Errorf("not the text format: %q", text)
		}
	}
	var statuses struct {
		Clusters []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"address"`
				Health struct {
					EDS string `json:"eds_health_status"`
				} `json:"health_status"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal([]byte(p.adminGet("/clusters?format=json")), &statuses); err != nil || len(statuses.Clusters) != 1 || len(statuses.Clusters[0].Hosts) != 2 || statuses.Clusters[0].Hosts[1].Health.EDS != "UNHEALTHY" {
		t.Errorf("%+v %v", statuses, err)
	}
	var listeners struct {
		All []struct {
			Name string `json:"name"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal([]byte(p.adminGet("/listeners?format=json")), &listeners); err != nil || len(listeners.All) != 1 || listeners.All[0].Name != "outbound" {
		t.Errorf("%+v %v", listeners, err)
	}
}

// TestCVEClass20_AdminIsReadOnlyAndLocal (class 20): no page of another site reads or changes anything, and TCP only shows.
func TestCVEClass20_AdminIsReadOnlyAndLocal(t *testing.T) {
	dir, err := os.MkdirTemp("", "admin") // a short path: a socket's has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(cluster("web")),
	}, func(o *proxy.Options) { o.AdminSocket = socket })
	for _, c := range []struct {
		method, host, path string
		status             int
	}{
		{"GET", "", "/ready", 200},
		{"GET", "localhost:15000", "/ready", 200},
		{"GET", "[::1]:15000", "/ready", 200},
		{"GET", "evil.example", "/ready", 403},
		{"GET", "127.0.0.1.evil.example", "/config_dump", 403},
		{"POST", "", "/drain_listeners", 405},
		{"POST", "", "/upgrade", 405},
		{"GET", "", "/upgrade", 405},
		{"GET", "", "/drain_listeners", 405},
		{"POST", "", "/ready", 405},
	} {
		req, _ := http.NewRequest(c.method, "http://"+p.AdminAddr()+c.path, nil)
		req.Host = c.host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s with Host %q: %d, want %d", c.method, c.path, c.host, resp.StatusCode, c.status)
		}
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v %v, want mode 0660", info, err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Post("http://admin/drain_listeners", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for range 200 {
		conn, err := net.Dial("tcp", p.addr.String())
		if err != nil {
			if ready := p.adminGet("/ready"); ready != "DRAINING\n" {
				t.Errorf("/ready says %q", ready)
			}
			return
		}
		conn.Close()
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the listeners are not closed")
}

func TestNewRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := watch.New(&config.Config{})
	for _, c := range []struct {
		name string
		opts proxy.Options
		want string
	}{
		{"no configuration", proxy.Options{}, "no configuration"},
		{"admin for everybody", proxy.Options{Config: cfg, Admin: "0.0.0.0:0"}, "not a loopback address"},
		{"admin address taken", proxy.Options{Config: cfg, Admin: taken.Addr().String()}, "address already in use"},
		{"admin address nonsense", proxy.Options{Config: cfg, Admin: "here"}, "listen for admin"},
	} {
		if _, err := proxy.New(c.opts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestReadinessWaits(t *testing.T) {
	ready := watch.New("waiting for routes")
	p := start(t, &config.Config{}, func(o *proxy.Options) {
		o.Config.Set(nil)
		o.Ready = func() (bool, string) { why := ready.Load(); return why == "", why }
	})
	wait := func(want string) {
		t.Helper()
		got := ""
		for range 200 {
			if got = p.adminGet("/ready"); got == want {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Errorf("/ready says %q, want %q", got, want)
	}
	wait("INITIALIZING: no configuration yet\n")
	p.config.Set(&config.Config{})
	wait("INITIALIZING: waiting for routes\n")
	ready.Set("")
	wait("LIVE\n")
}

func TestAccessLogGoesToFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.AccessLogs = []config.AccessLog{{Path: path}}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", server(t, func(w http.ResponseWriter, r *http.Request) {})))},
		func(o *proxy.Options) { o.AccessLog = nil })
	for range 500 {
		_, _, _ = p.get(http.DefaultClient, "web.mesh.internal", "/")
	}
	deadline := time.Now().Add(5 * time.Second)
	for { // a second after the last request at the latest
		data, err := os.ReadFile(path)
		if err == nil && bytes.Count(data, []byte("\n")) == 500 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d lines, %v", bytes.Count(data, []byte("\n")), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
