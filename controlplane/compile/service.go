package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// service is one compiled service: everything that is served of it, for each kind of client. It is immutable.
type service struct {
	src   *registry.Service
	fqdn  string
	forms []string // the names it goes by, fqdn first
	addr  netip.Addr
	ports []port // that have a resource; the main port first
	all   [kinds][types][]*Resource
	hosts *block // its part of the outbound routes
}

// port is a port of a service with the names that its resources have.
type port struct {
	registry.Port
	cluster string
	route   string
}

// http reports whether requests can be told apart on p.
func (p port) http() bool {
	return p.Protocol == registry.HTTP || p.Protocol == registry.HTTP2 || p.Protocol == registry.GRPC
}

// newService compiles src. Resources that say what old's say are old's.
func newService(old *service, src *registry.Service, domain string) *service {
	fqdn := src.Name.Name + "." + src.Name.Namespace + "." + domain
	s := &service{src: src, fqdn: fqdn, forms: []string{fqdn}, addr: LoopbackAddr(src.Name)}
	if src.Name.Namespace == registry.DefaultNamespace {
		s.forms = append(s.forms, src.Name.Name+"."+domain)
	}
	s.ports = servedPorts(src.Ports, fqdn)
	for _, p := range s.ports {
		s.addPort(old, p)
	}
	s.addListeners(old)
	s.addDirect(old)
	s.hosts = s.outboundHosts(old)
	return s
}

// servedPorts returns the ports that get resources. HTTP comes before the rest and port 80 before the other HTTP ports,
// otherwise the order is that of the service; the first is the service's main port. UDP is not proxied, and of two
// ports with one number only the first can be told apart.
func servedPorts(declared []registry.Port, fqdn string) []port {
	ports := make([]port, 0, len(declared))
	for _, p := range declared {
		taken := slices.ContainsFunc(ports, func(other port) bool { return other.Number == p.Number })
		if p.Number == 0 || p.Protocol == registry.UDP || taken {
			continue
		}
		number := strconv.Itoa(int(p.Number))
		ports = append(ports, port{Port: p, cluster: "outbound|" + number + "||" + fqdn, route: fqdn + ":" + number})
	}
	rank := func(p port) int {
		switch {
		case !p.http():
			return 2
		case p.Number != 80:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(ports, func(a, b port) int { return rank(a) - rank(b) })
	return ports
}

// httpPorts returns the leading ports of s that speak HTTP.
func (s *service) httpPorts() []port {
	n := slices.IndexFunc(s.ports, func(p port) bool { return !p.http() })
	if n < 0 {
		n = len(s.ports)
	}
	return s.ports[:n]
}

// dialPort is the port that a gRPC client means who names none: the first that declares gRPC, else HTTP/2, else the
// main port.
func (s *service) dialPort() port {
	for _, want := range []registry.Protocol{registry.GRPC, registry.HTTP2} {
		if i := slices.IndexFunc(s.ports, func(p port) bool { return p.Protocol == want }); i >= 0 {
			return s.ports[i]
		}
	}
	return s.ports[0]
}

// addPort compiles what one port needs: its cluster, its endpoints and the routes to it.
func (s *service) addPort(old *service, p port) {
	shared := func(t Type, r *Resource) {
		for k := range kinds {
			s.all[k][t] = append(s.all[k][t], r)
		}
	}
	shared(Cluster, newResource(old.find(Proxy, Cluster, p.cluster), Cluster, p.cluster, clusterFor(p)))
	shared(Route, newResource(old.find(Proxy, Route, p.route), Route, p.route, s.routesFor(p)))

	addresses := s.addresses(p)
	eds := newResource(old.find(Proxy, Endpoint, p.cluster), Endpoint, p.cluster, assignment(p, addresses, false))
	s.all[Proxy][Endpoint] = append(s.all[Proxy][Endpoint], eds)
	if len(addresses) > 0 && !slices.ContainsFunc(addresses, address.serving) {
		eds = newResource(old.find(GRPC, Endpoint, p.cluster), Endpoint, p.cluster, assignment(p, addresses, true))
	}
	s.all[GRPC][Endpoint] = append(s.all[GRPC][Endpoint], eds)
}

// addListeners compiles the listeners: for proxies one for all ports, for gRPC one for each way to write the target.
func (s *service) addListeners(old *service) {
	if len(s.ports) == 0 {
		return
	}
	all := newResource(old.find(Proxy, Listener, s.fqdn), Listener, s.fqdn, s.listener())
	s.all[Proxy][Listener] = append(s.all[Proxy][Listener], all)
	api := func(name string, p port) {
		r := newResource(old.find(GRPC, Listener, name), Listener, name, apiListener(name, p))
		s.all[GRPC][Listener] = append(s.all[GRPC][Listener], r)
	}
	for _, form := range s.forms {
		api(form, s.dialPort())
		for _, p := range s.ports {
			api(form+":"+strconv.Itoa(int(p.Number)), p)
		}
	}
}

// addDirect compiles a cluster by the service's own name if no loopback address stands for all of it: a port of UDP is not proxied,
// of a service without ports nobody knows what they are, and one without endpoints may be an alias. It is for resolvers on mesh
// hosts, which ask for it by name: no wildcard has it.
func (s *service) addDirect(old *service) {
	udp := slices.IndexFunc(s.src.Ports, func(p registry.Port) bool { return p.Protocol == registry.UDP })
	alias := s.src.ExternalName != "" && len(s.src.Endpoints) == 0
	if udp < 0 && len(s.src.Ports) > 0 && !alias {
		return
	}
	p := port{cluster: s.fqdn}
	if udp >= 0 {
		p.Port = s.src.Ports[udp]
	}
	cluster := clusterFor(p)
	if alias {
		cluster = aliasCluster(s.fqdn, s.src.ExternalName)
	} else {
		addresses := s.placed(func(e *registry.Endpoint) uint16 { return max(e.Port(p.Name), anyPort) })
		s.all[Proxy][Endpoint] = append(s.all[Proxy][Endpoint], newResource(old.find(Proxy, Endpoint, s.fqdn), Endpoint, s.fqdn, assignment(p, addresses, false)))
	}
	s.all[Proxy][Cluster] = append(s.all[Proxy][Cluster], newResource(old.find(Proxy, Cluster, s.fqdn), Cluster, s.fqdn, cluster))
}

// isDirect reports whether a cluster's name is that of one by addDirect.
func isDirect(name string) bool { return !strings.Contains(name, "|") }

// resources returns what clients of kind k can see of s, which may be nil.
func (s *service) resources(k Kind, t Type, hidden bool) []*Resource {
	if s == nil || hidden && k == Proxy && t == Listener {
		return nil
	}
	return s.all[k][t]
}

func (s *service) find(k Kind, t Type, name string) *Resource {
	return find(s.resources(k, t, false), name)
}

// collisions finds the services whose loopback address belongs to one that stands before them.
func collisions(services []*service) (map[registry.Name]bool, []Conflict) {
	owners := make(map[netip.Addr]registry.Name, len(services))
	hidden := map[registry.Name]bool{}
	var conflicts []Conflict
	for _, s := range services {
		owner, taken := owners[s.addr]
		if !taken {
			owners[s.addr] = s.src.Name
			continue
		}
		hidden[s.src.Name] = true
		conflicts = append(conflicts, Conflict{s.src.Name, fmt.Sprintf("loopback address %s is that of %s", s.addr, owner)})
	}
	return hidden, conflicts
}
