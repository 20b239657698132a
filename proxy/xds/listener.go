package xds

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	typePrefix = "type.googleapis.com/"
	hcmType    = typePrefix + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	tcpType    = typePrefix + "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	routerType = typePrefix + "envoy.extensions.filters.http.router.v3.Router"
)

// listener is a decoded Listener. For each of its chains, in their order, routes has the name under which its table comes
// by RDS, so that its HTTP.Routes is nil until then; or it is empty.
type listener struct {
	config.Listener
	routes []string
	fetch  map[string]time.Duration // how long a table is waited for, by that name; 0: for ever
}

// listener reads a Listener.
func (r *reader) listener(at *path, m *listenerv3.Listener) *listener {
	l := &listener{Listener: config.Listener{Name: m.GetName()}}
	if m.GetName() == "" {
		r.wrong(at.field("name"), "none", "a name")
	}
	r.listenerAddress(at.field("address"), m.GetAddress(), l)
	for i, additional := range m.GetAdditionalAddresses() {
		r.listenerAddress(at.at("additional_addresses", i).field("address"), additional.GetAddress(), l)
	}
	if reuse := m.GetEnableReusePort(); reuse != nil && !reuse.GetValue() {
		r.wrong(at.field("enable_reuse_port"), false, "true or nothing")
	}
	if bind := m.GetBindToPort(); bind != nil && !bind.GetValue() {
		r.wrong(at.field("bind_to_port"), false, "true or nothing")
	}
	l.AccessLogs = r.accessLogs(at, m.GetAccessLog())
	l.Keepalive = r.tcpKeepalive(at.field("tcp_keepalive"), m.GetTcpKeepalive())
	l.Balance = r.balance(m.GetConnectionBalanceConfig())
	l.PortLabels = r.portLabels(at.field("metadata").field("filter_metadata"), m.GetMetadata())
	r.listenerFilters(at, m, l)
	r.chains(at, m, l)
	return l
}

// portMetadata is where mesh control tells how a listener's ports are called in DNS.
const portMetadata = "hostmesh.ports"

// portLabels reads how ports are called in DNS.
func (r *reader) portLabels(at *path, m *corev3.Metadata) map[uint16]string {
	told := m.GetFilterMetadata()[portMetadata]
	if told == nil {
		return nil
	}
	labels := make(map[uint16]string, len(told.GetFields()))
	for number, value := range told.GetFields() {
		port, err := strconv.ParseUint(number, 10, 16)
		label := value.GetStringValue()
		if service, proto, ok := strings.Cut(label, "."); err != nil || !ok || len(service) < 2 || service[0] != '_' || proto != "_tcp" {
			r.wrong(at.field(portMetadata), strconv.Quote(clip(number))+": "+strconv.Quote(clip(label)), `a port's number with a name such as "_http._tcp"`)
			continue
		}
		labels[uint16(port)] = intern(label)
	}
	return labels
}

// listenerAddress reads an address to listen on, of either kind.
func (r *reader) listenerAddress(at *path, m *corev3.Address, l *listener) {
	pipe := m.GetPipe()
	if pipe == nil {
		a, ok := r.address(at, m)
		if ok && slices.Contains(l.Addresses, a) {
			r.wrong(at, a, "each address once")
		} else if ok {
			l.Addresses = append(l.Addresses, a)
		}
		return
	}
	at = at.field("pipe")
	p := config.Pipe{Path: pipe.GetPath(), Mode: pipe.GetMode()}
	switch {
	case !r.socketPath(at.field("path"), p.Path):
	case slices.ContainsFunc(l.Pipes, func(other config.Pipe) bool { return other.Path == p.Path }):
		r.wrong(at.field("path"), p.Path, "each address once")
	case p.Mode > 0o777:
		r.wrong(at.field("mode"), p.Mode, "a mode of at most 0777")
	case p.Mode != 0 && p.Path[0] == '@':
		r.wrong(at.field("mode"), p.Mode, "it unset with a name that begins with @")
	default:
		l.Pipes = append(l.Pipes, p)
	}
}

// socketPath checks where a unix socket is.
func (r *reader) socketPath(at *path, p string) bool {
	switch {
	case len(p) < 2 || p[0] != '/' && p[0] != '@' || strings.ContainsRune(p, 0):
		r.wrong(at, strconv.Quote(clip(p)), "an absolute path, or a name that begins with @")
	case len(p) > maxSocketPath:
		r.wrong(at, strconv.Quote(clip(p)), "a path of at most "+strconv.Itoa(maxSocketPath)+" bytes, the limit of Unix sockets")
	default:
		return true
	}
	return false
}

