package xds

import (
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	tlsPackage        = "envoy.extensions.transport_sockets.tls.v3."
	rawBufferType     = typePrefix + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
	downstreamTLSType = typePrefix + tlsPackage + "DownstreamTlsContext"
	upstreamTLSType   = typePrefix + tlsPackage + "UpstreamTlsContext"

	// What is understood of these messages here, and not everywhere.
	tlsData = "envoy.config.core.v3.DataSource of TLS"
	tlsText = "envoy.type.matcher.v3.StringMatcher of TLS"

	maxSessions     = 1024 // of a cluster's endpoints that are kept
	ticketKeyBytes  = 80   // by Envoy's file format
	maxRegexpLength = 1 << 10
)

func (schema) addTLS(add func(protoreflect.FullName, string)) {
	add("envoy.config.core.v3.TransportSocket", "name typed_config")
	add("envoy.config.core.v3.WatchedDirectory", "path")
	add("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", "")
	add(tlsPackage+"DownstreamTlsContext", `common_tls_context require_client_certificate require_sni session_ticket_keys
		disable_stateless_session_resumption disable_stateful_session_resumption`)
	add(tlsPackage+"UpstreamTlsContext", "common_tls_context sni auto_host_sni auto_sni_san_validation allow_renegotiation max_session_keys")
	add(tlsPackage+"CommonTlsContext", "tls_params tls_certificates validation_context alpn_protocols")
	add(tlsPackage+"TlsParameters", "tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites ecdh_curves")
	add(tlsPackage+"TlsCertificate", "certificate_chain~ private_key~ watched_directory")
	add(tlsPackage+"TlsSessionTicketKeys", "keys~")
	add(tlsPackage+"CertificateValidationContext", `trusted_ca~ system_root_certs watched_directory verify_certificate_spki verify_certificate_hash
		match_typed_subject_alt_names match_subject_alt_names~ trust_chain_verification max_verify_depth suppress_client_ca_list`)
	add(tlsPackage+"CertificateValidationContext.SystemRootCerts", "")
	add(tlsPackage+"SubjectAltNameMatcher", "san_type matcher~")
	add(tlsData, "filename inline_bytes inline_string")
	add(tlsText, "exact prefix suffix contains safe_regex ignore_case")
	add("envoy.type.matcher.v3.RegexMatcher", "regex google_re2")
	add("envoy.type.matcher.v3.RegexMatcher.GoogleRE2", "")
}

// fileSource reads a text that stands in a file or in the configuration.
func (r *reader) fileSource(at *path, m *corev3.DataSource) config.Source {
	r.strictAs(at, m.ProtoReflect(), tlsData)
	switch d := m.GetSpecifier().(type) {
	case *corev3.DataSource_Filename:
		if d.Filename == "" {
			r.wrong(at.field("filename"), "none", "the path of a file")
		}
		return config.Source{File: d.Filename}
	case *corev3.DataSource_InlineBytes:
		return config.Source{Inline: string(d.InlineBytes)}
	case *corev3.DataSource_InlineString:
		return config.Source{Inline: d.InlineString}
	}
	return config.Source{}
}

// watchedDirectory accepts a directory to watch: the directories of all files are watched in any case.
func (r *reader) watchedDirectory(at *path, m *corev3.WatchedDirectory) {
	if m != nil && m.GetPath() == "" {
		r.wrong(at.field("watched_directory").field("path"), "none", "a directory")
	}
}

// downstreamTLS reads the transport socket of a filter chain; nil is plaintext.
func (r *reader) downstreamTLS(at *path, m *corev3.TransportSocket) *config.DownstreamTLS {
	typed := m.GetTypedConfig()
	p := at.field("typed_config")
	switch {
	case m == nil:
	case typed.GetTypeUrl() == rawBufferType:
		r.unpack(p, typed, new(rawv3.RawBuffer))
	case typed.GetTypeUrl() == downstreamTLSType:
		if c := new(tlsv3.DownstreamTlsContext); r.unpack(p, typed, c) {
			return r.downstreamContext(p, c)
		}
	default:
		r.wrong(at, named(m.GetName(), typed.GetTypeUrl()), "envoy.transport_sockets.tls with a DownstreamTlsContext, or envoy.transport_sockets.raw_buffer")
	}
	return nil
}

