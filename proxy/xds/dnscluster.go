package xds

//lint:file-ignore SA1019 the form that came before DnsCluster is still sent

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	commondnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	caresv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/network/dns_resolver/cares/v3"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	dnsCluster = "envoy.extensions.clusters.dns.v3.DnsCluster"
	cares      = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
	clusterAPI = "envoy.config.cluster.v3.Cluster"
	dnsFields  = "dns_refresh_rate dns_failure_refresh_rate respect_dns_ttl dns_jitter dns_lookup_family typed_dns_resolver_config"

	// Envoy's defaults.
	defaultDNSRefresh = 5 * time.Second
	defaultDNSTimeout = 5 * time.Second
	defaultDNSTries   = 4
	failureGrowth     = 10 // dns_failure_refresh_rate's max_interval, in base_intervals

	maxDNSTimeout = time.Minute
	maxDNSTries   = 10
	udpBytes      = 1232 // no fragment on any common path
)

// addDNS goes after addCluster: it adds to what a Cluster may have.
func (s schema) addDNS(add func(protoreflect.FullName, string)) {
	for field := range strings.FieldsSeq(dnsFields + " cluster_type") {
		s[clusterAPI][field] = true
	}
	add(clusterAPI+".CustomClusterType", "name typed_config")
	add(clusterAPI+".RefreshRate", "base_interval max_interval")
	add(dnsCluster, dnsFields+" all_addresses_in_single_endpoint dns_min_refresh_rate")
	add(dnsCluster+".RefreshRate", "base_interval max_interval")
	// The options about UDP sockets that are used again are kept by using none again.
	add(cares, `resolvers use_resolvers_as_fallback dns_resolver_options query_timeout_seconds query_tries rotate_nameservers
		edns0_max_payload_size udp_max_queries max_udp_channel_duration reinit_channel_on_timeout`)
	add("envoy.config.core.v3.DnsResolverOptions", "use_tcp_for_dns_lookups no_default_search_domain")
}

// refreshRate is what the messages have in common that say how often a lookup that failed is repeated.
type refreshRate interface {
	GetBaseInterval() *durationpb.Duration
	GetMaxInterval() *durationpb.Duration
}

// byName reads a cluster whose endpoints come from DNS, in the old form and in that of an extension, and reports whether
// it is one.
func (r *reader) byName(at *path, m *clusterv3.Cluster, c *cluster) bool {
	custom := m.GetClusterType()
	isDNS := custom.GetTypedConfig().GetTypeUrl() == typePrefix+dnsCluster
	if custom != nil || m.GetType() != clusterv3.Cluster_STRICT_DNS && m.GetType() != clusterv3.Cluster_LOGICAL_DNS {
		for field := range strings.FieldsSeq(dnsFields) {
			fd := m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(field))
			if m.ProtoReflect().Has(fd) {
				r.wrong(at.field(field), brief(fd, m.ProtoReflect().Get(fd)), "it with type STRICT_DNS or LOGICAL_DNS only")
			}
		}
		if !isDNS {
			return false
		}
	}
	if isDNS {
		own := new(dnsclusterv3.DnsCluster)
		at := at.field("cluster_type").field("typed_config")
		if !r.unpack(at, custom.GetTypedConfig(), own) {
			return true
		}
		c.DNS = r.dnsExtension(at, own)
	} else {
		c.DNS = r.dnsOfType(at, m)
	}
	r.dnsAssignment(at, m, c)
	c.Assigned = true // what there is to wait for is not the server's
	return true
}

func (r *reader) dnsOfType(at *path, m *clusterv3.Cluster) *config.DNS {
	d := &config.DNS{
		Logical:    m.GetType() == clusterv3.Cluster_LOGICAL_DNS,
		Refresh:    r.duration(at.field("dns_refresh_rate"), m.GetDnsRefreshRate(), defaultDNSRefresh),
		RespectTTL: m.GetRespectDnsTtl(),
		Jitter:     r.duration(at.field("dns_jitter"), m.GetDnsJitter(), 0),
		Lookup:     r.resolver(at.field("typed_dns_resolver_config"), m.GetTypedDnsResolverConfig()),
	}
	if rate := m.GetDnsFailureRefreshRate(); rate != nil {
		r.failureRate(at.field("dns_failure_refresh_rate"), rate, d)
	}
	families := map[clusterv3.Cluster_DnsLookupFamily]config.DNSFamily{
		clusterv3.Cluster_AUTO: config.DNSAuto, clusterv3.Cluster_V4_ONLY: config.DNSV4Only, clusterv3.Cluster_V6_ONLY: config.DNSV6Only,
		clusterv3.Cluster_V4_PREFERRED: config.DNSV4Preferred, clusterv3.Cluster_ALL: config.DNSAll,
	}
	family, ok := families[m.GetDnsLookupFamily()]
	if !ok {
		r.wrong(at.field("dns_lookup_family"), m.GetDnsLookupFamily(), "a family of addresses")
	}
	d.Lookup.Family = family
	return d
}

