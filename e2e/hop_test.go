package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// hopKind is the program that a hop runs. What a suite finds in a stock Envoy it may find in mesh-proxy too: a suite that a stock
// Envoy passes is right itself.
type hopKind string

const (
	meshProxy  hopKind = "mesh-proxy"
	stockEnvoy hopKind = "envoy"
)

// hop is a proxy with one HTTP listener that leads to one cluster.
type hop struct {
	*process
	kind        hopKind
	addr, admin string
}

// hopSpec is what a hop is told. The listener takes HTTP/1 and HTTP/2 (prior knowledge, or by ALPN), websocket as an upgrade and
// by extended CONNECT.
type hopSpec struct {
	to      []string       // addresses of the back ends
	http2   bool           // speak HTTP/2 to them
	toTLS   *testbed.Certs // over TLS: verify them as localhost, and show the client's certificate
	tls     *testbed.Certs // the listener speaks TLS and shows the server's certificate
	demand  bool           // and demands a certificate of the client
	hcm     string         // more fields of the HttpConnectionManager, a line each
	route   string         // more fields of the route's action: ", timeout: 1s"
	cluster string         // more fields of the cluster: ", connect_timeout: 1s"

	upstreamOptions string // more of http2_protocol_options: "name: 1, "
}

const hopBootstrap = `node: {id: hop, cluster: test}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %[1]d}}}
static_resources:
  listeners:
    - name: in
      address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}
      filter_chains:
        - filters:
            - name: hcm
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: in
                use_remote_address: true
                upgrade_configs: [{upgrade_type: websocket}]
%[3]s                route_config:
                  name: r
                  virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: back%[4]s}}]}]
                http_filters:
                  - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
%[5]s  clusters:
    - {name: back%[6]s%[7]s, load_assignment: {cluster_name: back, endpoints: [{lb_endpoints: [%[8]s]}]}}
`

const (
	downstreamTLS = `          transport_socket_connect_timeout: 1s
          transport_socket:
            name: tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: %v
              common_tls_context:
                alpn_protocols: [h2, http/1.1]
                tls_certificates: [{certificate_chain: {filename: %q}, private_key: {filename: %q}}]
                validation_context: {trusted_ca: {filename: %q}}
`
	upstreamTLS = `, transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: localhost,
      common_tls_context: {alpn_protocols: [%s], tls_certificates: [{certificate_chain: {filename: %q}, private_key: {filename: %q}}],
      validation_context: {trusted_ca: {filename: %q}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: localhost}}]}}}}`
	upstreamHTTP2 = `, typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {
      "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {%sallow_connect: true}}}}`
	extendedConnect = "http2_protocol_options: {allow_connect: true}\n"
)

// bootstrap writes the hop's file.
func (s hopSpec) bootstrap(admin, port int) string {
	transport, upstream, alpn := "", s.cluster, "http/1.1"
	if s.http2 {
		upstream += fmt.Sprintf(upstreamHTTP2, s.upstreamOptions)
		alpn = "h2"
	}
	if s.tls != nil {
		transport = fmt.Sprintf(downstreamTLS, s.demand, s.tls.ServerCertFile, s.tls.ServerKeyFile, s.tls.CAFile)
	}
	toTLS := ""
	if s.toTLS != nil {
		toTLS = fmt.Sprintf(upstreamTLS, alpn, s.toTLS.ClientCertFile, s.toTLS.ClientKeyFile, s.toTLS.CAFile)
	}
	var hosts []string
	for _, addr := range s.to {
		host, port, _ := net.SplitHostPort(addr)
		hosts = append(hosts, fmt.Sprintf("{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}", host, port))
	}
	var lines strings.Builder
	for line := range strings.Lines(s.hcm) {
		lines.WriteString("                " + strings.TrimSpace(line) + "\n")
	}
	return fmt.Sprintf(hopBootstrap, admin, port, lines.String(), s.route, transport, upstream, toTLS, strings.Join(hosts, ", "))
}

// likeMeshProxy has an Envoy keep as little of each stream as mesh-proxy does, where its own windows are of 16 MiB, and wait less with
// the end of a connection on which it has refused something.
func likeMeshProxy(s hopSpec) hopSpec {
	const options, windows = "http2_protocol_options: {", "initial_stream_window_size: 65536, initial_connection_window_size: 65536"
	if !strings.Contains(s.hcm, options) {
		s.hcm += options + "}\n"
	}
	s.hcm = strings.Replace(strings.Replace(s.hcm, options, options+windows+", ", 1), ", }", "}", 1)
	s.upstreamOptions = windows + ", "
	s.hcm += "delayed_close_timeout: 0.2s\n"
	return s
}

// startHop runs a hop until the test ends.
func startHop(t testing.TB, kind hopKind, spec hopSpec) hop {
	t.Helper()
	admin, port := testbed.FreePort(t), testbed.FreePort(t)
	file := filepath.Join(shortDir(t), "hop.yaml")
	writeFile(t, file, spec.bootstrap(admin, port))
	var argv []string
	switch kind {
	case meshProxy:
		argv = []string{bin(t, "mesh-proxy"), "-c", file}
	case stockEnvoy:
		writeFile(t, file, likeMeshProxy(spec).bootstrap(admin, port))
		argv = []string{envoyBinary(t), "-c", file, "--use-dynamic-base-id", "-l", "error", "--concurrency", "2"}
	}
	h := hop{kind: kind, addr: fmt.Sprintf("127.0.0.1:%d", port), admin: fmt.Sprintf("127.0.0.1:%d", admin)}
	h.process = start(t, string(kind), argv...)
	h.await(t)
	return h
}

// await waits until the hop listens.
func (h hop) await(t testing.TB) {
	t.Helper()
	eventually(t, 30*time.Second, string(h.kind)+" listens", func() error {
		if !h.running() {
			t.Fatalf("%s ended: %s", h.kind, tail(h.text(), 2000))
		}
		text, err := fetch(h.admin, "", "/listeners")
		if err == nil && !strings.Contains(text, h.addr+"\n") {
			err = fmt.Errorf("listeners %q", text)
		}
		if err == nil {
			_, err = fetch(h.admin, "", "/ready")
		}
		return err
	})
}

// stats returns the sum of the figures whose whole name the pattern matches.
func (h hop) stats(t testing.TB, pattern string) (sum uint64) {
	t.Helper()
	text, err := fetch(h.admin, "", "/stats")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile("^(?:" + pattern + ")$")
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil && name.MatchString(key) {
			sum += n
		}
	}
	return sum
}

// eventuallyStat waits until the sum of figures is as wanted.
func (h hop) eventuallyStat(t testing.TB, pattern string, want func(uint64) bool) {
	t.Helper()
	eventually(t, 20*time.Second, pattern, func() error {
		if n := h.stats(t, pattern); !want(n) {
			return fmt.Errorf("it is %d", n)
		}
		return nil
	})
}

// resident returns the hop's resident memory in bytes.
func (h hop) resident(t testing.TB) uint64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB`).FindSubmatch(data)
	if found == nil {
		t.Fatal("no VmRSS in /proc/PID/status")
	}
	kb, _ := strconv.ParseUint(string(found[1]), 10, 64)
	return kb << 10
}
