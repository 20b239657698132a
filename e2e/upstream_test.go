package e2e

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// proxyHeader is a transport socket of a cluster.
const proxyHeader = `transport_socket: {name: envoy.transport_sockets.upstream_proxy_protocol, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport,
  config: {%s}, transport_socket: {name: envoy.transport_sockets.raw_buffer, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}`

// TestStockEnvoyTellsHostsTheSame: with one configuration a stock Envoy and mesh-proxy begin their connections to a host with the
// same PROXY headers, and share them among the same requests.
func TestStockEnvoyTellsHostsTheSame(t *testing.T) {
	var mu sync.Mutex
	var began []string // what connections began with, in hexadecimal
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r, before := bufio.NewReader(conn), []byte(nil)
				for { // the first method ends the header
					b, err := r.ReadByte()
					if err != nil {
						return
					}
					if before = append(before, b); strings.HasSuffix(string(before), "GET /") {
						break
					}
				}
				mu.Lock()
				began = append(began, hex.EncodeToString(before[:len(before)-len("GET /")]))
				mu.Unlock()
				for first := true; ; first = false {
					if !first {
						if _, err := r.Discard(len("GET /")); err != nil {
							return
						}
					}
					for line := ""; line != "\r\n"; {
						if line, err = r.ReadString('\n'); err != nil {
							return
						}
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
				}
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	var clusters, routes []string
	names := []string{"one", "two", "more"}
	for i, fields := range []string{"version: V1", "version: V2", "version: V2, added_tlvs: [{type: 234, value: YWJj}, {type: 224, value: AA==}]"} {
		clusters = append(clusters, fmt.Sprintf("{name: %s, load_assignment: {cluster_name: %[1]s, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %s}}}}]}]}, %s}",
			names[i], port, fmt.Sprintf(proxyHeader, fields)))
		routes = append(routes, fmt.Sprintf("{match: {path: /%s}, route: {cluster: %[1]s}}", names[i]))
	}
	ports := startPair(t, strings.Join(routes, ", "), strings.Join(clusters, ", "))
	for _, name := range names {
		got := map[string][]string{}
		for proxy, port := range ports {
			mu.Lock()
			began = nil
			mu.Unlock()
			addr := fmt.Sprintf("127.0.0.1:%d", port)
			clients := make([]net.Conn, 3)
			for i := range clients {
				if clients[i], err = net.Dial("tcp", addr); err != nil {
					t.Fatal(err)
				}
				defer clients[i].Close()
			}
			for range 3 {
				for _, conn := range clients {
					fmt.Fprintf(conn, "GET /%s HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.0.0.1\r\n\r\n", name)
					resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, resp.Body)
				}
			}
			mu.Lock()
			for i, header := range began { // the same but for the ports
				if i < len(clients) {
					_, own, _ := net.SplitHostPort(clients[i].LocalAddr().String())
					var client int
					fmt.Sscan(own, &client)
					for _, form := range []string{"%04x", "%d"} {
						text := func(n int) string {
							if form == "%d" {
								return hex.EncodeToString(fmt.Appendf(nil, "%d", n))
							}
							return fmt.Sprintf(form, n)
						}
						header = strings.Replace(strings.Replace(header, text(client), "CLIENT", 1), text(port), "PROXY", 1)
					}
				}
				got[proxy] = append(got[proxy], header)
			}
			mu.Unlock()
		}
		if fmt.Sprint(got["envoy"]) != fmt.Sprint(got["mesh-proxy"]) || len(got["envoy"]) != 3 || !strings.Contains(got["envoy"][0], "CLIENT") {
			t.Errorf("%s:\n%q of mesh-proxy,\n%q of Envoy", name, got["mesh-proxy"], got["envoy"])
		}
	}
}

// TestStockEnvoyGoesToTheSameDestinations: clusters that go where a request's field says.
func TestStockEnvoyGoesToTheSameDestinations(t *testing.T) {
	var addrs []string
	for i := range 2 {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, i) }))
		t.Cleanup(s.Close)
		addrs = append(addrs, s.Listener.Addr().String())
	}
	_, port, _ := net.SplitHostPort(addrs[0])
	const original = "type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: "
	var clusters, routes []string
	settings := map[string]string{
		"plain": "{}", "field": "{use_http_header: true}", "named": "{use_http_header: true, http_header_name: x-to}", "port": "{use_http_header: true, upstream_port_override: " + port + "}",
	}
	for name, fields := range settings {
		clusters = append(clusters, fmt.Sprintf("{name: %s, %s%s}", name, original, fields))
		routes = append(routes, fmt.Sprintf("{match: {path: /%s}, route: {cluster: %[1]s}}", name))
	}
	ports := startPair(t, strings.Join(routes, ", "), strings.Join(clusters, ", "))
	ask := func(port int, name, field, value string) string {
		req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/%s", port, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header[http.CanonicalHeaderKey(field)] = strings.Split(value, "|")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 200 {
			body = nil
		}
		return fmt.Sprint(resp.StatusCode, " ", string(body))
	}
	for name := range settings {
		for _, field := range []string{"x-envoy-original-dst-host", "x-to"} {
			for _, value := range []string{addrs[0], addrs[1], addrs[1] + "|" + addrs[0], "nonsense", "127.0.0.1", "", "localhost:" + port, "[::ffff:127.0.0.1]:" + port} {
				want, got := ask(ports["envoy"], name, field, value), ask(ports["mesh-proxy"], name, field, value)
				if want != got {
					t.Errorf("%s, %s: %s: %q of mesh-proxy, %q of Envoy", name, field, value, got, want)
				}
			}
		}
	}
}
