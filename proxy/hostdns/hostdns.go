// Package hostdns answers the mesh's names on a mesh host, so that they lead through the proxy.
//
// A name that is asked for is asked of the control plane, and answered when what it leads to is here: a service has the loopback
// address at which its listener accepts connections, or the addresses of its endpoints if no proxy stands for them. That a name does
// not exist is said only when the control plane said so. What is not known within a second is SERVFAIL with an explanation.
//
// What it answers comes from the proxy's configuration alone, so it answers when the control plane is away, after a restart too.
package hostdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	ttl         = 30 // seconds, of loopback addresses: they do not change
	endpointTTL = 5
	negativeTTL = 1

	bindRetry     = time.Second
	bindRetrySoon = 20 * time.Millisecond // another process has the address, which is about to end
)

// DefaultAddr is where it listens unless it is told otherwise.
func DefaultAddr() netip.AddrPort { return netip.MustParseAddrPort("127.15.0.53:53") }

// Control is who tells of services.
type Control interface {
	// Want asks for services by their names. What there is comes with the configuration.
	Want(services ...string)
	// Unknown says why the configuration does not tell of a service.
	Unknown(service string) string
}

// Places is who gives services their addresses.
type Places interface {
	// Withheld says why a service has no address here; empty if it has, or is not known.
	Withheld(service string) string
	// Keep has a service remembered that has none.
	Keep(service string)
}

// Options say what a Resolver works with.
type Options struct {
	Domain string // without a last dot
	// Addr is where it listens, over UDP and TCP.
	Addr netip.AddrPort
	// Given are the sockets of the process before, see Resolver.Sockets. They are Run's.
	Given []int
	// Config has the services' listeners, at the addresses that they have on this host, and clusters.
	Config *watch.Value[*config.Config]
	// Bound has the listening addresses, with the errors of those that could not be bound.
	Bound   *watch.Value[map[netip.AddrPort]error]
	Control Control
	Places  Places
	Log     *slog.Logger
}

// Resolver is made by New and runs once. Its methods are safe for concurrent use.
type Resolver struct {
	opts   Options
	origin dnsserver.Name
	server atomic.Pointer[dnsserver.Server] // nil: it does not listen yet
	zone   atomic.Pointer[dnsserver.Zone]

	mu       sync.Mutex
	answered map[string]answer // guarded by mu: the services in the zone
}

// answer is what is answered for a service and what it was made of, of which one is set.
type answer struct {
	listener *config.Listener
	cluster  *config.Cluster
	branch   *dnsserver.Branch
}

// New returns a Resolver that does nothing until Run.
func New(o Options) (*Resolver, error) {
	origin, err := dnsserver.ParseName(o.Domain)
	if err != nil {
		return nil, fmt.Errorf("make resolver: %w", err)
	}
	r := &Resolver{opts: o, origin: origin, answered: map[string]answer{}}
	r.zone.Store(dnsserver.NewZone(dnsserver.Apex{
		Origin: o.Domain, Serial: serial(), TTL: ttl, NegativeTTL: negativeTTL,
		NameServers: []dnsserver.NameServer{{Name: "localhost.host." + o.Domain, Addrs: []netip.Addr{o.Addr.Addr()}}},
	}, map[string]*dnsserver.Branch{
		// Namespaces exist if they have no service of their name; of this one everybody knows.
		"": dnsserver.NewBranch(origin, 1, map[string][]dnsserver.Set{"default": nil}),
	}))
	return r, nil
}

