package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

const chainsBootstrap = `node: {id: chains, cluster: test}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}
static_resources:
  listeners:
    - name: in
      address: {socket_address: {address: 0.0.0.0, port_value: %d}}
      listener_filters:
        - {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}
        - {name: http, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}
      filter_chains: [%s]
`

// chainYAML is a chain that answers its name, over TLS unless its match has raw_buffer. common is what its TLS context has besides.
func chainYAML(name, match, common, rest, chain, key string) string {
	socket := ""
	if !strings.Contains(match, "raw_buffer") {
		socket = fmt.Sprintf(`, transport_socket: {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext,
      %scommon_tls_context: {%stls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]}}}`, rest, common, chain, key)
	}
	return fmt.Sprintf(`{name: %s, filter_chain_match: {%s}%s, filters: [{name: hcm, typed_config: {
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: %[1]s,
      route_config: {name: r, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: %[1]s}}}]}]},
      http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]}}]}`, name, match, socket)
}

// caller is a client of a listener with chains.
type caller struct {
	what     string
	from, to string // addresses of the loopback
	plain    bool
	name     string
	alpn     []string
	max      uint16
	certs    []tls.Certificate
}

// chain is the answer to the caller: the name of a chain, or how it was refused.
func (c *caller) chain(port int) string {
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(c.from)}}
	raw, err := d.Dial("tcp", net.JoinHostPort(c.to, strconv.Itoa(port)))
	if err != nil {
		return "no connection: " + err.Error()
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := raw
	agreed := "plaintext"
	if !c.plain {
		secured := tls.Client(raw, &tls.Config{
			ServerName: c.name, NextProtos: c.alpn, InsecureSkipVerify: true, MaxVersion: c.max,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if len(c.certs) == 0 {
					return &tls.Certificate{}, nil
				}
				return &c.certs[0], nil
			},
		})
		if err := secured.Handshake(); err != nil {
			return "refused"
		}
		agreed = fmt.Sprintf("%s %q", tls.VersionName(secured.ConnectionState().Version), secured.ConnectionState().NegotiatedProtocol)
		conn = secured
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "refused"
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "refused"
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "refused"
	}
	return agreed + " " + string(body)
}

