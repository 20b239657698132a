package xds

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const tlsTypes = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."

// tlsListener is hcmYAML with a transport socket: what is given stands in its common context, in the validation context, and beside.
func tlsListener(common, validation, rest string) string {
	if validation != "" {
		common = "validation_context: {" + validation + "}, " + common
	}
	return strings.Replace(hcmYAML, "- filters:", fmt.Sprintf(`- transport_socket: {name: envoy.transport_sockets.tls, typed_config: {"@type": %sDownstreamTlsContext, %scommon_tls_context: {%stls_certificates: [
    {certificate_chain: {filename: /crt.pem}, private_key: {filename: /key.pem}}]}}}
  filters:`, tlsTypes, rest, common), 1)
}

// upstreamSocket is the transport socket of a cluster.
func upstreamSocket(common, rest string) string {
	return fmt.Sprintf(`transport_socket: {name: envoy.transport_sockets.tls, typed_config: {"@type": %sUpstreamTlsContext, %scommon_tls_context: {%s}}}`, tlsTypes, rest, common)
}

func TestDownstreamTLS(t *testing.T) {
	pair := []config.Certificate{{Chain: config.Source{File: "/crt.pem"}, Key: config.Source{File: "/key.pem"}}}
	plain := config.TLS{Certificates: pair, MinVersion: config.TLS12, MaxVersion: config.TLS13}
	full := config.TLS{
		Certificates: pair, MinVersion: config.TLS13, MaxVersion: config.TLS13, Protocols: []string{"h2", "http/1.1"}, Curves: []uint16{29, 23},
		CipherSuites: []uint16{0xc02b, 0xcca9, 0xc030},
		Verify: &config.Verification{
			CA: config.Source{File: "/ca.pem"}, MaxDepth: 1, Hashes: [][32]byte{{31: 1}},
			Names: []config.SANMatch{
				{Type: config.SANURI, Match: config.TextMatch{How: config.TextPrefix, Text: "spiffe://mesh/"}},
				{Type: config.SANDNS, Match: config.TextMatch{How: config.TextRegexp, Text: `[a-z]+\.mesh`}},
				{Type: config.SANIP, Match: config.TextMatch{Text: "10.0.0.1"}},
				{Type: config.SANEmail, Match: config.TextMatch{How: config.TextSuffix, Text: "@mesh", IgnoreCase: true}},
			},
		},
	}
	for _, c := range []struct {
		name, text string
		want       *config.DownstreamTLS
	}{
		{"defaults", tlsListener("", "", ""), &config.DownstreamTLS{TLS: plain}},
		{"everything", tlsListener(
			`alpn_protocols: [h2, http/1.1], tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519, P-256],
				cipher_suites: ["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]", ECDHE-RSA-AES256-GCM-SHA384]}, `,
			`trusted_ca: {filename: /ca.pem}, max_verify_depth: 1, suppress_client_ca_list: true, verify_certificate_hash: ["`+strings.Repeat("00:", 31)+`01"], match_typed_subject_alt_names: [
				{san_type: URI, matcher: {prefix: "spiffe://mesh/"}}, {san_type: DNS, matcher: {safe_regex: {regex: '[a-z]+\.mesh'}}},
				{san_type: IP_ADDRESS, matcher: {exact: 10.0.0.1}}, {san_type: EMAIL, matcher: {suffix: "@MESH", ignore_case: true}}]`,
			`require_client_certificate: true, require_sni: true, session_ticket_keys: {keys: [{inline_string: "`+strings.Repeat("k", 80)+`"}, {filename: /tickets}]}, `,
		), &config.DownstreamTLS{
			TLS: full, RequireClient: true, RequireSNI: true, HideCAs: true,
			TicketKeys: []config.Source{{Inline: strings.Repeat("k", 80)}, {File: "/tickets"}},
		}},
		{"no tickets", tlsListener("", "", "disable_stateless_session_resumption: true, "), &config.DownstreamTLS{TLS: plain, NoTickets: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decoded(t, listeners, c.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.(*listener).Chains[0].TLS); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const edsYAML = "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n"

func TestUpstreamTLS(t *testing.T) {
	const ca = "validation_context: {trusted_ca: {filename: /ca.pem}}"
	plain := config.UpstreamTLS{TLS: config.TLS{MinVersion: config.TLS12, MaxVersion: config.TLS13, Verify: &config.Verification{CA: config.Source{File: "/ca.pem"}, MaxDepth: -1}}, MaxSessions: 1}
	named := plain
	named.ServerName, named.HostServerName, named.VerifyName, named.MaxSessions = "web.mesh", true, true, 0
	got, err := decoded(t, clusters, edsYAML+upstreamSocket(ca, "")+"\ntransport_socket_matches:\n- {name: mesh, match: {tls: mesh, n: 1}, "+upstreamSocket(ca, "sni: Web.mesh, auto_host_sni: true, auto_sni_san_validation: true, max_session_keys: 0, ")+"}\n"+
		`- {name: raw, match: {}, transport_socket: {name: raw, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}`)
	if err != nil {
		t.Fatal(err)
	}
	c := got.(*cluster)
	if diff := cmp.Diff(&plain, c.TLS); diff != "" {
		t.Error(diff)
	}
	want := []config.SocketMatch{{Name: "mesh", Mark: config.NewMarks(map[string]string{"tls": "smesh", "n": "n1"}), TLS: &named}, {Name: "raw"}}
	if diff := cmp.Diff(want, c.SocketMatches); diff != "" {
		t.Error(diff)
	}
	for metadata, want := range map[string]*config.UpstreamTLS{
		"":                                 nil,
		"{tls: mesh}":                      nil,
		"{tls: mesh, n: 1}":                c.SocketMatches[0].TLS,
		`{tls: mesh, n: "1"}`:              nil,
		"{a: true, tls: mesh}":             nil,
		"{a: true, tls: mesh, n: 1, z: z}": c.SocketMatches[0].TLS,
	} {
		text := "cluster_name: x\nendpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 1}}}"
		if metadata != "" {
			text += ", metadata: {filter_metadata: {envoy.transport_socket_match: " + metadata + "}}"
		}
		got, err := decoded(t, endpoints, text+"}]}]")
		if err != nil {
			t.Fatal(err)
		}
		if tls := c.EndpointTLS(got.(assignment).endpoints[0]); tls != want {
			t.Errorf("%s: got %+v", metadata, tls)
		}
	}
}

// TestTLSRefused: what would verify less than it seems to is refused, and so is what is not done.
func TestTLSRefused(t *testing.T) {
	const (
		context = "filter_chains[0].transport_socket.typed_config."
		common  = context + "common_tls_context."
		up      = "transport_socket.typed_config.common_tls_context."
	)
	matches := func(matcher string) string {
		return tlsListener("", "trusted_ca: {filename: /ca}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {"+matcher+"}}]", "")
	}
	for _, c := range []struct {
		name string
		k    kind
		text string
		want string
	}{
		{"an old version", listeners, tlsListener("tls_params: {tls_minimum_protocol_version: TLSv1_1}, ", "", ""), common + "tls_params.tls_minimum_protocol_version: got TLSv1_1, want TLSv1_2"},
		{"versions the wrong way round", listeners, tlsListener("tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_2}, ", "", ""), common + "tls_params.tls_maximum_protocol_version: got TLSv1_2, want no less"},
		{"a weak suite", listeners, tlsListener("tls_params: {cipher_suites: [AES128-GCM-SHA256]}, ", "", ""), common + "tls_params.cipher_suites[0]: got AES128-GCM-SHA256, want an ECDHE suite"},
		{"a curve", listeners, tlsListener("tls_params: {ecdh_curves: [P-224]}, ", "", ""), common + "tls_params.ecdh_curves[0]: got P-224"},
		{"no certificate", listeners, strings.Replace(tlsListener("", "", ""), "{certificate_chain: {filename: /crt.pem}, private_key: {filename: /key.pem}}", "", 1), common + "tls_certificates: got none"},
		{"no key", listeners, strings.Replace(tlsListener("", "", ""), ", private_key: {filename: /key.pem}", "", 1), common + "tls_certificates[0].private_key: got none"},
		{"a key in the environment", listeners, strings.Replace(tlsListener("", "", ""), "private_key: {filename: /key.pem}", "private_key: {environment_variable: A}", 1), common + "tls_certificates[0].private_key.environment_variable"},
		{"PKCS 12", listeners, strings.Replace(tlsListener("", "", ""), "private_key:", "pkcs12:", 1), common + "tls_certificates[0].pkcs12"},
		{"clients without an authority", listeners, tlsListener("", "", "require_client_certificate: true, "), common + "validation_context: got none"},
		{"no authority", listeners, tlsListener("", "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]", ""), common + "validation_context.trusted_ca: got none"},
		{"names without an authority", listeners, tlsListener("", "verify_certificate_hash: ['"+strings.Repeat("0", 64)+"'], match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]", ""), common + "validation_context.trusted_ca: got none, want one with names"},
		{"an untrusted chain", listeners, tlsListener("", "trusted_ca: {filename: /ca}, trust_chain_verification: ACCEPT_UNTRUSTED", ""), common + "validation_context.trust_chain_verification: got ACCEPT_UNTRUSTED"},
		{"an expired certificate", listeners, tlsListener("", "trusted_ca: {filename: /ca}, allow_expired_certificate: true", ""), common + "validation_context.allow_expired_certificate: got true"},
		{"a pin", listeners, tlsListener("", "verify_certificate_spki: ["+strings.Repeat("A", 44)+"]", ""), common + "validation_context.verify_certificate_spki[0]: got AAAA"},
		{"an expression", listeners, matches("safe_regex: {regex: '('}"), "match_typed_subject_alt_names[0].matcher.safe_regex.regex: got (, want an expression"},
		{"a long expression", listeners, matches("safe_regex: {regex: '" + strings.Repeat("a", 1025) + "'}"), "matcher.safe_regex.regex"},
		{"another kind of matcher", listeners, matches("custom: {name: a, typed_config: {\"@type\": type.googleapis.com/envoy.config.core.v3.Pipe, path: /}}"), "matcher.custom: got a value"},
		{"another kind of name", listeners, strings.Replace(matches("exact: a"), "san_type: DNS", "san_type: OTHER_NAME, oid: '1.2'", 1), "match_typed_subject_alt_names[0].oid"},
		{"ticket keys", listeners, tlsListener("", "", "session_ticket_keys: {keys: [{inline_string: short}]}, "), context + "session_ticket_keys.keys[0]: got 5, want 80 bytes"},
		{"secrets from elsewhere", listeners, tlsListener("validation_context_sds_secret_config: {name: a}, ", "", ""), common + "validation_context_sds_secret_config: got a value"},
		{"a log of keys", listeners, tlsListener("key_log: {path: /x}, ", "", ""), common + "key_log: got a value"},
		{"another socket", listeners, strings.Replace(tlsListener("", "", ""), "DownstreamTlsContext", "UpstreamTlsContext", 1), "filter_chains[0].transport_socket: got envoy.transport_sockets.tls (envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext)"},

		{"an unverified server", clusters, edsYAML + upstreamSocket("", ""), up + "validation_context: got none, want one: servers are not left unverified"},
		{"everybody's authorities", clusters, edsYAML + upstreamSocket("validation_context: {system_root_certs: {}}", "sni: a, "), up + "validation_context.system_root_certs: got no name to verify"},
		{"the name of nobody", clusters, edsYAML + upstreamSocket("validation_context: {system_root_certs: {}}", "auto_sni_san_validation: true, "), "transport_socket.typed_config.auto_sni_san_validation: got true, want sni"},
		{"renegotiation", clusters, edsYAML + upstreamSocket("validation_context: {trusted_ca: {filename: /ca}}", "allow_renegotiation: true, "), "typed_config.allow_renegotiation: got true"},
		{"the request's name", clusters, edsYAML + `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, upstream_http_protocol_options: {auto_sni: true}, explicit_http_config: {http_protocol_options: {}}}}`, "upstream_http_protocol_options.auto_sni: got true"},
		{"a list as a mark", clusters, edsYAML + "transport_socket_matches: [{name: a, match: {b: [c]}, " + upstreamSocket("validation_context: {trusted_ca: {filename: /ca}}", "") + "}]", "transport_socket_matches[0].match.b: got a value of several"},
		{"a mark of a locality", endpoints, "cluster_name: x\nendpoints: [{metadata: {filter_metadata: {envoy.transport_socket_match: {a: b}}}}]", "endpoints[0].metadata.filter_metadata.envoy.transport_socket_match: got a value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decoded(t, c.k, c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestCVEClass27_PrivateKeysAreNotPrinted: a key that stands in the configuration is shown by no way of printing it.
func TestCVEClass27_PrivateKeysAreNotPrinted(t *testing.T) {
	const secret = "THE-SECRET"
	got, err := decoded(t, listeners, strings.Replace(tlsListener("", "", ""), "{filename: /key.pem}", "{inline_string: "+secret+"}", 1))
	if err != nil {
		t.Fatal(err)
	}
	tls := got.(*listener).Chains[0].TLS
	if tls.Certificates[0].Key.Inline != secret {
		t.Fatalf("got %q", tls.Certificates[0].Key.Inline)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if text := fmt.Sprintf(verb, *tls); strings.Contains(text, secret) || strings.Contains(text, hex.EncodeToString([]byte(secret))) {
			t.Errorf("%s: %s", verb, text)
		}
	}
}