func (r *reader) dnsExtension(at *path, m *dnsclusterv3.DnsCluster) *config.DNS {
	d := &config.DNS{
		Logical:    m.GetAllAddressesInSingleEndpoint(),
		Refresh:    r.duration(at.field("dns_refresh_rate"), m.GetDnsRefreshRate(), defaultDNSRefresh),
		RespectTTL: m.GetRespectDnsTtl(),
		LeastTTL:   r.duration(at.field("dns_min_refresh_rate"), m.GetDnsMinRefreshRate(), 0),
		Jitter:     r.duration(at.field("dns_jitter"), m.GetDnsJitter(), 0),
		Lookup:     r.resolver(at.field("typed_dns_resolver_config"), m.GetTypedDnsResolverConfig()),
	}
	if rate := m.GetDnsFailureRefreshRate(); rate != nil {
		r.failureRate(at.field("dns_failure_refresh_rate"), rate, d)
	}
	families := map[commondnsv3.DnsLookupFamily]config.DNSFamily{
		commondnsv3.DnsLookupFamily_UNSPECIFIED: config.DNSAuto, commondnsv3.DnsLookupFamily_AUTO: config.DNSAuto,
		commondnsv3.DnsLookupFamily_V4_ONLY: config.DNSV4Only, commondnsv3.DnsLookupFamily_V6_ONLY: config.DNSV6Only,
		commondnsv3.DnsLookupFamily_V4_PREFERRED: config.DNSV4Preferred, commondnsv3.DnsLookupFamily_ALL: config.DNSAll,
	}
	family, ok := families[m.GetDnsLookupFamily()]
	if !ok {
		r.wrong(at.field("dns_lookup_family"), m.GetDnsLookupFamily(), "a family of addresses")
	}
	d.Lookup.Family = family
	return d
}

func (r *reader) failureRate(at *path, m refreshRate, d *config.DNS) {
	d.FailureBase = r.duration(at.field("base_interval"), m.GetBaseInterval(), 0)
	d.FailureMost = r.duration(at.field("max_interval"), m.GetMaxInterval(), d.FailureBase*failureGrowth)
	if d.FailureMost < d.FailureBase {
		r.wrong(at.field("max_interval"), d.FailureMost, "at least base_interval, "+d.FailureBase.String())
	}
}

// resolver reads who is asked, and how.
func (r *reader) resolver(at *path, m *corev3.TypedExtensionConfig) config.DNSLookup {
	out := config.DNSLookup{Timeout: defaultDNSTimeout, Tries: defaultDNSTries, UDPBytes: udpBytes}
	if m == nil {
		return out
	}
	at = at.field("typed_config")
	if got := m.GetTypedConfig().GetTypeUrl(); got != typePrefix+cares {
		r.wrong(at, named(m.GetName(), got), cares)
		return out
	}
	own := new(caresv3.CaresDnsResolverConfig)
	if !r.unpack(at, m.GetTypedConfig(), own) {
		return out
	}
	for i, a := range own.GetResolvers() {
		server, ok := r.address(at.at("resolvers", i), a)
		if ok && (server.Port() == 0 || server.Addr().IsUnspecified()) {
			r.wrong(at.at("resolvers", i), server, "an address and port that can be asked")
		}
		if ok && !slices.Contains(out.Servers, server) {
			out.Servers = append(out.Servers, server)
		}
	}
	out.Fallback, out.Rotate = own.GetUseResolversAsFallback(), own.GetRotateNameservers()
	out.TCP, out.AsIs = own.GetDnsResolverOptions().GetUseTcpForDnsLookups(), own.GetDnsResolverOptions().GetNoDefaultSearchDomain()
	if s := own.GetQueryTimeoutSeconds(); s != nil {
		if out.Timeout = maxDNSTimeout; s.GetValue() == 0 || s.GetValue() > uint64(maxDNSTimeout/time.Second) {
			r.wrong(at.field("query_timeout_seconds"), s.GetValue(), "1 to 60")
		} else {
			out.Timeout = time.Duration(s.GetValue()) * time.Second
		}
	}
	if n := own.GetQueryTries(); n != nil {
		if out.Tries = int(min(n.GetValue(), maxDNSTries)); n.GetValue() == 0 || n.GetValue() > maxDNSTries {
			r.wrong(at.field("query_tries"), n.GetValue(), "1 to 10")
		}
	}
	if n := own.GetEdns0MaxPayloadSize(); n != nil {
		out.UDPBytes = uint16(n.GetValue()) // 512 to 4096 by the API's own rule
	}
	return out
}

