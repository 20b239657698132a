package zone

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/registry"
)

// service makes the records of one service.
func (b *Builder) service(s *registry.Service) *dnsserver.Branch {
	owners := []string{Key(s.Name)}
	if s.Name.Namespace == registry.DefaultNamespace {
		owners = append(owners, s.Name.Name)
	}
	n := b.begin(s, owners, func(e *registry.Endpoint) string { return Label(e.Addr) + "." + owners[0] })
	if !n.alias() {
		n.endpoints()
		n.addresses()
		n.ports()
	}
	if b.opts.Provenance {
		n.provenance()
	}
	return dnsserver.NewBranch(b.origin, 0, n.names)
}

// naming is the names of one service in the making.
type naming struct {
	builder  *Builder
	service  *registry.Service
	owners   []string                          // what the service is called
	endpoint func(e *registry.Endpoint) string // what an endpoint is called
	targets  map[netip.Addr]dnsserver.Name     // what an SRV record calls an address
	serving  []*registry.Endpoint              // those that are answered
	placed   bool                              // it is known where some of them are
	names    map[string][]dnsserver.Set
}

func (b *Builder) begin(s *registry.Service, owners []string, endpoint func(e *registry.Endpoint) string) *naming {
	n := &naming{
		builder: b, service: s, owners: owners, endpoint: endpoint, serving: serving(s.Endpoints),
		targets: make(map[netip.Addr]dnsserver.Name, len(s.Endpoints)),
		names:   make(map[string][]dnsserver.Set, len(s.Endpoints)+(2*len(s.Ports)+1)*len(owners)),
	}
	n.placed = slices.ContainsFunc(n.serving, func(e *registry.Endpoint) bool { return e.Locality != registry.Locality{} })
	return n
}

// alias names an external name's service.
func (n *naming) alias() bool {
	if n.service.ExternalName == "" || len(n.service.Endpoints) > 0 {
		return false
	}
	target, err := dnsserver.ParseName(n.service.ExternalName)
	if err != nil {
		return false
	}
	for _, owner := range n.owners {
		n.names[owner] = []dnsserver.Set{{Type: dns.TypeCNAME, TTL: n.builder.opts.TTL, Data: [][]byte{[]byte(target)}}}
	}
	return true
}

// endpoints names every endpoint, serving or not.
func (n *naming) endpoints() {
	for _, e := range n.service.Endpoints {
		if _, ok := n.targets[e.Addr]; !ok {
			label := n.endpoint(e)
			n.names[label] = dnsserver.Addresses(n.builder.opts.TTL, []netip.Addr{e.Addr.WithZone("")}, nil)
			n.targets[e.Addr], _ = dnsserver.Join(label, n.builder.origin) // a name that cannot be has no record
		}
	}
}

// addresses are those of what serves.
func (n *naming) addresses() {
	addrs, order := make([]netip.Addr, 0, len(n.serving)), &dnsserver.Order{Weights: make([]uint32, 0, len(n.serving))}
	for _, e := range n.serving {
		addrs, order.Weights = append(addrs, e.Addr.WithZone("")), append(order.Weights, e.Weight)
		if n.placed {
			order.Localities = append(order.Localities, dnsserver.Locality(e.Locality))
		}
	}
	for _, owner := range n.owners {
		n.names[owner] = dnsserver.Addresses(n.builder.opts.TTL, addrs, order)
	}
}

// ports are the SRV records of each port and of all together, and how else a port is found.
func (n *naming) ports() {
	ports := make(map[string][]record, len(n.service.Ports))
	var all []record
	heaviest := heaviest(n.serving)
	for _, p := range n.service.Ports {
		var srv []record
		for _, e := range n.serving {
			if number := e.Port(p.Name); number != 0 && n.targets[e.Addr] != "" {
				srv = append(srv, record{weight(e.Weight, heaviest), number, n.targets[e.Addr], dnsserver.Locality(e.Locality)})
			}
		}
		if len(n.targets) < len(n.service.Endpoints) {
			srv = onePerPlace(srv)
		}
		name := p.ServiceLabels()
		if name != "" {
			ports[name] = append(ports[name], srv...) // two names may differ only in what DNS cannot tell
		}
		all = append(all, srv...)
		for _, owner := range n.owners {
			n.bind(p, name, owner, srv)
		}
	}
	for _, owner := range n.owners {
		n.names[owner] = append(n.names[owner], n.serviceSet(all))
		for name, srv := range ports {
			n.names[name+"."+owner] = append(n.names[name+"."+owner], n.serviceSet(srv))
		}
	}
}

// record is one SRV record to be.
type record struct {
	weight, port uint16
	target       dnsserver.Name
	place        dnsserver.Locality
}

func (n *naming) serviceSet(srv []record) dnsserver.Set {
	set := dnsserver.Set{Type: dns.TypeSRV, TTL: n.builder.opts.TTL, Order: &dnsserver.Order{}}
	for _, r := range srv {
		set.Data = append(set.Data, dnsserver.ServiceData(0, r.weight, r.port, r.target))
		set.Order.Weights = append(set.Order.Weights, uint32(r.weight))
		if n.placed {
			set.Order.Localities = append(set.Order.Localities, r.place)
		}
	}
	return set
}

