package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	maxEndpoints = 4096             // of one name
	maxTargets   = 1024             // of one SRV name
	atATime      = 8                // questions about the targets of one name
	lookupLimit  = 15 * time.Second // for everything about one name
)

// asker answers questions; the resolver is one.
type asker interface {
	records(ctx context.Context, name string, qtype uint16) (records, error)
}

// lookup finds the endpoints of names. It is safe for concurrent use.
type lookup struct{ ask asker }

// found is what DNS says about one name of the configuration.
type found struct {
	endpoints []*registry.Endpoint        // sorted by ID
	problems  map[string]registry.Problem // by object, which they do not name themselves: addresses and targets that are of no use
	targets   map[string]map[Family]addrs // what the targets of an SRV name had, to be kept while one of them fails
	broken    bool                        // a target failed: ask again soon
	ttl       time.Duration               // as DNS says it
}

// addrs is what one name has of one family.
type addrs struct {
	good []netip.Addr
	bad  map[string]string
	ttl  uint32
}

// resolve asks about n. Its targets are what the last found had.
func (l *lookup) resolve(ctx context.Context, n *name, before map[string]map[Family]addrs) (*found, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookupLimit, fmt.Errorf("not all is known after %s", lookupLimit))
	defer cancel()
	f := &found{problems: make(map[string]registry.Problem)}
	var err error
	if n.srv {
		err = l.service(ctx, n, f, before)
	} else {
		err = l.host(ctx, n, f)
	}
	if err != nil {
		return nil, err
	}
	if len(f.endpoints) > maxEndpoints {
		return nil, fmt.Errorf("got %d endpoints, want at most %d", len(f.endpoints), maxEndpoints)
	}
	slices.SortFunc(f.endpoints, func(x, y *registry.Endpoint) int { return strings.Compare(x.ID, y.ID) })
	return f, nil
}

// host finds the addresses of a name with A and AAAA records.
func (l *lookup) host(ctx context.Context, n *name, f *found) error {
	all, err := l.addresses(ctx, n.domain, n.families, nil)
	if err != nil {
		return err
	}
	ttl := uint32(maxTTLSeconds)
	for _, a := range all {
		ttl = min(ttl, a.ttl)
		for object, reason := range a.bad {
			f.problems[object] = registry.Problem{Kind: "address", Reason: reason}
		}
		for _, addr := range a.good {
			f.endpoints = append(f.endpoints, n.endpoint(addr, n.port, 1))
		}
	}
	f.ttl = time.Duration(ttl) * time.Second
	return nil
}

// addresses asks for each family at the same time. What extra brings along is not asked for. Of two errors it is always
// the same one that is returned, so that a failure that lasts is told once.
func (l *lookup) addresses(ctx context.Context, host string, families []Family, extra []dns.RR) (map[Family]addrs, error) {
	got, failed := make([]addrs, len(families)), make([]error, len(families))
	var group sync.WaitGroup
	for i, family := range families {
		qtype := map[Family]uint16{IPv4: dns.TypeA, IPv6: dns.TypeAAAA}[family]
		if brought := about(extra, host, qtype); len(brought.found) > 0 {
			got[i] = addressesOf(brought)
			continue
		}
		group.Go(func() {
			var r records
			r, failed[i] = l.ask.records(ctx, host, qtype)
			got[i] = addressesOf(r)
		})
	}
	group.Wait()
	if err := cmp.Or(failed...); err != nil {
		return nil, err
	}
	all := make(map[Family]addrs, len(families))
	for i, family := range families {
		all[family] = got[i]
	}
	return all, nil
}

func addressesOf(r records) addrs {
	a := addrs{ttl: r.ttl}
	a.good, a.bad = addresses(r.found)
	return a
}

// about takes the records of that type at name out of an additional section. A server leaves out whole sets of records
// only (RFC 2181 §9), so what is there is all of that type; what is not there proves nothing.
func about(extra []dns.RR, name string, qtype uint16) records {
	r := records{ttl: maxTTLSeconds}
	for _, rr := range extra {
		h := rr.Header()
		if h.Rrtype == qtype && h.Class == dns.ClassINET && strings.EqualFold(h.Name, name) {
			r.found = append(r.found, rr)
			r.ttl = min(r.ttl, ttlOf(h))
		}
	}
	return r
}

