package xds

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// maxBootstrapBytes bounds what is read of a bootstrap file.
const maxBootstrapBytes = 16 << 20

// maxSocketPath is sun_path's room less the final NUL.
const maxSocketPath = 107

// Bootstrap is what a proxy is started with. ReadBootstrap makes it of a file; where none is wanted, its exported
// fields are enough. It must not be changed once a Client has it.
type Bootstrap struct {
	Node Node
	// Control is the xDS server: "unix:/path", or an address and port of the loopback. Empty: there is none, all
	// configuration is static.
	Control string
	// Admin is where the administration interface listens; the zero AddrPort is nowhere.
	Admin netip.AddrPort
	// Overload is what overload_manager and layered_runtime say; nil: nothing.
	Overload *config.Overload

	noLDS, noCDS bool
	fetch        [kinds]*time.Duration // how long the first answers about all of a kind are waited for; nil: fetchTimeout
	listeners    []*listener           // static_resources
	clusters     []*cluster
	message      []byte // the file in protobuf's wire form, nil if there was none
}

// Node is who the proxy is to the xDS server.
type Node struct {
	ID       string
	Cluster  string
	Locality config.Locality
	// Metadata has JSON's types: string, float64, bool, nil, []any, map[string]any.
	Metadata map[string]any
}

// ReadBootstrap reads an Envoy bootstrap file, YAML or JSON. It is strict: what this proxy does not do is an error
// that names it. The error has a line for each mistake, as "file:line: path: got X, want Y".
func ReadBootstrap(file string) (*Bootstrap, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read bootstrap: %w", err)
	}
	if info.Size() > maxBootstrapBytes {
		return nil, fmt.Errorf("%s:1: bootstrap: got %d bytes, want at most %d", file, info.Size(), maxBootstrapBytes)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read bootstrap: %w", err)
	}
	return parseBootstrap(file, data)
}

func parseBootstrap(file string, data []byte) (*Bootstrap, error) {
	m := new(bootstrapv3.Bootstrap)
	doc, err := unmarshalFile(file, data, m)
	if err != nil {
		return nil, err
	}
	r := &reader{rules: rules{schema: newSchema()}}
	b := r.bootstrap(m)
	doc.add(r.problems)
	if err := doc.err(); err != nil {
		return nil, err
	}
	if b.message, err = proto.Marshal(m); err != nil {
		return nil, fmt.Errorf("keep bootstrap %s: %w", file, err)
	}
	return b, nil
}

func (r *reader) bootstrap(m *bootstrapv3.Bootstrap) *Bootstrap {
	// Clusters are checked one by one: the xDS server's has rules of its own.
	rest := &bootstrapv3.Bootstrap{}
	proto.Merge(rest, m)
	if rest.GetStaticResources() != nil {
		rest.StaticResources.Clusters = nil
	}
	r.check(nil, rest)
	b := &Bootstrap{Node: readNode(m.GetNode())}
	if m.GetAdmin().GetAddress() != nil {
		b.Admin, _ = r.address((*path)(nil).field("admin").field("address"), m.GetAdmin().GetAddress())
	}
	controlCluster := r.dynamic((*path)(nil).field("dynamic_resources"), m.GetDynamicResources(), b)
	if b.Control != "" || controlCluster != "" {
		if b.Node.ID == "" {
			r.wrong((*path)(nil).field("node").field("id"), "none", "the id that the xDS server knows this proxy by")
		}
	}
	if manager, runtime := m.GetOverloadManager(), m.GetLayeredRuntime(); manager != nil || runtime != nil {
		b.Overload = &config.Overload{}
		r.runtime((*path)(nil).field("layered_runtime"), runtime, b.Overload)
		r.overload((*path)(nil).field("overload_manager"), manager, b.Overload)
	}
	r.staticResources((*path)(nil).field("static_resources"), m.GetStaticResources(), controlCluster, b)
	if controlCluster != "" && b.Control == "" && len(r.problems) == 0 {
		r.wrong((*path)(nil).field("dynamic_resources").field("ads_config").at("grpc_services", 0).field("envoy_grpc").field("cluster_name"),
			clip(controlCluster), "the name of a static cluster")
	}
	return b
}

func readNode(m *corev3.Node) Node {
	return Node{
		ID: m.GetId(), Cluster: m.GetCluster(), Metadata: m.GetMetadata().AsMap(),
		Locality: config.Locality{Region: m.GetLocality().GetRegion(), Zone: m.GetLocality().GetZone(), SubZone: m.GetLocality().GetSubZone()},
	}
}

