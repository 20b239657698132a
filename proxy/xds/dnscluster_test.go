package xds

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	oneName  = "load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: Web.example, port_value: 80}}}}]}]}\n"
	strict   = "name: x\ntype: STRICT_DNS\n"
	resolver = `typed_dns_resolver_config: {name: envoy.network.dns_resolver.cares, typed_config: {"@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, `
	typed    = "name: x\ncluster_type: {name: envoy.clusters.dns, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, "
)

func TestDecodeClustersByName(t *testing.T) {
	compare := cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })
	web := []config.DNSName{{Host: "web.example", Port: 80, As: config.Endpoint{Hostname: "Web.example", Weight: 1}}}
	lookup := config.DNSLookup{Timeout: 5 * time.Second, Tries: 4, UDPBytes: 1232}
	with := func(change func(d *config.DNS)) *config.DNS {
		d := &config.DNS{Names: web, Lookup: lookup, Refresh: 5 * time.Second}
		change(d)
		return d
	}
	for _, c := range []struct {
		name, text string
		want       *config.DNS
	}{
		{"defaults", strict + oneName, with(func(d *config.DNS) {})},
		{"no name", strict, with(func(d *config.DNS) { d.Names = nil })},
		{"logical", "name: x\ntype: LOGICAL_DNS\n" + oneName, with(func(d *config.DNS) { d.Logical = true })},
		{
			"all fields", strict + oneName + `dns_refresh_rate: 60s
dns_failure_refresh_rate: {base_interval: 2s}
respect_dns_ttl: true
dns_jitter: 1.5s
dns_lookup_family: V4_PREFERRED
` + resolver + `resolvers: [{socket_address: {address: 127.0.0.1, port_value: 53}}, {socket_address: {address: "::1", port_value: 5353}}],
  dns_resolver_options: {use_tcp_for_dns_lookups: true, no_default_search_domain: true}, use_resolvers_as_fallback: true, query_timeout_seconds: 3,
  query_tries: 2, rotate_nameservers: true, edns0_max_payload_size: 4096, udp_max_queries: 7, max_udp_channel_duration: 3s, reinit_channel_on_timeout: true}}`,
			with(func(d *config.DNS) {
				d.Refresh, d.FailureBase, d.FailureMost, d.RespectTTL, d.Jitter = time.Minute, 2*time.Second, 20*time.Second, true, 1500*time.Millisecond
				d.Lookup = config.DNSLookup{
					Family: config.DNSV4Preferred, Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("[::1]:5353")},
					Fallback: true, Rotate: true, TCP: true, AsIs: true, Timeout: 3 * time.Second, Tries: 2, UDPBytes: 4096,
				}
			}),
		},
		{
			"extension", typed + "dns_min_refresh_rate: 4s, respect_dns_ttl: true, dns_lookup_family: ALL, dns_failure_refresh_rate: {base_interval: 1s, max_interval: 3s}}}\n" + oneName,
			with(func(d *config.DNS) {
				d.RespectTTL, d.LeastTTL, d.FailureBase, d.FailureMost, d.Lookup.Family = true, 4*time.Second, time.Second, 3*time.Second, config.DNSAll
			}),
		},
		{"logical extension", typed + "all_addresses_in_single_endpoint: true}}\n" + oneName, with(func(d *config.DNS) { d.Logical = true })},
		{
			"endpoints", strict + `load_assignment: {cluster_name: x, policy: {overprovisioning_factor: 150}, endpoints: [{locality: {zone: a}, load_balancing_weight: 9, priority: 1, lb_endpoints: [
  {load_balancing_weight: 7, health_status: DEGRADED, endpoint: {hostname: h, address: {socket_address: {address: _a._tcp.example., port_value: 80}}}},
  {endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 81}}}}]}]}`,
			with(func(d *config.DNS) {
				zone := config.Locality{Zone: "a"}
				d.Names = []config.DNSName{
					{Host: "_a._tcp.example.", Port: 80, As: config.Endpoint{Hostname: "h", Weight: 7, Priority: 1, Health: config.Degraded, Locality: zone, LocalityWeight: 9}},
					{Host: "10.0.0.1", Port: 81, As: config.Endpoint{Hostname: "10.0.0.1", Weight: 1, Priority: 1, Locality: zone, LocalityWeight: 9}},
				}
			}),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decoded(t, clusters, c.text)
			if err != nil {
				t.Fatal(err)
			}
			made := got.(*cluster)
			if diff := cmp.Diff(c.want, made.DNS, compare); diff != "" {
				t.Error(diff)
			}
			if !made.Assigned || made.eds != "" || made.Endpoints != nil {
				t.Errorf("got %+v", made.Cluster)
			}
		})
	}
}

