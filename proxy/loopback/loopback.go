// Package loopback gives the services that this host calls their addresses in 127.64.0.0/10.
//
// It stands between the control plane's configuration and the data path. The address in a service's listener is a wish: it is what
// the service has on every host, unless another service has it here. What was given is kept on disk, so that an address that some
// program remembers leads to the same service after a restart, and to no other one for 90 days after the service is gone.
//
// Where connections to these addresses are steered to the proxy by the kernel (package steer), that is all. Elsewhere their ports
// are bound, which a program that listens on all addresses of the host can be in the way of, and which can be in the way of its
// restart. So a port on which such a program was found, or may be found, is bound for the services only that the operator names;
// other services with such a port are withheld: their names have no address.
package loopback

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// Range is where services have their addresses.
func Range() netip.Prefix { return netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 64}), 10) }

// Steered is where the socket listens to which the kernel steers connections to any address and port of Range. No service has it.
func Steered() netip.Addr { return netip.AddrFrom4([4]byte{127, 64}) }

// Steers reports whether the kernel steers connections, by making some to ports on which nobody listens.
func Steers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, port := range []uint16{1, 2} {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp4", netip.AddrPortFrom(Steered(), port).String())
		if err != nil {
			return false
		}
		_ = conn.Close()
	}
	return true
}

// Options say what an Addresses works with.
type Options struct {
	// Config is what the control plane says.
	Config *watch.Value[*config.Config]
	// StateDir is the directory of the table; empty: none is kept.
	StateDir string
	// Steered: the ports are not bound.
	Steered bool
	// Named reports whether the operator names a service as one that this host calls.
	Named func(service string) bool
	// Taken returns the ports on which programs of this host may want to listen on all addresses, with what is known of them. It is
	// called when a service is new or changed.
	Taken func() map[uint16]string
	Log   *slog.Logger
}

// Addresses gives addresses. Its methods are safe for concurrent use.
type Addresses struct {
	opts Options
	out  *watch.Value[*config.Config]

	mu       sync.Mutex
	table    *table                     // guarded by mu, as is everything below
	source   *config.Config             // that was taken last
	made     map[*config.Listener]given // by what the control plane says
	withheld map[string]string          // service → why
}

// given is what has become of a listener.
type given struct {
	out *config.Listener // nil: it is withheld
	why string
}

// New returns an Addresses that holds what Options.Config has now. A table that cannot be read is reported and begun anew.
func New(o Options) *Addresses {
	a := &Addresses{opts: o, out: watch.New[*config.Config](nil), table: openTable(o.StateDir, o.Log, time.Now()), made: map[*config.Listener]given{}}
	a.take(o.Config.Load(), time.Now())
	return a
}

// Config is the configuration to serve: that of Options, its listeners at the addresses that they have here.
func (a *Addresses) Config() *watch.Value[*config.Config] { return a.out }

// Names are the services that this host has called, for the control plane to be asked about them.
func (a *Addresses) Names() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.table.names()
}

// Keep has a service remembered that has no address here.
func (a *Addresses) Keep(service string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.table.entries[service] == nil {
		a.table.entries[service], a.table.dirty = &entry{}, true
		a.table.flush()
	}
}

// Withheld says why a service's listener is not in the configuration, empty if that is for another reason.
func (a *Addresses) Withheld(service string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.withheld[service]
}

// Run follows the configuration, and what became of binding its addresses, until ctx ends. bound has the addresses that were tried,
// with the error of each that is not bound.
func (a *Addresses) Run(ctx context.Context, bound *watch.Value[map[netip.AddrPort]error]) error {
	for {
		cfg, changed := a.opts.Config.Get()
		outcome, tried := bound.Get()
		a.refused(outcome, time.Now())
		a.take(cfg, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tried:
		}
	}
}

// refused notes the ports that could not be bound.
func (a *Addresses) refused(outcome map[netip.AddrPort]error, now time.Time) {
	if a.opts.Steered {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for at, err := range outcome {
		service := a.table.owner(at.Addr())
		if err == nil || service == "" || a.table.ports[at.Port()] != nil || a.opts.Named(service) {
			continue
		}
		a.opts.Log.Warn("port of a loopback address cannot be bound: services with this port that upstreams does not name have no address",
			"service", service, "address", at, "err", err)
		a.table.ports[at.Port()], a.table.dirty = &port{Why: err.Error(), Found: now}, true
		clear(a.made) // which is looked at anew
	}
}

// take makes the next configuration.
func (a *Addresses) take(cfg *config.Config, now time.Time) {
	if cfg == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var taken map[uint16]string
	made := make(map[*config.Listener]given, len(a.made))
	a.withheld = map[string]string{}
	next := *cfg
	next.Listeners = make([]*config.Listener, 0, len(cfg.Listeners))
	for _, l := range cfg.Listeners {
		if !ours(l) {
			next.Listeners = append(next.Listeners, l)
			continue
		}
		g, known := a.made[l]
		if !known {
			if taken == nil {
				taken = a.taken()
			}
			g = a.place(l, taken)
		}
		made[l] = g
		if g.out == nil {
			a.withheld[l.Name] = g.why
			continue
		}
		next.Listeners = append(next.Listeners, g.out)
	}
	a.made = made
	a.table.follow(cfg, now)
	a.table.flush()
	old := a.out.Load()
	if slices.Equal(next.Listeners, cfg.Listeners) {
		next.Listeners = cfg.Listeners
	}
	if cfg != a.source || !slices.Equal(old.Listeners, next.Listeners) {
		a.source = cfg
		a.out.Set(&next)
	}
}

// ours reports whether a listener is that of a service at a loopback address.
func ours(l *config.Listener) bool {
	return len(l.Addresses) > 0 && !slices.ContainsFunc(l.Addresses, func(at netip.AddrPort) bool { return !Range().Contains(at.Addr()) })
}

// place gives a service its address.
func (a *Addresses) place(l *config.Listener, taken map[uint16]string) given {
	if !a.opts.Steered && !a.opts.Named(l.Name) {
		for _, at := range l.Addresses {
			if why := taken[at.Port()]; why != "" {
				return given{why: "port " + strconv.Itoa(int(at.Port())) + " is not bound for it: " + why +
					"; have mesh-steer.service steer connections, or name the service in upstreams"}
			}
		}
	}
	wish := l.Addresses[0].Addr()
	addr := a.table.assign(l.Name, wish)
	if addr == wish {
		return given{out: l}
	}
	a.opts.Log.Info("service has another loopback address here", "service", l.Name, "address", addr, "instead", wish, "of", a.table.owner(wish))
	own := *l
	own.Addresses = slices.Clone(l.Addresses)
	for i, at := range own.Addresses {
		own.Addresses[i] = netip.AddrPortFrom(addr, at.Port())
	}
	return given{out: &own}
}

// taken are the ports that are not to be bound.
func (a *Addresses) taken() map[uint16]string {
	taken := map[uint16]string{}
	for number, p := range a.table.ports {
		taken[number] = "it could not be (" + p.Why + ")"
	}
	for number, why := range a.opts.Taken() {
		taken[number] = why
	}
	return taken
}

// another returns the n-th address that a service may have if others have its wish.
func another(service string, n int) netip.Addr {
	const networks, hosts = 1 << 14, 254 // the last octet is neither 0 nor 255
	sum := sha256.Sum256(fmt.Appendf(nil, "%s#%d", service, n))
	at := binary.BigEndian.Uint64(sum[:8]) % (networks * hosts)
	network, host := at/hosts, at%hosts
	return netip.AddrFrom4([4]byte{127, 64 + byte(network>>8), byte(network), byte(host) + 1})
}