func (r *reader) downstreamContext(at *path, c *tlsv3.DownstreamTlsContext) *config.DownstreamTLS {
	common := at.field("common_tls_context")
	t := &config.DownstreamTLS{
		TLS:           r.commonTLS(common, c.GetCommonTlsContext()),
		RequireClient: c.GetRequireClientCertificate().GetValue(),
		RequireSNI:    c.GetRequireSni().GetValue(),
		NoTickets:     c.GetDisableStatelessSessionResumption(),
		HideCAs:       c.GetCommonTlsContext().GetValidationContext().GetSuppressClientCaList(),
	}
	if v := t.Verify; v != nil && len(v.Names)+len(v.SPKIs)+len(v.Hashes) > 0 {
		t.RequireClient = true // as in Envoy: who must have a name has a certificate
	}
	if len(t.Certificates) == 0 {
		r.missing(common.field("tls_certificates"), "none", "a certificate at least")
	}
	if t.RequireClient && t.Verify == nil {
		r.missing(common.field("validation_context"), "none", "one, as a client certificate is required")
	}
	for i, key := range c.GetSessionTicketKeys().GetKeys() {
		p := at.field("session_ticket_keys").at("keys", i)
		source := r.fileSource(p, key)
		if source.File == "" && len(source.Inline) != ticketKeyBytes {
			r.wrong(p, len(source.Inline), "80 bytes")
		}
		t.TicketKeys = append(t.TicketKeys, source)
	}
	return t
}

// upstreamTLS reads the transport socket of a cluster; nil is plaintext.
func (r *reader) upstreamTLS(at *path, m *corev3.TransportSocket) *config.UpstreamTLS {
	typed := m.GetTypedConfig()
	p := at.field("typed_config")
	switch {
	case m == nil:
	case typed.GetTypeUrl() == rawBufferType:
		r.unpack(p, typed, new(rawv3.RawBuffer))
	case typed.GetTypeUrl() == upstreamTLSType:
		if c := new(tlsv3.UpstreamTlsContext); r.unpack(p, typed, c) {
			return r.upstreamContext(p, c)
		}
	default:
		r.wrong(at, named(m.GetName(), typed.GetTypeUrl()), "envoy.transport_sockets.tls with an UpstreamTlsContext, or envoy.transport_sockets.raw_buffer, or, for the whole cluster, one of them in envoy.transport_sockets.upstream_proxy_protocol")
	}
	return nil
}

func (r *reader) upstreamContext(at *path, c *tlsv3.UpstreamTlsContext) *config.UpstreamTLS {
	common := at.field("common_tls_context")
	t := &config.UpstreamTLS{
		TLS:            r.commonTLS(common, c.GetCommonTlsContext()),
		ServerName:     strings.ToLower(c.GetSni()),
		HostServerName: c.GetAutoHostSni(),
		VerifyName:     c.GetAutoSniSanValidation(),
		MaxSessions:    1,
	}
	if n := c.GetMaxSessionKeys(); n != nil {
		t.MaxSessions = int(min(n.GetValue(), maxSessions))
	}
	if c.GetAllowRenegotiation() {
		r.wrong(at.field("allow_renegotiation"), true, "false: not supported")
	}
	if c.GetCommonTlsContext().GetValidationContext().GetSuppressClientCaList() {
		r.wrong(common.field("validation_context").field("suppress_client_ca_list"), true, "false, as there are no clients")
	}
	switch v := t.Verify; {
	case v == nil:
		// Envoy would take any certificate, and with it anybody's.
		r.missing(common.field("validation_context"), "none", "one: servers are not left unverified")
	case v.SystemCA && v.Names == nil && v.SPKIs == nil && v.Hashes == nil && !t.VerifyName:
		r.wrong(common.field("validation_context").field("system_root_certs"), "no name to verify", "match_typed_subject_alt_names or auto_sni_san_validation with it: everybody has such a certificate")
	}
	if t.VerifyName && t.ServerName == "" && !t.HostServerName {
		r.wrong(at.field("auto_sni_san_validation"), true, "sni or auto_host_sni with it")
	}
	return t
}

