package xds

import (
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/chain"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// chainFields are what the reader below knows of a Listener.
const chainFields = " filter_chains default_filter_chain"

func (schema) addChains(add func(protoreflect.FullName, string)) {
	const listener = "envoy.config.listener.v3."
	add(listener+"FilterChain", "name filters metadata filter_chain_match transport_socket transport_socket_connect_timeout")
	add(listener+"FilterChainMatch", `destination_port prefix_ranges direct_source_prefix_ranges source_type source_prefix_ranges
		source_ports server_names transport_protocol application_protocols`)
	add("envoy.config.core.v3.CidrRange", "address_prefix prefix_len")
}

// chains reads what a listener does with connections. One chain for all of them, in plaintext, is the listener's own HTTP
// or TCP.
func (r *reader) chains(at *path, m *listenerv3.Listener, l *listener) {
	all := m.GetFilterChains()
	if len(all) == 0 && m.GetDefaultFilterChain() == nil {
		r.wrong(at.field("filter_chains"), 0, "at least one filter chain, or default_filter_chain")
		return
	}
	for i, f := range all {
		l.Chains = append(l.Chains, r.chain(at.at("filter_chains", i), f, l))
	}
	if f := m.GetDefaultFilterChain(); f != nil {
		p := at.field("default_filter_chain")
		if f.GetFilterChainMatch() != nil {
			r.wrong(p.field("filter_chain_match"), "a value", "it unset: the default takes what is left")
		}
		l.Otherwise = r.chain(p, f, l)
	}
	if len(r.problems) > 0 {
		return
	}
	if _, err := chain.New(&l.Listener); err != nil {
		r.problems = append(r.problems, problem{at.field("filter_chains").String(), err.Error()})
		return
	}
	if len(l.Chains) == 1 && l.Otherwise == nil && all[0].GetFilterChainMatch() == nil && l.Chains[0].TLS == nil && l.Chains[0].Limit == nil {
		l.HTTP, l.TCP, l.Chains = l.Chains[0].HTTP, l.Chains[0].TCP, nil
	}
}

func (r *reader) chain(at *path, m *listenerv3.FilterChain, l *listener) *config.FilterChain {
	c := &config.FilterChain{
		Name:           m.GetName(),
		Match:          r.chainMatch(at.field("filter_chain_match"), m.GetFilterChainMatch()),
		TLS:            r.downstreamTLS(at.field("transport_socket"), m.GetTransportSocket()),
		ConnectTimeout: r.duration(at.field("transport_socket_connect_timeout"), m.GetTransportSocketConnectTimeout(), 0),
	}
	if last, p := r.limits(at, m.GetFilters(), c); last != nil {
		l.routes = append(l.routes, r.networkFilter(p, last, c, l))
	}
	return c
}

func (r *reader) chainMatch(at *path, m *listenerv3.FilterChainMatch) config.ChainMatch {
	out := config.ChainMatch{
		Port:         uint16(m.GetDestinationPort().GetValue()),
		Destinations: r.prefixes(at, "prefix_ranges", m.GetPrefixRanges()),
		Protocols:    m.GetApplicationProtocols(),
		Directs:      r.prefixes(at, "direct_source_prefix_ranges", m.GetDirectSourcePrefixRanges()),
		Sources:      r.prefixes(at, "source_prefix_ranges", m.GetSourcePrefixRanges()),
	}
	for i, name := range m.GetServerNames() {
		out.ServerNames = append(out.ServerNames, r.serverName(at.at("server_names", i), name))
	}
	switch t := m.GetTransportProtocol(); t {
	case "":
	case "tls":
		out.Transport = config.TransportTLS
	case "raw_buffer":
		out.Transport = config.TransportPlain
	default:
		r.wrong(at.field("transport_protocol"), clip(t), "tls or raw_buffer")
	}
	for i, p := range out.Protocols {
		if p == "" {
			r.wrong(at.at("application_protocols", i), "none", "a protocol such as h2")
		}
	}
	switch t := m.GetSourceType(); t {
	case listenerv3.FilterChainMatch_ANY:
	case listenerv3.FilterChainMatch_SAME_IP_OR_LOOPBACK:
		out.From = config.SourceLocal
	case listenerv3.FilterChainMatch_EXTERNAL:
		out.From = config.SourceExternal
	default:
		r.wrong(at.field("source_type"), t, "ANY, SAME_IP_OR_LOOPBACK or EXTERNAL")
	}
	for _, p := range m.GetSourcePorts() {
		out.SourcePorts = append(out.SourcePorts, uint16(p))
	}
	return out
}

// serverName reads a name, or "*.a.b" as ".a.b". "*" alone is refused, as in Envoy: it would be no match at all.
func (r *reader) serverName(at *path, name string) string {
	name = strings.ToLower(name)
	rest, wild := strings.CutPrefix(name, "*")
	plain := strings.TrimPrefix(rest, ".")
	if wild && !strings.HasPrefix(rest, ".") || plain == "" || strings.ContainsAny(plain, "* ") || plain[0] == '.' || !wild && name[0] == '.' || strings.HasSuffix(plain, ".") {
		r.wrong(at, clip(name), "a name, or one that begins with *.")
	}
	return rest
}

func (r *reader) prefixes(at *path, field string, ranges []*corev3.CidrRange) []netip.Prefix {
	var out []netip.Prefix
	for i, m := range ranges {
		p := at.at(field, i)
		addr, err := netip.ParseAddr(m.GetAddressPrefix())
		if err != nil || addr.Zone() != "" {
			r.wrong(p.field("address_prefix"), clip(m.GetAddressPrefix()), "an IP address")
			continue
		}
		bits := m.GetPrefixLen().GetValue() // unset is 0, as in Envoy
		if int(bits) > addr.BitLen() {
			r.wrong(p.field("prefix_len"), bits, "no more than the address has bits")
			continue
		}
		prefix := netip.PrefixFrom(addr, int(bits))
		if addr.Is4In6() && bits >= 96 {
			prefix = netip.PrefixFrom(addr.Unmap(), int(bits)-96)
		}
		out = append(out, prefix.Masked())
	}
	return out
}