// service finds the targets of an SRV name (RFC 2782). Those of the lowest priority with an address are the endpoints;
// the others are spares that a client turns to when it reaches none of these, which a mesh decides by health, not here.
func (l *lookup) service(ctx context.Context, n *name, f *found, before map[string]map[Family]addrs) error {
	r, err := l.ask.records(ctx, n.domain, dns.TypeSRV)
	if err != nil {
		return err
	}
	var targets []*dns.SRV
	for _, rr := range r.found {
		switch srv, ok := rr.(*dns.SRV); {
		case !ok || srv.Target == ".": // "." says that there is decidedly no such service
		case srv.Port == 0:
			f.problems[srv.Target] = registry.Problem{Kind: "port", Reason: "got port 0, want the port where it listens"}
		default:
			targets = append(targets, srv)
		}
	}
	if len(targets) > maxTargets {
		return fmt.Errorf("SRV %s: got %d targets, want at most %d", n.domain, len(targets), maxTargets)
	}
	f.ttl = time.Duration(r.ttl) * time.Second
	f.targets = make(map[string]map[Family]addrs, len(targets))
	slices.SortFunc(targets, compareSRV)
	for len(targets) > 0 && len(f.endpoints) == 0 {
		end := slices.IndexFunc(targets, func(s *dns.SRV) bool { return s.Priority != targets[0].Priority })
		if end < 0 {
			end = len(targets)
		}
		if err := l.group(ctx, n, f, targets[:end], r.extra, before); err != nil {
			return err
		}
		targets = targets[end:]
	}
	return nil
}

func compareSRV(x, y *dns.SRV) int {
	return cmp.Or(cmp.Compare(x.Priority, y.Priority), strings.Compare(strings.ToLower(x.Target), strings.ToLower(y.Target)),
		cmp.Compare(x.Port, y.Port), -cmp.Compare(x.Weight, y.Weight))
}

// group resolves the targets of one priority and makes endpoints of them. A target that fails keeps the addresses it
// had and is told; when all of them fail, the name does.
func (l *lookup) group(ctx context.Context, n *name, f *found, targets []*dns.SRV, extra []dns.RR, before map[string]map[Family]addrs) error {
	hosts := make([]string, 0, len(targets))
	for _, srv := range targets {
		hosts = append(hosts, strings.ToLower(srv.Target))
	}
	hosts = slices.Compact(hosts) // they are sorted
	got, failed := make([]map[Family]addrs, len(hosts)), make([]error, len(hosts))
	var group errgroup.Group
	group.SetLimit(atATime)
	for i, host := range hosts {
		group.Go(func() error {
			got[i], failed[i] = l.addresses(ctx, host, n.families, extra)
			return nil
		})
	}
	_ = group.Wait()
	failures := 0
	for i, host := range hosts {
		if failed[i] != nil {
			failures++
			f.broken = true
			got[i] = before[host]
			f.problems[host] = registry.Problem{Kind: "unanswered", Reason: failed[i].Error(), Stale: got[i] != nil}
		}
		if got[i] != nil {
			f.targets[host] = got[i]
		}
	}
	if failures == len(hosts) {
		return fmt.Errorf("no target of SRV %s can be found: %w", n.domain, errors.Join(failed[:min(len(failed), 3)]...))
	}
	f.add(n, targets)
	return nil
}

// add makes endpoints of targets whose addresses are known.
func (f *found) add(n *name, targets []*dns.SRV) {
	scale := f.scale(targets)
	seen := make(map[netip.AddrPort]*registry.Endpoint, len(targets))
	for _, srv := range targets {
		host := strings.ToLower(srv.Target)
		count := uint32(f.count(host))
		for _, family := range n.families {
			a, known := f.targets[host][family]
			for object, reason := range a.bad {
				f.problems[host+" "+object] = registry.Problem{Kind: "address", Reason: reason}
			}
			if len(a.good) > 0 || known && count == 0 { // that a target has no address is no longer good than DNS says
				f.ttl = min(f.ttl, time.Duration(a.ttl)*time.Second)
			}
			for _, addr := range a.good {
				weight := max(1, uint32(srv.Weight)*scale/count)
				if e := seen[netip.AddrPortFrom(addr, srv.Port)]; e != nil {
					e.Weight += weight // two targets, one place: it has the share of both
					continue
				}
				e := n.endpoint(addr, srv.Port, weight)
				seen[netip.AddrPortFrom(addr, srv.Port)] = e
				f.endpoints = append(f.endpoints, e)
			}
		}
	}
}

// count returns how many addresses a target has.
func (f *found) count(host string) int {
	n := 0
	for _, a := range f.targets[host] {
		n += len(a.good)
	}
	return n
}

// scale is what weights are multiplied with before a target's weight is divided among its addresses: 1 when all have
// the same number of them, as then nothing needs to be divided; else 60, which halves, thirds, … sixths leave whole.
func (f *found) scale(targets []*dns.SRV) uint32 {
	common := 0
	for _, srv := range targets {
		switch n := f.count(strings.ToLower(srv.Target)); {
		case n == 0 || n == common:
		case common == 0:
			common = n
		default:
			return 60
		}
	}
	return max(1, uint32(common))
}