// dnsAssignment reads the names.
func (r *reader) dnsAssignment(at *path, m *clusterv3.Cluster, c *cluster) {
	if m.GetEdsClusterConfig() != nil {
		r.wrong(at.field("eds_cluster_config"), "a value", "it unset in a cluster that is found by name")
	}
	a := m.GetLoadAssignment()
	at = at.field("load_assignment")
	c.Overprovisioning = a.GetPolicy().GetOverprovisioningFactor().GetValue()
	for i, l := range a.GetEndpoints() {
		for j, e := range l.GetLbEndpoints() {
			name, ok := r.dnsName(at.at("endpoints", i).at("lb_endpoints", j), e)
			if !ok {
				continue
			}
			if !c.DNS.Logical { // the only host there is needs no priority
				name.As.Priority = l.GetPriority()
			}
			name.As.LocalityWeight = l.GetLoadBalancingWeight().GetValue()
			name.As.Locality = config.Locality{
				Region:  intern(l.GetLocality().GetRegion()),
				Zone:    intern(l.GetLocality().GetZone()),
				SubZone: intern(l.GetLocality().GetSubZone()),
			}
			c.DNS.Names = append(c.DNS.Names, name)
		}
	}
	if c.DNS.Logical && (len(a.GetEndpoints()) != 1 || len(a.GetEndpoints()[0].GetLbEndpoints()) != 1) {
		r.wrong(at.field("endpoints"), "another number of endpoints", "exactly one endpoint in a cluster that is one logical host")
	}
}

func (r *reader) dnsName(at *path, m *endpointv3.LbEndpoint) (config.DNSName, bool) {
	if m.GetEndpoint() == nil {
		r.wrong(at, "no endpoint", "an endpoint")
		return config.DNSName{}, false
	}
	p := at.field("endpoint").field("address")
	s := m.GetEndpoint().GetAddress().GetSocketAddress()
	if pipe := m.GetEndpoint().GetAddress().GetPipe(); pipe != nil {
		r.wrong(p.field("pipe"), strconv.Quote(clip(pipe.GetPath())), "a socket_address in a cluster that is found by name")
		return config.DNSName{}, false
	}
	if s == nil {
		r.missing(p, "no socket_address", "a socket_address")
		return config.DNSName{}, false
	}
	p = p.field("socket_address")
	if s.GetProtocol() != corev3.SocketAddress_TCP {
		r.wrong(p.field("protocol"), s.GetProtocol(), "TCP")
	}
	if s.GetPortValue() == 0 || s.GetPortValue() > 65535 {
		r.wrong(p.field("port_value"), s.GetPortValue(), "a port, 1 to 65535")
	}
	host := strings.ToLower(s.GetAddress())
	if ip, err := netip.ParseAddr(host); err == nil && (ip.IsUnspecified() || ip.Zone() != "") || err != nil && !isDNSName(host) {
		r.wrong(p.field("address"), clip(s.GetAddress()), "a name that DNS can have, or an IP address that can be dialled")
		return config.DNSName{}, false
	}
	out := config.DNSName{Host: intern(host), Port: uint16(s.GetPortValue())}
	r.endpointValues(at, m, &out.As)
	if out.As.Hostname == "" {
		out.As.Hostname = intern(s.GetAddress())
	}
	return out, true
}

// isDNSName reports whether a name can be asked for: labels of letters, digits, '-' and '_' (services have it), with or
// without the dot at the end. One that consists of digits only is an address with a mistake.
func isDNSName(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 || !strings.ContainsAny(name, "abcdefghijklmnopqrstuvwxyz_") {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' }) {
			return false
		}
	}
	return true
}