func TestClustersByNameRefused(t *testing.T) {
	name := func(address string) string { return strict + strings.Replace(oneName, "Web.example", address, 1) }
	const at = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address"
	two := strings.Replace(oneName, "}]}]}", "}, {endpoint: {address: {socket_address: {address: b, port_value: 80}}}}]}]}", 1)
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"empty label", name("a..example"), []string{at + ".socket_address.address: got a..example, want a name that DNS can have"}},
		{"space", name(`"a b"`), []string{"got a b"}},
		{"dash", name("-a.example"), []string{"got -a.example"}},
		{"slash", name("a/b"), []string{"got a/b"}},
		{"long label", name(strings.Repeat("a", 64)), []string{"got aaa"}},
		{"long name", name(strings.Repeat("a.", 127) + "aa"), []string{"got a.a"}},
		{"address with a mistake", name("10.0.0.256"), []string{"got 10.0.0.256"}},
		{"unspecified", name("0.0.0.0"), []string{"got 0.0.0.0"}},
		{"zone", name(`"fe80::1%eth0"`), []string{"got fe80::1%eth0"}},
		{"port 0", strings.Replace(strict+oneName, "80", "0", 1), []string{at + ".socket_address.port_value: got 0"}},
		{"pipe", strict + "load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /x}}}}]}]}", []string{at + `.pipe: got "/x", want a socket_address in a cluster that is found by name`}},
		{"resolver name", strings.Replace(strict+oneName, "port_value: 80", "port_value: 80, resolver_name: r", 1), []string{at + ".socket_address.resolver_name: got r"}},
		{"logical with two", "name: x\ntype: LOGICAL_DNS\n" + two, []string{"load_assignment.endpoints: got another number of endpoints"}},
		{"logical with none", "name: x\ntype: LOGICAL_DNS\n", []string{"load_assignment.endpoints: got another number of endpoints"}},
		{"eds", strict + oneName + "eds_cluster_config: {eds_config: {ads: {}}}", []string{"eds_cluster_config: got a value"}},
		{"fields of DNS elsewhere", "name: x\ntype: STATIC\nrespect_dns_ttl: true\ndns_lookup_family: V4_ONLY", []string{"respect_dns_ttl: got true, want it with type STRICT_DNS", "dns_lookup_family: got V4_ONLY"}},
		{"fields beside the extension", typed + "}}\nrespect_dns_ttl: true\n" + oneName, []string{"respect_dns_ttl: got true"}},
		{"another extension", "name: x\ncluster_type: {name: a, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}", []string{"cluster_type: got", "want a type, or envoy.extensions.clusters.dns.v3.DnsCluster"}},
		{"failure rate", strict + oneName + "dns_failure_refresh_rate: {base_interval: 5s, max_interval: 2s}", []string{"dns_failure_refresh_rate.max_interval: got 2s, want at least base_interval, 5s"}},
		{"rate of nothing", strict + oneName + "dns_refresh_rate: 0s", []string{"DnsRefreshRate"}},
		{"old resolvers", strict + oneName + "dns_resolvers: [{socket_address: {address: 127.0.0.1, port_value: 53}}]\nuse_tcp_for_dns_lookups: true", []string{"dns_resolvers: got a value", "use_tcp_for_dns_lookups: got true"}},
		{"another resolver", strict + oneName + `typed_dns_resolver_config: {name: g, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}`, []string{"typed_dns_resolver_config.typed_config: got", "want envoy.extensions.network.dns_resolver.cares"}},
		{"size", strict + oneName + resolver + "edns0_max_payload_size: 511}}", []string{"Edns0MaxPayloadSize"}},
		{"resolver", strict + oneName + resolver + `resolvers: [{socket_address: {address: dns.example, port_value: 53}}, {socket_address: {address: 127.0.0.1, port_value: 0}}],
  filter_unroutable_families: true, query_timeout_seconds: 61, query_tries: 11, qcache_max_ttl: 5}}`, []string{
			"typed_config.resolvers[0].socket_address.address: got dns.example", "typed_config.resolvers[1]: got 127.0.0.1:0", "typed_config.filter_unroutable_families: got true",
			"typed_config.query_timeout_seconds: got 61", "typed_config.query_tries: got 11", "typed_config.qcache_max_ttl: got 5",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decoded(t, clusters, c.text)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want it to contain %q", err, want)
				}
			}
		})
	}
}

// FuzzDNSName: every name that is taken can be asked for, and is the one that is asked for.
func FuzzDNSName(f *testing.F) {
	for _, name := range []string{"web.example", "web.example.", "_http._tcp.a-b.example", "a..b", "10.0.0.1", "x\\046y.example", strings.Repeat("a.", 127)} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !isDNSName(name) {
			return
		}
		raw, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
		if err != nil {
			t.Fatalf("%q cannot be asked for: %v", name, err)
		}
		back := new(dns.Msg)
		if err := back.Unpack(raw); err != nil || len(back.Question) != 1 || back.Question[0].Name != dns.Fqdn(name) {
			t.Errorf("%q: asked for %v, %v", name, back.Question, err)
		}
	})
}