// networkFilter reads what a chain does. It returns the name of the route table if that comes by RDS.
func (r *reader) networkFilter(at *path, f *listenerv3.Filter, c *config.FilterChain, l *listener) (routes string) {
	typed := f.GetTypedConfig()
	p := at.field("typed_config")
	switch typed.GetTypeUrl() {
	case hcmType:
		m := new(hcmv3.HttpConnectionManager)
		if r.unpack(p, typed, m) {
			var fetch time.Duration
			if c.HTTP, routes, fetch = r.http(p, m); routes != "" {
				if l.fetch == nil {
					l.fetch = map[string]time.Duration{}
				}
				l.fetch[routes] = fetch
			}
		}
	case tcpType:
		m := new(tcpv3.TcpProxy)
		if r.unpack(p, typed, m) {
			c.TCP = r.tcp(p, m)
		}
	default:
		r.wrong(at, named(f.GetName(), typed.GetTypeUrl()), "envoy.filters.network.http_connection_manager or envoy.filters.network.tcp_proxy")
	}
	return routes
}

// named is how a filter or extension is called in a complaint.
func named(name, typeURL string) string {
	typeURL = strings.TrimPrefix(typeURL, typePrefix)
	switch {
	case typeURL == "":
		return clip(name) + " without a typed_config"
	case name == "":
		return clip(typeURL)
	}
	return clip(name) + " (" + clip(typeURL) + ")"
}

// http reads an HttpConnectionManager, and the name of its route table, with how long that is waited for, if it comes by RDS.
func (r *reader) http(at *path, m *hcmv3.HttpConnectionManager) (h *config.HTTP, routes string, fetch time.Duration) {
	common := m.GetCommonHttpProtocolOptions()
	h = &config.HTTP{
		StatPrefix:            m.GetStatPrefix(),
		RequestHeadersTimeout: r.duration(at.field("request_headers_timeout"), m.GetRequestHeadersTimeout(), 0),
		RequestTimeout:        r.duration(at.field("request_timeout"), m.GetRequestTimeout(), 0),
		StreamIdleTimeout:     r.duration(at.field("stream_idle_timeout"), m.GetStreamIdleTimeout(), 5*time.Minute),
		DrainTimeout:          r.duration(at.field("drain_timeout"), m.GetDrainTimeout(), 5*time.Second),
		DelayedCloseTimeout:   r.duration(at.field("delayed_close_timeout"), m.GetDelayedCloseTimeout(), time.Second),
		IdleTimeout:           r.duration(at.field("common_http_protocol_options").field("idle_timeout"), common.GetIdleTimeout(), time.Hour),
		MaxRequestHeadBytes:   60 << 10,
		MaxRequestHeaders:     100,
		UseRemoteAddress:      m.GetUseRemoteAddress().GetValue(),
		XFFTrustedHops:        int(m.GetXffNumTrustedHops()),
		GenerateRequestID:     m.GetGenerateRequestId() == nil || m.GetGenerateRequestId().GetValue(),
		ServerName:            m.GetServerName(),
		AccessLogs:            r.accessLogs(at, m.GetAccessLog()),
		RequestPolicy:         r.requestPolicy(at, m),
	}
	r.codec(at, m, h)
	if h.RequestHeadersTimeout == 0 {
		h.RequestHeadersTimeout = h.StreamIdleTimeout // a head that never ends would hold its connection for ever; so does Envoy
	}
	if h.ServerName == "" {
		h.ServerName = "envoy"
	}
	if kb := m.GetMaxRequestHeadersKb(); kb != nil {
		h.MaxRequestHeadBytes = int(kb.GetValue()) << 10
	}
	if n := common.GetMaxHeadersCount(); n != nil {
		h.MaxRequestHeaders = int(n.GetValue())
	}
	h.Upgrades = r.upgrades(at, m.GetUpgradeConfigs())
	r.httpFilters(at, m.GetHttpFilters(), h)
	switch {
	case m.GetRouteConfig() != nil:
		h.Routes = r.routes(at.field("route_config"), m.GetRouteConfig())
	case m.GetRds() != nil:
		fetch = r.ads(at.field("rds").field("config_source"), m.GetRds().GetConfigSource())
		if m.GetRds().GetRouteConfigName() == "" {
			r.wrong(at.field("rds").field("route_config_name"), "none", "the name of a route configuration")
		}
	default:
		r.missing(at, "no routes", "rds or route_config")
	}
	return h, m.GetRds().GetRouteConfigName(), fetch
}