// dynamic reads dynamic_resources. When the server is a static cluster, its name is returned.
func (r *reader) dynamic(at *path, m *bootstrapv3.Bootstrap_DynamicResources, b *Bootstrap) string {
	b.noLDS, b.noCDS = m.GetLdsConfig() == nil, m.GetCdsConfig() == nil
	if !b.noLDS {
		fetch := r.ads(at.field("lds_config"), m.GetLdsConfig())
		b.fetch[listeners] = &fetch
	}
	if !b.noCDS {
		fetch := r.ads(at.field("cds_config"), m.GetCdsConfig())
		b.fetch[clusters] = &fetch
	}
	api := m.GetAdsConfig()
	at = at.field("ads_config")
	if api == nil {
		if !b.noLDS || !b.noCDS {
			r.wrong(at, "nothing", "the xDS server that lds_config and cds_config refer to")
		}
		return ""
	}
	if api.GetApiType() != corev3.ApiConfigSource_DELTA_GRPC {
		r.wrong(at.field("api_type"), api.GetApiType(), "DELTA_GRPC")
	}
	r.v3(at.field("transport_api_version"), api.GetTransportApiVersion())
	services := api.GetGrpcServices()
	if len(services) != 1 {
		r.wrong(at.field("grpc_services"), len(services), "exactly one")
		return ""
	}
	at = at.at("grpc_services", 0)
	if google := services[0].GetGoogleGrpc(); google != nil {
		b.Control = r.control(at.field("google_grpc").field("target_uri"), google.GetTargetUri())
		return ""
	}
	return services[0].GetEnvoyGrpc().GetClusterName()
}

// control checks the address of the xDS server.
func (r *reader) control(at *path, target string) string {
	if _, _, wrong := ParseControl(target); wrong != nil {
		r.wrong(at, wrong.Got, wrong.Want)
		return ""
	}
	return target
}

func (r *reader) staticResources(at *path, m *bootstrapv3.Bootstrap_StaticResources, controlCluster string, b *Bootstrap) {
	seen := map[string]bool{}
	once := func(p *path, name string) {
		if seen[name] {
			r.wrong(p.field("name"), clip(name), "each name once")
		}
		seen[name] = true
	}
	server := controlCluster != "" || b.Control != ""
	for i, c := range m.GetClusters() {
		p := at.at("clusters", i)
		once(p, c.GetName())
		if c.GetName() == controlCluster && controlCluster != "" {
			b.Control = r.controlCluster(p, c)
			continue
		}
		if !r.check(p, c) {
			continue
		}
		made := r.cluster(p, c)
		if made.eds != "" && !server {
			r.wrong(p.field("type"), "EDS", "STATIC: there is no dynamic_resources.ads_config")
		}
		b.clusters = append(b.clusters, made)
	}
	clear(seen)
	for i, l := range m.GetListeners() {
		p := at.at("listeners", i)
		once(p, l.GetName())
		made := r.listener(p, l)
		if slices.ContainsFunc(made.routes, func(name string) bool { return name != "" }) && !server {
			r.wrong(p, "rds", "route_config: there is no dynamic_resources.ads_config")
		}
		b.listeners = append(b.listeners, made)
	}
}

// controlCluster reads the cluster that leads to the xDS server.
func (r *reader) controlCluster(at *path, m *clusterv3.Cluster) string {
	own := &reader{rules: rules{schema: r.schema.forControl()}}
	defer func() { r.problems = append(r.problems, own.problems...) }()
	if !own.check(at, m) {
		return ""
	}
	switch m.GetType() {
	case clusterv3.Cluster_STATIC, clusterv3.Cluster_STRICT_DNS, clusterv3.Cluster_LOGICAL_DNS:
	default:
		own.wrong(at.field("type"), m.GetType(), "STATIC, STRICT_DNS or LOGICAL_DNS")
	}
	at = at.field("load_assignment")
	groups := m.GetLoadAssignment().GetEndpoints()
	if len(groups) != 1 || len(groups[0].GetLbEndpoints()) != 1 {
		own.wrong(at.field("endpoints"), "another number of endpoints", "exactly one endpoint")
		return ""
	}
	at = at.at("endpoints", 0).at("lb_endpoints", 0).field("endpoint").field("address")
	address := groups[0].GetLbEndpoints()[0].GetEndpoint().GetAddress()
	if p := address.GetPipe(); p != nil {
		if p.GetMode() != 0 {
			own.wrong(at.field("pipe").field("mode"), p.GetMode(), "it unset: the server makes its socket")
		}
		return own.control(at.field("pipe").field("path"), "unix:"+p.GetPath())
	}
	s := address.GetSocketAddress()
	return own.control(at.field("socket_address"), net.JoinHostPort(s.GetAddress(), strconv.FormatUint(uint64(s.GetPortValue()), 10)))
}

