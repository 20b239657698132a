package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

const (
	edgeListener = `
    - name: %[1]s
      address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}
      filter_chains:
        - filters:
            - name: hcm
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: %[1]s
                %[3]s
                access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %[4]q, log_format: {text_format_source: {
                  inline_string: "%%REQ(:PATH)%% %%RESPONSE_CODE%% %%RESPONSE_FLAGS%% %%GRPC_STATUS%% %%GRPC_STATUS(SNAKE_STRING)%% %%GRPC_STATUS_NUMBER%% %%TRAILER(X-T)%% %%BYTES_SENT%%\n"}}}}]
                route_config:
                  name: r
                  virtual_hosts: [{name: v, domains: ["*"], routes: [
                    {match: {prefix: /one}, route: {cluster: one}}, {match: {prefix: /two}, route: {cluster: two}}, {match: {prefix: /dead}, route: {cluster: dead}},
                    {match: {prefix: /slow}, route: {cluster: two, timeout: 0.1s}}, {match: {prefix: /long}, route: {cluster: two, max_stream_duration: {max_stream_duration: 0.1s}}},
                    {match: {prefix: /direct}, direct_response: {status: 403, body: {inline_string: "no %%/ü"}}}]}]
                http_filters:
                  - {name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true}}`
	edgeCluster = `{name: %s, load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}%s}`
)

// edgeHost is a host that answers with what it was told of the client, or ends calls as their paths say.
func edgeHost(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/trailers"):
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, X-T")
		_, _ = io.WriteString(w, "some")
		_ = http.NewResponseController(w).Flush()
		w.Header().Set("Grpc-Status", "1")
		w.Header().Set("X-T", "told")
	case strings.HasSuffix(r.URL.Path, "/head"):
		w.Header().Set("Grpc-Status", "13")
	case strings.HasSuffix(r.URL.Path, "/own"):
		w.Header().Set("Grpc-Status", "77")
	case strings.HasSuffix(r.URL.Path, "/reset"):
		panic(http.ErrAbortHandler)
	case strings.HasSuffix(r.URL.Path, "/wait"):
		<-r.Context().Done()
	default:
		told := []string{r.Method}
		for name, values := range r.Header {
			switch name = strings.ToLower(name); name {
			case "x-forwarded-for", "content-length": // for loopback Envoy tells its own address; and it adds a length of 0
			default:
				told = append(told, fmt.Sprint(name, ": ", values))
			}
		}
		slices.Sort(told)
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s\n%q", strings.Join(told, "\n"), body)
	}
}