// httpFilters reads the filters: the router is the last and, so far, only one.
func (r *reader) httpFilters(at *path, filters []*hcmv3.HttpFilter, h *config.HTTP) {
	for i, f := range filters {
		p := at.at("http_filters", i)
		typed := f.GetTypedConfig()
		if typed.GetTypeUrl() != routerType {
			r.wrong(p, named(f.GetName(), typed.GetTypeUrl()), "envoy.filters.http.router ("+strings.TrimPrefix(routerType, typePrefix)+")")
			continue
		}
		router := new(routerv3.Router)
		r.unpack(p.field("typed_config"), typed, router)
		h.SuppressEnvoyHeaders = router.GetSuppressEnvoyHeaders()
	}
	if len(filters) != 1 {
		r.wrong(at.field("http_filters"), len(filters), "exactly one filter: envoy.filters.http.router")
	}
}

// maxConnectAttempts bounds what one client can have a loop do in one turn: some attempts fail at once.
const maxConnectAttempts = 100

func (r *reader) tcp(at *path, m *tcpv3.TcpProxy) *config.TCP {
	t := &config.TCP{
		StatPrefix:  m.GetStatPrefix(),
		IdleTimeout: r.duration(at.field("idle_timeout"), m.GetIdleTimeout(), time.Hour),
		Attempts:    m.GetMaxConnectAttempts().GetValue(),
		AccessLogs:  r.accessLogs(at, m.GetAccessLog()),
	}
	if t.Attempts > maxConnectAttempts {
		r.wrong(at.field("max_connect_attempts"), t.Attempts, "at most 100")
	}
	if w := m.GetWeightedClusters(); w != nil {
		for _, c := range w.GetClusters() {
			if c.GetWeight() > 0 {
				t.Clusters = append(t.Clusters, config.WeightedCluster{Name: intern(c.GetName()), Weight: c.GetWeight(), Labels: labels(m.GetMetadataMatch(), c.GetMetadataMatch())})
			}
		}
		if len(t.Clusters) == 0 {
			r.wrong(at.field("weighted_clusters"), "no weight", "a cluster with a weight of at least 1")
		}
		return t
	}
	if m.GetCluster() == "" {
		r.wrong(at.field("cluster"), "none", "cluster or weighted_clusters")
	}
	t.Clusters = []config.WeightedCluster{{Name: intern(m.GetCluster()), Weight: 1, Labels: labels(m.GetMetadataMatch())}}
	return t
}

// dataSource is the text that stands in the configuration itself.
func dataSource(d *corev3.DataSource) string {
	if b := d.GetInlineBytes(); len(b) > 0 {
		return string(b)
	}
	return d.GetInlineString()
}

// address reads an IP address and TCP port.
func (r *reader) address(at *path, m *corev3.Address) (netip.AddrPort, bool) {
	s := m.GetSocketAddress()
	if s == nil {
		r.missing(at, "no socket_address", "a socket_address")
		return netip.AddrPort{}, false
	}
	at = at.field("socket_address")
	if s.GetProtocol() != corev3.SocketAddress_TCP {
		r.wrong(at.field("protocol"), s.GetProtocol(), "TCP")
	}
	ip, err := netip.ParseAddr(s.GetAddress())
	if err != nil {
		r.wrong(at.field("address"), clip(s.GetAddress()), "an IP address")
		return netip.AddrPort{}, false
	}
	if _, numbered := s.GetPortSpecifier().(*corev3.SocketAddress_PortValue); !numbered || s.GetPortValue() > 65535 {
		r.wrong(at.field("port_value"), s.GetPortValue(), "a port")
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip, uint16(s.GetPortValue())), true
}

// ads checks that a resource is to come from the one stream there is, and returns how long it is waited for at first; 0: for ever.
func (r *reader) ads(at *path, m *corev3.ConfigSource) (fetch time.Duration) {
	if m.GetAds() == nil {
		r.missing(at, "another source", "ads: {}")
	}
	r.v3(at.field("resource_api_version"), m.GetResourceApiVersion())
	return r.duration(at.field("initial_fetch_timeout"), m.GetInitialFetchTimeout(), fetchTimeout)
}

// v3 allows V3 and, as Envoy does today, AUTO which means the same.
func (r *reader) v3(at *path, v corev3.ApiVersion) {
	if v != corev3.ApiVersion_V3 && v != corev3.ApiVersion_AUTO {
		r.wrong(at, v, "V3")
	}
}

// duration reads a duration of at least 0; unset means otherwise.
func (r *reader) duration(at *path, d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	v := d.AsDuration()
	if err := d.CheckValid(); err != nil || v < 0 {
		r.wrong(at, v, "a duration of at least 0s")
		return otherwise
	}
	return v
}
