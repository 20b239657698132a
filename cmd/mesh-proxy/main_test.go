package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

const patience = 15 * time.Second

// program builds mesh-proxy as an operator has it.
func program(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mesh-proxy")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return file
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const staticBootstrap = `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {name: local, virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: back}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: back
    load_assignment: {cluster_name: back, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

// TestEnvoyBootstrapServesAndDrains: the program takes an Envoy's file by Envoy's flag, serves it, and ends on SIGTERM
// without losing the request that is under way.
func TestEnvoyBootstrapServesAndDrains(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(arrived)
			<-answer
		}
		fmt.Fprint(w, "hello")
	}))
	defer backend.Close()
	admin, in := testbed.FreePort(t), testbed.FreePort(t)
	file := write(t, "envoy.yaml", fmt.Sprintf(staticBootstrap, admin, in, backend.Listener.Addr().(*net.TCPAddr).Port))

	var logged bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program(t), "-c", file, "--log-format", "json")
	cmd.Stderr = &logged
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	get := func(port int, path string) (string, error) {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body))), err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if got, err := get(in, "/"); err == nil && got == "200 hello" {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("got %q, %v from the proxy", got, err)
		}
	}
	if got, err := get(admin, "/ready"); got != "200 LIVE" {
		t.Errorf("/ready: got %q, %v", got, err)
	}
	if got, err := get(admin, "/config_dump"); err != nil || !strings.Contains(got, `"static_clusters"`) || !strings.Contains(got, `"name": "back"`) {
		t.Errorf("/config_dump: got %q, %v", got, err)
	}
	if got, err := get(admin, "/stats"); err != nil || !strings.Contains(got, "control_plane.connected_state: 0\n") || !strings.Contains(got, "listener_manager.lds.update_rejected: 0\n") {
		t.Errorf("/stats: got %q, %v", got, err)
	}

	slow := make(chan string, 1)
	go func() {
		got, err := get(in, "/slow")
		slow <- fmt.Sprint(got, err)
	}()
	<-arrived
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) { // until nobody new is taken
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", in))
		if err != nil {
			break
		}
		_ = c.Close()
		if time.Now().After(deadline) {
			t.Fatal("the listener stays open after SIGTERM")
		}
	}
	close(answer)
	if got := <-slow; got != "200 hello<nil>" {
		t.Errorf("the request under way: got %s", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("exit: %v\n%s", err, logged.String())
	}
	for line := range strings.SplitSeq(strings.TrimSpace(logged.String()), "\n") {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("got log line %q, want JSON", line)
		}
	}
}

func TestCommandLine(t *testing.T) {
	good := write(t, "proxy.yaml", "node: {id: a}\n")
	bad := write(t, "bad.yaml", "nope: 1\ncontrol: 10.0.0.1:15010\nloops: x\n")
	badBootstrap := write(t, "envoy.yaml", "node: {id: a}\nlayered_runtime: {layers: [{name: a, admin_layer: {}}]}\ncluster_manager: {}\n")
	for _, c := range []struct {
		name       string
		args       []string
		code       int
		out, error []string
	}{
		{"version", []string{"--version"}, 0, []string{"mesh-proxy devel (go"}, nil},
		{"check of a good file", []string{"--config", good, "--check"}, 0, nil, nil},
		{"all mistakes of proxy.yaml", []string{"--config", bad}, 1, nil, []string{bad + ":1: nope: got", bad + ":3: loops: got"}},
		{"all mistakes of a bootstrap", []string{"-c", badBootstrap}, 1, nil, []string{badBootstrap + ":2: layered_runtime.layers[0].admin_layer: got", badBootstrap + ":3: cluster_manager: got"}},
		{"no file", []string{"--config", "/nowhere/proxy.yaml"}, 1, nil, []string{"/nowhere/proxy.yaml: no such file"}},
		{"argument", []string{"--config", good, "serve"}, 2, nil, []string{`got argument "serve", want flags only`}},
		{"log format", []string{"--log-format", "xml"}, 2, nil, []string{`got "xml", want text or json`}},
		{"drain time", []string{"--drain-time", "0s"}, 2, nil, []string{"--drain-time: got 0s, want more than 0s"}},
		{"flag", []string{"--nope"}, 2, nil, []string{"flag provided but not defined: -nope"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			if code := run(c.args, &out, &stderr); code != c.code {
				t.Errorf("got exit status %d, want %d", code, c.code)
			}
			for _, want := range c.out {
				if !strings.Contains(out.String(), want) {
					t.Errorf("got output %q, want %q", out.String(), want)
				}
			}
			for _, want := range c.error {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("got errors %q, want %q", stderr.String(), want)
				}
			}
			if len(c.error) == 0 && stderr.Len() > 0 {
				t.Errorf("got errors %q, want none", stderr.String())
			}
		})
	}
}