// TestStockEnvoyChoosesTheSameChains: with one configuration a stock Envoy and mesh-proxy give every connection to the same chain, agree with it on
// the same, and refuse the same certificates.
func TestStockEnvoyChoosesTheSameChains(t *testing.T) {
	a, stranger := testbed.NewAuthority(t), testbed.NewAuthority(t)
	dir := shortDir(t)
	certFile, keyFile := testbed.WritePair(t, dir, "server", a.Leaf("a.example"))
	ca := filepath.Join(dir, "ca.crt")
	writeFile(t, ca, a.PEM())
	trust := fmt.Sprintf(`validation_context: {trusted_ca: {filename: %s}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {suffix: .clients}}, {san_type: DNS, matcher: {exact: a.wild.test}}]}, `, ca)
	var chains []string
	add := func(name, match, common, rest string) {
		chains = append(chains, chainYAML(name, match, common, rest, certFile, keyFile))
	}
	add("exact", "server_names: [a.example]", "alpn_protocols: [http/1.1], ", "")
	add("wild", `server_names: ["*.example"]`, "", "")
	add("deeper", `server_names: ["*.b.example"]`, "tls_params: {tls_maximum_protocol_version: TLSv1_2}, ", "")
	add("strict", "server_names: [strict.test]", trust, "require_client_certificate: true, ")
	add("optional", "server_names: [optional.test]", fmt.Sprintf("validation_context: {trusted_ca: {filename: %s}}, ", ca), "")
	add("named", "server_names: [named.test]", trust, "")
	add("istio", "transport_protocol: tls, application_protocols: [istio, istio-http/1.1]", "", "")
	add("tls", "transport_protocol: tls", "", "")
	add("near", "prefix_ranges: [{address_prefix: 127.1.0.0, prefix_len: 16}], transport_protocol: tls", "", "")
	add("nearest", "prefix_ranges: [{address_prefix: 127.1.2.0, prefix_len: 24}], server_names: [near.test]", "", "")
	add("plain", "transport_protocol: raw_buffer, application_protocols: [http/1.1]", "", "")
	add("source", "transport_protocol: raw_buffer, application_protocols: [http/1.1], source_prefix_ranges: [{address_prefix: 127.3.0.0, prefix_len: 16}]", "", "")
	add("direct", "transport_protocol: raw_buffer, application_protocols: [http/1.1], direct_source_prefix_ranges: [{address_prefix: 127.4.0.0, prefix_len: 16}], source_type: SAME_IP_OR_LOOPBACK", "", "")
	ports := map[string]int{}
	for name, argv := range map[string][]string{
		"envoy":      {envoyBinary(t), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"},
		"mesh-proxy": {bin(t, "mesh-proxy")},
	} {
		file := filepath.Join(dir, name+".yaml")
		ports[name] = testbed.FreePort(t)
		writeFile(t, file, fmt.Sprintf(chainsBootstrap, testbed.FreePort(t), ports[name], strings.Join(chains, ",\n")))
		start(t, name, append(argv, "-c", file)...)
	}
	plain := caller{from: "127.0.0.1", to: "127.0.0.1", plain: true}
	for proxy, port := range ports {
		eventually(t, 30*time.Second, proxy+" answers", func() error {
			if got := plain.chain(port); got != "plaintext plain" {
				return errors.New(got)
			}
			return nil
		})
	}
	answers := map[string]bool{}
	for _, c := range []caller{
		{what: "a name", name: "a.example"},
		{what: "a name in upper case", name: "A.Example"},
		{what: "a name that ALPN does not change", name: "a.example", alpn: []string{"istio", "http/1.1"}},
		{what: "a wildcard", name: "x.example"},
		{what: "a wildcard, two labels", name: "x.y.example"},
		{what: "the longest wildcard", name: "x.b.example"},
		{what: "the longest wildcard, two labels", name: "x.y.b.example"},
		{what: "a wildcard's own domain", name: "b.example"},
		{what: "the last label alone", name: "example"},
		{what: "another name", name: "example.test"},
		{what: "an end that is no label", name: "xexample"},
		{what: "no name"},
		{what: "ALPN", alpn: []string{"h2", "istio"}},
		{what: "unknown ALPN", alpn: []string{"h3"}},
		{what: "TLS 1.2", max: tls.VersionTLS12},
		{what: "no certificate", name: "strict.test"},
		{what: "a certificate", name: "strict.test", certs: []tls.Certificate{a.Leaf("x.clients")}},
		{what: "a certificate of another name", name: "strict.test", certs: []tls.Certificate{a.Leaf("x.others")}},
		{what: "a certificate with a wildcard", name: "strict.test", certs: []tls.Certificate{a.Leaf("*.wild.test")}},
		{what: "a stranger's certificate", name: "strict.test", certs: []tls.Certificate{stranger.Leaf("x.clients")}},
		{what: "no certificate where none is needed", name: "optional.test"},
		{what: "one where none is needed", name: "optional.test", certs: []tls.Certificate{a.Leaf("x.others")}},
		{what: "no certificate where names are asked for", name: "named.test"},
		{what: "a certificate where names are asked for", name: "named.test", certs: []tls.Certificate{a.Leaf("x.clients")}},
		{what: "a stranger's where none is needed", name: "optional.test", certs: []tls.Certificate{stranger.Leaf("x.clients")}},
		{what: "an address", to: "127.1.9.9"},
		{what: "an address before a name", to: "127.1.9.9", name: "a.example"},
		{what: "the nearer address and its name", to: "127.1.2.3", name: "near.test"},
		{what: "the nearer address alone: nobody goes back", to: "127.1.2.3"},
		{what: "the nearer address and another name: nobody goes back", to: "127.1.2.3", name: "a.example"},
		{what: "plaintext", plain: true},
		{what: "plaintext at an address that has TLS alone", to: "127.1.9.9", plain: true},
		{what: "plaintext from a source", from: "127.3.1.1", plain: true},
		{what: "plaintext from a direct source", from: "127.4.1.1", plain: true},
		{what: "plaintext from a direct source, the same address", from: "127.4.1.1", to: "127.4.1.1", plain: true},
		{what: "TLS from a source", from: "127.3.1.1"},
	} {
		if c.from == "" {
			c.from = "127.0.0.1"
		}
		if c.to == "" {
			c.to = "127.0.0.1"
		}
		want, got := c.chain(ports["envoy"]), c.chain(ports["mesh-proxy"])
		if got != want {
			t.Errorf("%s: %s of mesh-proxy, %s of Envoy", c.what, got, want)
		}
		answers[want[strings.LastIndexByte(want, ' ')+1:]] = true
	}
	if len(answers) != len(chains)+1 {
		t.Errorf("the callers met %v, want each of %d chains and a refusal", answers, len(chains))
	}
}