// forControl is the schema of the cluster that leads to the xDS server: HTTP/2 is what it speaks.
func (s schema) forControl() schema {
	own := maps.Clone(s)
	for message, field := range map[string]string{
		"envoy.config.cluster.v3.Cluster":                                           "http2_protocol_options",
		"envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig": "http2_protocol_options",
	} {
		known := maps.Clone(own[protoreflect.FullName(message)])
		known[field] = true
		own[protoreflect.FullName(message)] = known
	}
	for field := range strings.FieldsSeq(dnsFields + " cluster_type transport_socket transport_socket_matches") { // the server is on this host: nothing is looked up
		delete(own[clusterAPI], field)
	}
	own["envoy.config.core.v3.Http2ProtocolOptions"] = map[string]bool{}
	for _, f := range healthFields() { // gRPC does its own
		delete(own["envoy.config.cluster.v3.Cluster"], f)
	}
	return own
}

// AddressError says why an address of an xDS server is not taken.
type AddressError struct{ Got, Want string }

// Error returns "got X, want Y".
func (e *AddressError) Error() string { return "got " + e.Got + ", want " + e.Want }

// ParseControl splits the address of an xDS server for a dialler. Until hosts have identities configuration is not
// taken from other hosts: a Unix socket ("unix:/path", "unix:///path") and the loopback are all that is allowed.
func ParseControl(target string) (network, address string, wrong *AddressError) {
	refuse := func(want string) (string, string, *AddressError) {
		return "", "", &AddressError{strconv.Quote(clip(target)), want}
	}
	if p, ok := strings.CutPrefix(target, "unix:"); ok {
		p = strings.Replace(p, "///", "/", 1)
		if len(p) < 2 || p[0] != '/' && p[0] != '@' {
			return refuse("unix: and an absolute path")
		}
		if len(p) > maxSocketPath {
			return refuse("a path of at most " + strconv.Itoa(maxSocketPath) + " bytes, the limit of Unix sockets")
		}
		return "unix", p, nil
	}
	plain := target
	for _, scheme := range []string{"dns:///", "ipv4:", "ipv6:"} {
		plain = strings.TrimPrefix(plain, scheme)
	}
	host, port, err := net.SplitHostPort(plain)
	number, badPort := strconv.ParseUint(port, 10, 16)
	if err != nil || badPort != nil || number == 0 {
		return refuse("unix:/path or a loopback address with a port")
	}
	ip, err := netip.ParseAddr(host)
	if host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
		return refuse("unix:/path or a loopback address: other hosts are not trusted before hosts have identities")
	}
	return "tcp", plain, nil
}

// proto is the node as it is sent.
func (n Node) proto(version string) (*corev3.Node, error) {
	metadata, err := structpb.NewStruct(n.Metadata)
	if err != nil {
		return nil, fmt.Errorf("encode metadata of node %q: %w", n.ID, err)
	}
	m := &corev3.Node{
		Id: n.ID, Cluster: n.Cluster, Metadata: metadata, UserAgentName: "mesh-proxy",
		UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: version},
	}
	if n.Locality != (config.Locality{}) {
		m.Locality = &corev3.Locality{Region: n.Locality.Region, Zone: n.Locality.Zone, SubZone: n.Locality.SubZone}
	}
	return m, nil
}

// proto is the bootstrap as /config_dump shows it.
func (b *Bootstrap) proto() (*bootstrapv3.Bootstrap, error) {
	m := new(bootstrapv3.Bootstrap)
	if b.message != nil {
		if err := proto.Unmarshal(b.message, m); err != nil {
			return nil, fmt.Errorf("decode kept bootstrap: %w", err)
		}
		return m, nil
	}
	node, err := b.Node.proto("")
	if err != nil {
		return nil, err
	}
	ads := &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
	m.Node = node
	m.DynamicResources = &bootstrapv3.Bootstrap_DynamicResources{
		LdsConfig: ads, CdsConfig: ads,
		AdsConfig: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_GoogleGrpc_{
				GoogleGrpc: &corev3.GrpcService_GoogleGrpc{TargetUri: b.Control, StatPrefix: "control"},
			}}},
		},
	}
	if b.Admin.IsValid() {
		m.Admin = &bootstrapv3.Admin{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
			Address: b.Admin.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(b.Admin.Port())},
		}}}}
	}
	return m, nil
}