// startEdges runs both proxies with the same listeners, by their names, and returns the addresses.
func startEdges(t *testing.T, listeners map[string]string) (addrs map[string]map[string]string, logs map[string]string) {
	t.Helper()
	dir := shortDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(edgeHost), Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	clusters := strings.Join([]string{
		fmt.Sprintf(edgeCluster, "one", port, ""), fmt.Sprintf(edgeCluster, "two", port, fmt.Sprintf(upstreamHTTP2, "")),
		fmt.Sprintf(edgeCluster, "dead", fmt.Sprint(testbed.FreePort(t)), ""),
	}, ", ")
	addrs, logs = map[string]map[string]string{}, map[string]string{}
	for kind, argv := range map[string][]string{
		"envoy":      {envoyBinary(t), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning", "--file-flush-interval-msec", "50"},
		"mesh-proxy": {bin(t, "mesh-proxy")},
	} {
		addrs[kind], logs[kind] = map[string]string{}, filepath.Join(dir, kind+".log")
		var all strings.Builder
		for name, fields := range listeners {
			port := testbed.FreePort(t)
			addrs[kind][name] = fmt.Sprintf("127.0.0.1:%d", port)
			fmt.Fprintf(&all, edgeListener, name, port, fields, logs[kind])
		}
		file := filepath.Join(dir, kind+".yaml")
		writeFile(t, file, fmt.Sprintf("node: {id: edge, cluster: test}\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}\nstatic_resources:\n  listeners:%s\n  clusters: [%s]\n",
			testbed.FreePort(t), all.String(), clusters))
		start(t, kind, append(argv, "-c", file)...)
	}
	for kind, all := range addrs {
		for name, addr := range all {
			eventually(t, 30*time.Second, kind+" listens for "+name, func() error {
				conn, err := net.Dial("tcp", addr)
				if err == nil {
					conn.Close()
				}
				return err
			})
		}
	}
	return addrs, logs
}

// TestStockEnvoyBelievesClientsTheSame: with one configuration a stock Envoy and mesh-proxy tell hosts the same of what clients say of
// themselves, take or refuse the same upgrades, fail calls of gRPC in the same words, and log how calls ended alike.
func TestStockEnvoyBelievesClientsTheSame(t *testing.T) {
	addrs, logs := startEdges(t, map[string]string{
		"faces":    "use_remote_address: true",
		"behind":   "forward_client_cert_details: FORWARD_ONLY",
		"trusting": "use_remote_address: true\n                preserve_external_request_id: true\n                forward_client_cert_details: ALWAYS_FORWARD_ONLY",
	})
	compare := func(what string, ask func(addrs map[string]string) string) {
		t.Helper()
		if diff := cmp.Diff(ask(addrs["envoy"]), ask(addrs["mesh-proxy"])); diff != "" {
			t.Errorf("%s (-envoy +mesh-proxy):\n%s", what, diff)
		}
	}
	clients := map[string]*http.Transport{"1": {DisableCompression: true}, "2": h2cTransport()}
	const id = "11111111-2222-4333-8444-555555555555"
	for version, client := range clients {
		t.Cleanup(client.CloseIdleConnections)
		for _, listener := range []string{"faces", "behind", "trusting"} {
			for _, path := range []string{"/one", "/two"} {
				compare(fmt.Sprintf("fields of HTTP/%s to %s, %s", version, listener, path), func(addrs map[string]string) string {
					req, _ := http.NewRequest(http.MethodGet, "http://"+addrs[listener]+path, nil)
					for name := range strings.FieldsSeq(forgeable) {
						req.Header.Set(name, "9")
					}
					req.Header.Set("X-Request-Id", id)
					return strings.ReplaceAll(roundTrip(client, req), addrs[listener], "HOST")
				})
			}
		}
		for _, path := range []string{"/dead", "/direct", "/slow/wait", "/long/wait", "/two/trailers", "/two/head", "/two/own", "/two/reset", "/two/nothing"} {
			if path == "/two/trailers" && version == "1" { // to which Envoy sends no trailers, with its defaults
				continue
			}
			for _, kind := range []string{"application/grpc", "application/grpc+proto", "application/grpc-web", "text/plain"} {
				if path == "/long/wait" && kind != "application/grpc" {
					continue
				}
				compare(fmt.Sprintf("a call of %s by HTTP/%s to %s", kind, version, path), func(addrs map[string]string) string {
					req, _ := http.NewRequest(http.MethodPost, "http://"+addrs["behind"]+path, strings.NewReader(""))
					req.Header.Set("Content-Type", kind)
					req.Header.Set("X-Request-Id", id)
					return strings.ReplaceAll(roundTrip(client, req), addrs["behind"], "HOST")
				})
			}
		}
	}
	for _, upgrade := range []string{"h2c", "H2C", "h2c, websocket", "websocket, h2c", "h2", "foo"} {
		for _, content := range []string{"\r\n", "content-length: 3\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"} {
			if upgrade != "h2c" && upgrade != "H2C" && content != "\r\n" {
				continue // with content mesh-proxy refuses these by another status
			}
			compare(fmt.Sprintf("the offer of %q with %q", upgrade, content), func(addrs map[string]string) string {
				return raw(t, addrs["behind"], "POST /one HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings, x-hop\r\nupgrade: "+upgrade+"\r\nhttp2-settings: AAMAAABk\r\nx-hop: 1\r\nx-request-id: "+id+"\r\n"+content)
			})
		}
	}
	reset(t, addrs)
	lines := map[string]string{}
	for kind, path := range logs {
		eventually(t, 20*time.Second, kind+" has logged the last call", func() error {
			data, err := os.ReadFile(path)
			if err == nil && !strings.Contains(string(data), "/one/wait") {
				err = errors.New("it is not there")
			}
			all := strings.Split(string(data), "\n")
			slices.Sort(all)
			lines[kind] = strings.Join(slices.DeleteFunc(all, func(line string) bool {
				return strings.HasPrefix(line, "/dead 503") // the text is longer in mesh-proxy
			}), "\n")
			return err
		})
	}
	if diff := cmp.Diff(lines["envoy"], lines["mesh-proxy"]); diff != "" {
		t.Errorf("access logs (-envoy +mesh-proxy):\n%s", diff)
	}
}

// forgeable are fields that a client could try to be believed about.
const forgeable = `x-envoy-internal x-envoy-external-address x-envoy-decorator-operation x-envoy-downstream-service-cluster x-envoy-downstream-service-node
	x-envoy-retriable-status-codes x-envoy-retriable-header-names x-envoy-retry-on x-envoy-retry-grpc-on x-envoy-max-retries x-envoy-upstream-alt-stat-name
	x-envoy-upstream-rq-timeout-ms x-envoy-upstream-rq-per-try-timeout-ms x-envoy-upstream-rq-timeout-alt-response x-envoy-expected-rq-timeout-ms x-envoy-force-trace
	x-envoy-ip-tags x-envoy-original-url x-envoy-original-path x-envoy-original-host x-envoy-original-dst-host x-envoy-original-method x-envoy-hedge-on-per-try-timeout
	x-envoy-attempt-count x-envoy-is-timeout-retry x-envoy-peer-metadata x-envoy-degraded x-envoy-overloaded x-envoy-ratelimited x-envoy-immediate-health-check-fail
	x-envoy-upstream-service-time x-envoy-upstream-canary x-envoy-upstream-stream-duration-ms x-forwarded-client-cert x-forwarded-host x-forwarded-port x-real-ip forwarded`

// roundTrip is what comes back that has to be the same, or how the request failed.
func roundTrip(client *http.Transport, req *http.Request) string {
	ctx, cancel := context.WithTimeout(req.Context(), 10*time.Second)
	defer cancel()
	resp, err := client.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return "failed"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	text, _, _ := strings.Cut(string(body), "reset reason: ")
	message, _, _ := strings.Cut(resp.Header.Get("Grpc-Message"), "reset reason: ")
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "x-request-id: ") && !strings.Contains(line, "11111111-2222-4333-8444-555555555555") {
			lines[i] = "x-request-id: another"
		}
	}
	return fmt.Sprintf("%s %q grpc-status %q %q trailers %v whole %v\n%s", resp.Status, resp.Header.Get("Content-Type"), resp.Header.Get("Grpc-Status"), message, resp.Trailer, err == nil,
		strings.Join(lines, "\n"))
}

// raw sends a request and returns the status and the content of the response.
func raw(t *testing.T, addr, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, request)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "failed"
	}
	body, _ := io.ReadAll(resp.Body)
	return resp.Status + "\n" + string(body)
}

// reset has clients of both versions give up a request, over HTTP/2 the stream alone.
func reset(t *testing.T, addrs map[string]map[string]string) {
	t.Helper()
	for kind := range addrs {
		for _, client := range []*http.Transport{h2cTransport(), {}} {
			path := "/two/wait"
			if client.Protocols == nil {
				path = "/one/wait" // the last
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addrs[kind]["behind"]+path, nil)
			if resp, err := client.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
			cancel()
			time.Sleep(100 * time.Millisecond)
			client.CloseIdleConnections()
		}
	}
}
