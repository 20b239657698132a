package resolve

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// answer is what is known of a name after a lookup. No address is an answer too.
type answer struct {
	addrs []netip.Addr  // in the order of the answer
	ttl   time.Duration // 0: it says nothing
	// no4 and no6 are why nothing is known of the addresses of that family, although it is wanted.
	no4, no6 error
}

// lost is why an answer does not speak of addresses that were there before: half of the addresses are not to be taken
// for all of them. nil when it does.
func (a *answer) lost(before []netip.Addr) error {
	if a.no4 != nil && slices.ContainsFunc(before, netip.Addr.Is4) {
		return a.no4
	}
	if a.no6 != nil && slices.ContainsFunc(before, netip.Addr.Is6) {
		return a.no6
	}
	return nil
}

// finder looks names up. It is safe for concurrent use.
type finder struct {
	system *system
	turn   atomic.Uint32 // who is asked first, where servers take turns
}

func newFinder(resolvConf, hosts string) *finder {
	return &finder{system: newSystem(resolvConf, hosts)}
}

// find returns the addresses of a host. An IP address is its own, names of /etc/hosts and those under localhost are not
// asked for; the rest is DNS, with the search domains of the system for names that have few dots.
func (f *finder) find(ctx context.Context, l *config.DNSLookup, host string) (answer, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return answer{addrs: []netip.Addr{ip.Unmap()}}, nil
	}
	settings := f.system.now()
	plain := strings.TrimSuffix(host, ".")
	local := settings.hosts[plain]
	if plain == "localhost" || strings.HasSuffix(plain, ".localhost") { // RFC 6761 §6.3
		local = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	if len(local) > 0 {
		return answer{addrs: choose(l.Family, local)}, nil
	}
	domains := []string{dns.Fqdn(host)}
	if !l.AsIs {
		domains = settings.search(host)
	}
	var failed error
	for _, domain := range domains {
		a, err := f.families(ctx, l, settings, domain)
		if err == nil && len(a.addrs) > 0 {
			return a, nil
		}
		if ctx.Err() != nil {
			return answer{}, context.Cause(ctx)
		}
		failed = errors.Join(failed, err)
	}
	return answer{}, failed // not there at all only when nobody failed to tell
}

// families asks for the addresses of the families that are wanted.
func (f *finder) families(ctx context.Context, l *config.DNSLookup, s *settings, domain string) (answer, error) {
	first, second := dns.TypeAAAA, dns.TypeA
	switch l.Family {
	case config.DNSV4Only:
		return f.records(ctx, l, s, domain, dns.TypeA)
	case config.DNSV6Only:
		return f.records(ctx, l, s, domain, dns.TypeAAAA)
	case config.DNSAll:
		return f.both(ctx, l, s, domain)
	case config.DNSV4Preferred:
		first, second = second, first
	}
	a, err := f.records(ctx, l, s, domain, first)
	if err == nil && len(a.addrs) > 0 {
		return a, nil
	}
	b, err2 := f.records(ctx, l, s, domain, second)
	if err2 == nil && len(b.addrs) > 0 {
		if first == dns.TypeA {
			b.no4 = err
		} else {
			b.no6 = err
		}
		return b, nil
	}
	return answer{}, errors.Join(err, err2)
}

// both asks for both families at once.
func (f *finder) both(ctx context.Context, l *config.DNSLookup, s *settings, domain string) (answer, error) {
	var v6 answer
	var err6 error
	done := make(chan struct{})
	go func() {
		defer close(done)
		v6, err6 = f.records(ctx, l, s, domain, dns.TypeAAAA)
	}()
	v4, err4 := f.records(ctx, l, s, domain, dns.TypeA)
	<-done
	out := answer{addrs: slices.Concat(v6.addrs, v4.addrs), no4: err4, no6: err6, ttl: v4.ttl}
	if len(v6.addrs) > 0 && (len(v4.addrs) == 0 || v6.ttl < v4.ttl) {
		out.ttl = v6.ttl
	}
	if len(out.addrs) == 0 {
		return answer{}, errors.Join(err6, err4)
	}
	return out, nil
}

// choose takes those of the wanted families out of addresses that are all there are.
func choose(family config.DNSFamily, all []netip.Addr) []netip.Addr {
	var v4, v6 []netip.Addr
	for _, a := range all {
		if a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	switch {
	case family == config.DNSV4Only, family == config.DNSV4Preferred && len(v4) > 0:
		return v4
	case family == config.DNSV6Only, family == config.DNSAuto && len(v6) > 0:
		return v6
	}
	return slices.Concat(v6, v4)
}

// maxHops is how many aliases may lead to an address.
const maxHops = 8

// records returns the addresses of one family. Aliases are followed, also where the server does not.
func (f *finder) records(ctx context.Context, l *config.DNSLookup, s *settings, domain string, qtype uint16) (answer, error) {
	ttl := uint32(math.MaxUint32)
	for range maxHops {
		m, err := f.ask(ctx, l, s, domain, qtype)
		if err != nil {
			return answer{}, fmt.Errorf("%s %s: %w", dns.TypeToString[qtype], domain, err)
		}
		part, err := read(m, domain, qtype)
		if err != nil {
			return answer{}, fmt.Errorf("%s %s: %w", dns.TypeToString[qtype], domain, err)
		}
		ttl = min(ttl, part.ttl)
		if part.next == "" {
			return answer{addrs: part.addrs, ttl: time.Duration(ttl) * time.Second}, nil
		}
		domain = part.next
	}
	return answer{}, fmt.Errorf("%s %s: more than %d aliases lead there", dns.TypeToString[qtype], domain, maxHops)
}

// ask asks each server in turn until one answers.
func (f *finder) ask(ctx context.Context, l *config.DNSLookup, s *settings, domain string, qtype uint16) (*dns.Msg, error) {
	servers := s.servers(l)
	turn := 0
	if l.Rotate {
		turn = int(f.turn.Add(1) % uint32(len(servers)))
	}
	said := make([]error, len(servers)) // by each, the last time
	for range l.Tries {
		for i := range servers {
			at := (turn + i) % len(servers)
			m, err := exchange(ctx, l, servers[at], domain, qtype)
			if err == nil {
				return m, nil
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			said[at] = fmt.Errorf("%s: %w", servers[at], err)
		}
		if !slices.ContainsFunc(said, func(err error) bool { return !errors.As(err, new(refusal)) }) {
			break // all of them spoke
		}
	}
	return nil, errors.Join(said...)
}