// bind adds the SVCB or HTTPS records (RFC 9460) of a port whose protocol says what is spoken: name is the one of its SRV
// records. HTTPS is for what https:// reaches, so for TLS alone: at the service's name for port 443, else below the port's.
func (n *naming) bind(p registry.Port, name, owner string, srv []record) {
	rtype, at, alpn := dns.TypeSVCB, name+"."+owner, []string(nil)
	switch {
	case len(srv) == 0 || name == "":
		return
	case p.Protocol == registry.HTTP:
		alpn = []string{"http/1.1"}
	case p.Protocol == registry.HTTP2 || p.Protocol == registry.GRPC:
		alpn = []string{"h2"}
	case p.Protocol == registry.TLS && (p.Name == "https" || strings.HasPrefix(p.Name, "https-")):
		rtype, alpn = dns.TypeHTTPS, []string{"h2", "http/1.1"}
		const usual = 443
		if at = owner; p.Number != usual {
			at = fmt.Sprintf("_%d._https.%s", p.Number, owner)
		}
	default:
		return
	}
	set := dnsserver.Set{Type: rtype, TTL: n.builder.opts.TTL}
	service, err := dnsserver.Join(owner, n.builder.origin)
	if err == nil && !slices.ContainsFunc(srv, func(r record) bool { return r.port != srv[0].port }) {
		set.Data = [][]byte{dnsserver.BindingData(1, service, alpn, srv[0].port)} // all of the service's addresses have it there
	} else {
		for _, r := range srv {
			set.Data = append(set.Data, dnsserver.BindingData(1, r.target, alpn, r.port))
		}
	}
	n.names[at] = append(n.names[at], set)
}

// provenance adds TXT records: for a service one of each registry that reports it, for an endpoint what is known of it.
func (n *naming) provenance() {
	type share struct{ endpoints, serving int }
	shares := map[string]share{}
	var sources []string
	for _, e := range n.service.Endpoints {
		for _, source := range e.Sources {
			if _, ok := shares[source]; !ok {
				sources = append(sources, source)
			}
			one := shares[source]
			one.endpoints++
			if e.Health.Serving() {
				one.serving++
			}
			shares[source] = one
		}
		texts := []string{"sources=" + strings.Join(e.Sources, ","), "health=" + e.Health.String(), fmt.Sprintf("weight=%d", e.Weight)}
		if e.Host != "" {
			texts = append(texts, "host="+e.Host)
		}
		if e.Doubt != nil {
			texts = append(texts, "doubted="+e.Doubt.Reason)
		}
		n.text(n.endpoint(e), texts...)
	}
	for _, source := range sources {
		for _, owner := range n.owners {
			n.text(owner, "source="+source, fmt.Sprintf("endpoints=%d", shares[source].endpoints), fmt.Sprintf("serving=%d", shares[source].serving))
		}
	}
}

// text adds a TXT record to a name.
func (n *naming) text(owner string, texts ...string) {
	data := dnsserver.TextData(texts...)
	for i := range n.names[owner] {
		if s := &n.names[owner][i]; s.Type == dns.TypeTXT {
			s.Data = append(s.Data, data)
			return
		}
	}
	n.names[owner] = append(n.names[owner], dnsserver.Set{Type: dns.TypeTXT, TTL: n.builder.opts.TTL, Data: [][]byte{data}})
}

// onePerPlace makes one record of those of endpoints that share a port, with the sum of their weights: a record set has no
// record twice.
func onePerPlace(all []record) []record {
	type place struct {
		target dnsserver.Name
		port   uint16
	}
	first := make(map[place]int, len(all))
	kept := all[:0]
	for _, r := range all {
		at := place{r.target, r.port}
		if i, ok := first[at]; ok {
			kept[i].weight = uint16(min(uint32(kept[i].weight)+uint32(r.weight), math.MaxUint16))
			continue
		}
		first[at] = len(kept)
		kept = append(kept, r)
	}
	return kept
}

// serving returns the endpoints that serve, or all when none does: then health says more about who checks.
func serving(all []*registry.Endpoint) []*registry.Endpoint {
	some := make([]*registry.Endpoint, 0, len(all))
	for _, e := range all {
		if e.Health.Serving() {
			some = append(some, e)
		}
	}
	if len(some) == 0 {
		return all
	}
	return some
}

func heaviest(all []*registry.Endpoint) (most uint32) {
	for _, e := range all {
		most = max(most, e.Weight)
	}
	return most
}

// weight returns a weight as SRV can tell it, in 16 bits. Where the heaviest of a service is more than that, all are told
// in proportion, so that the shares stay; 0 would be next to never (RFC 2782).
func weight(own, heaviest uint32) uint16 {
	if heaviest <= math.MaxUint16 {
		return uint16(own)
	}
	return uint16(max((uint64(own)*math.MaxUint16+uint64(heaviest)/2)/uint64(heaviest), 1))
}

// Label returns the label of the endpoints at an address. Different addresses have different labels.
func Label(addr netip.Addr) string {
	addr = addr.WithZone("")
	if addr.Is4() {
		return strings.ReplaceAll(addr.String(), ".", "-")
	}
	return strings.ReplaceAll(addr.StringExpanded(), ":", "-")
}