// commonTLS reads what both contexts have.
func (r *reader) commonTLS(at *path, m *tlsv3.CommonTlsContext) config.TLS {
	t := config.TLS{Protocols: r.alpn(at, m.GetAlpnProtocols())}
	r.tlsParameters(at.field("tls_params"), m.GetTlsParams(), &t)
	for i, c := range m.GetTlsCertificates() {
		p := at.at("tls_certificates", i)
		r.watchedDirectory(p, c.GetWatchedDirectory())
		pair := config.Certificate{Chain: r.fileSource(p.field("certificate_chain"), c.GetCertificateChain()), Key: r.fileSource(p.field("private_key"), c.GetPrivateKey())}
		if pair.Chain.IsZero() {
			r.missing(p.field("certificate_chain"), "none", "a certificate")
		}
		if pair.Key.IsZero() {
			r.missing(p.field("private_key"), "none", "its private key")
		}
		t.Certificates = append(t.Certificates, pair)
	}
	if m.GetValidationContext() != nil {
		t.Verify = r.validation(at.field("validation_context"), m.GetValidationContext())
	}
	return t
}

func (r *reader) alpn(at *path, names []string) []string {
	for i, name := range names {
		if name == "" || len(name) > 255 {
			r.wrong(at.at("alpn_protocols", i), len(name), "a name of 1 to 255 bytes")
		}
	}
	return names
}

func (r *reader) validation(at *path, m *tlsv3.CertificateValidationContext) *config.Verification {
	v := &config.Verification{CA: r.fileSource(at.field("trusted_ca"), m.GetTrustedCa()), SystemCA: m.GetSystemRootCerts() != nil, MaxDepth: -1}
	r.watchedDirectory(at, m.GetWatchedDirectory())
	if n := m.GetMaxVerifyDepth(); n != nil {
		v.MaxDepth = int(n.GetValue())
	}
	if !v.CA.IsZero() && v.SystemCA {
		r.wrong(at.field("system_root_certs"), "a value", "it unset with trusted_ca")
	}
	if t := m.GetTrustChainVerification(); t != tlsv3.CertificateValidationContext_VERIFY_TRUST_CHAIN {
		r.wrong(at.field("trust_chain_verification"), t, "VERIFY_TRUST_CHAIN")
	}
	v.SPKIs = r.pins(at, "verify_certificate_spki", m.GetVerifyCertificateSpki(), pinBase64)
	v.Hashes = r.pins(at, "verify_certificate_hash", m.GetVerifyCertificateHash(), pinHex)
	if v.CA.IsZero() && !v.SystemCA && v.SPKIs == nil && v.Hashes == nil {
		r.missing(at.field("trusted_ca"), "none", "trusted_ca, system_root_certs, verify_certificate_spki or verify_certificate_hash")
	}
	for i, n := range m.GetMatchTypedSubjectAltNames() {
		p := at.at("match_typed_subject_alt_names", i)
		kind, known := map[tlsv3.SubjectAltNameMatcher_SanType]config.SANType{
			tlsv3.SubjectAltNameMatcher_EMAIL: config.SANEmail, tlsv3.SubjectAltNameMatcher_DNS: config.SANDNS,
			tlsv3.SubjectAltNameMatcher_URI: config.SANURI, tlsv3.SubjectAltNameMatcher_IP_ADDRESS: config.SANIP,
		}[n.GetSanType()]
		if !known {
			r.wrong(p.field("san_type"), n.GetSanType(), "EMAIL, DNS, URI or IP_ADDRESS")
		}
		v.Names = append(v.Names, config.SANMatch{Type: kind, Match: r.textMatch(p.field("matcher"), n.GetMatcher())})
	}
	//lint:ignore SA1019 it is still sent
	untyped := m.GetMatchSubjectAltNames()
	if len(v.Names) > 0 && len(untyped) > 0 {
		r.wrong(at.field("match_subject_alt_names"), "a value", "it unset with match_typed_subject_alt_names")
	}
	for i, n := range untyped {
		v.Names = append(v.Names, config.SANMatch{Match: r.textMatch(at.at("match_subject_alt_names", i), n)})
	}
	if len(v.Names) > 0 && v.CA.IsZero() && !v.SystemCA {
		r.missing(at.field("trusted_ca"), "none", "one with names to match: anybody can write a name")
	}
	return v
}

// checkedRegexp reports whether an expression compiles and is not too long to be matched with every handshake.
func checkedRegexp(text string) bool {
	if len(text) > maxRegexpLength {
		return false
	}
	_, err := regexp.Compile(text)
	return err == nil
}