// Run answers until ctx ends. An address that cannot be had is reported and waited for.
func (r *Resolver) Run(ctx context.Context) error {
	server := r.listen(ctx)
	if server == nil {
		return nil
	}
	r.server.Store(server)
	r.opts.Log.Info("answering DNS", "domain", r.opts.Domain, "address", r.opts.Addr)
	ended := make(chan struct{})
	go func() { defer close(ended); r.follow(ctx) }()
	err := server.Run(ctx)
	<-ended
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// Sockets returns copies of the sockets on which it listens, for the process that comes after; they are the caller's. There are none while
// it does not listen.
func (r *Resolver) Sockets() ([]int, error) {
	server := r.server.Load()
	if server == nil {
		return nil, nil
	}
	return server.Sockets()
}

// listen returns a server that listens, nil when ctx ended.
func (r *Resolver) listen(ctx context.Context) *dnsserver.Server {
	for first := true; ; first = false {
		var given []int
		if first {
			given = r.opts.Given
		}
		server := dnsserver.New(dnsserver.Options{
			Addrs: []string{r.opts.Addr.String()}, Given: given, Log: r.opts.Log, Await: r.await,
			Zones: func() []*dnsserver.Zone { return []*dnsserver.Zone{r.zone.Load()} },
		})
		err := server.Listen()
		if err == nil {
			return server
		}
		if first {
			r.opts.Log.Error("the mesh's names are not answered yet, trying again", "err", err)
		}
		wait := bindRetry
		if errors.Is(err, syscall.EADDRINUSE) {
			wait = bindRetrySoon
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// follow takes services out of the zone that are no longer what they were.
func (r *Resolver) follow(ctx context.Context) {
	for {
		cfg, changed := r.opts.Config.Get()
		r.drop(cfg)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (r *Resolver) drop(cfg *config.Config) {
	if cfg == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := map[string]*dnsserver.Branch{}
	for service, a := range r.answered {
		now := look(cfg, service)
		if now.cluster == a.cluster && (now.listener == a.listener || now.cluster != nil) {
			continue
		}
		if now.listener != nil && a.listener != nil && slices.Equal(now.listener.Addresses, a.listener.Addresses) && maps.Equal(now.listener.PortLabels, a.listener.PortLabels) {
			r.answered[service] = answer{listener: now.listener, branch: a.branch}
			continue
		}
		if now.cluster != nil {
			now.branch = r.branch(service, now)
			r.answered[service], changed[service] = now, now.branch
			continue
		}
		delete(r.answered, service)
		changed[service] = nil
	}
	r.change(changed)
}

// look finds what there is of a service. A cluster of its name is for services that no proxy stands for.
func look(cfg *config.Config, service string) answer {
	if c := cfg.Clusters[service]; c != nil && c.Assigned {
		return answer{cluster: c}
	}
	i, ok := slices.BinarySearchFunc(cfg.Listeners, service, func(l *config.Listener, name string) int { return strings.Compare(l.Name, name) })
	if !ok {
		return answer{}
	}
	return answer{listener: cfg.Listeners[i]}
}

// change answers from the zone with other branches for some services, nil for none. It takes time for these, not for all services. mu
// is held.
func (r *Resolver) change(services map[string]*dnsserver.Branch) {
	if len(services) > 0 {
		r.zone.Store(r.zone.Load().Next(serial(), services))
	}
}

// serial is the zone's: nobody copies it.
func serial() uint32 { return uint32(time.Now().Unix()) }

// branch makes the records of a service.
func (r *Resolver) branch(service string, a answer) *dnsserver.Branch {
	relative := strings.TrimSuffix(service, "."+r.opts.Domain)
	names := []string{relative}
	if name, ok := strings.CutSuffix(relative, ".default"); ok {
		names = append(names, name)
	}
	sets := map[string][]dnsserver.Set{}
	for _, name := range names {
		sets[name] = r.sets(name, a)
		r.ports(sets, name, a.listener)
	}
	return dnsserver.NewBranch(r.origin, 0, sets)
}

// sets are the records at one of a service's names.
func (r *Resolver) sets(name string, a answer) []dnsserver.Set {
	if a.cluster != nil && a.cluster.DNS != nil {
		return alias(a.cluster.DNS)
	}
	if a.listener == nil {
		addrs := addresses(a.cluster, func(h config.Health) bool { return h == config.Healthy })
		if len(addrs) == 0 {
			addrs = addresses(a.cluster, func(config.Health) bool { return true })
		}
		return dnsserver.Addresses(endpointTTL, addrs, nil)
	}
	sets := dnsserver.Addresses(ttl, []netip.Addr{a.listener.Addresses[0].Addr()}, nil)
	return append(sets, r.srv(name, a.listener, func(uint16) bool { return true }))
}

// ports adds what is at the names of a service's ports: they lead to its loopback address, as all of it does.
func (r *Resolver) ports(sets map[string][]dnsserver.Set, name string, l *config.Listener) {
	if l == nil {
		return
	}
	for _, at := range l.Addresses {
		if label := l.PortLabels[at.Port()]; label != "" {
			sets[label+"."+name] = []dnsserver.Set{r.srv(name, l, func(port uint16) bool { return l.PortLabels[port] == label })}
		}
	}
}

// srv is the SRV records of some of a listener's ports, whose target is the service itself.
func (r *Resolver) srv(name string, l *config.Listener, of func(port uint16) bool) dnsserver.Set {
	srv := dnsserver.Set{Type: dns.TypeSRV, TTL: ttl}
	target, err := dnsserver.Join(name, r.origin)
	if err != nil {
		return srv
	}
	for _, at := range l.Addresses {
		if of(at.Port()) {
			srv.Data = append(srv.Data, dnsserver.ServiceData(0, 0, at.Port(), target))
		}
	}
	return srv
}

// alias is what is answered for a service that is another name for something outside of the mesh.
func alias(to *config.DNS) []dnsserver.Set {
	if len(to.Names) == 0 {
		return nil
	}
	target, err := dnsserver.ParseName(to.Names[0].Host)
	if err != nil {
		return nil
	}
	return []dnsserver.Set{{Type: dns.TypeCNAME, TTL: endpointTTL, Data: [][]byte{[]byte(target)}}}
}

// addresses are those of a cluster's endpoints of some health, once each.
func addresses(c *config.Cluster, of func(config.Health) bool) []netip.Addr {
	var addrs []netip.Addr
	for _, e := range c.Endpoints {
		if e.Addr.IP.IsValid() && of(e.Health) && !slices.Contains(addrs, e.Addr.IP.Addr()) {
			addrs = append(addrs, e.Addr.IP.Addr())
		}
	}
	return addrs
}

// Stats returns the queries by rcode, such as "SERVFAIL".
func (r *Resolver) Stats() map[string]uint64 {
	sums := map[string]uint64{}
	if server := r.server.Load(); server != nil {
		for _, q := range server.Stats().Queries {
			sums[q.Rcode] += q.Count
		}
	}
	return sums
}

// Services are those that are answered now, sorted.
func (r *Resolver) Services() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.answered))
}
