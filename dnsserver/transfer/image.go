package transfer

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// image is a zone as it is copied, whole: that of a signed zone with the signatures of all sets and a chain of NSEC records over all
// names. It is immutable, and shares with the one before what did not change, signatures too.
type image struct {
	zone   *dnsserver.Zone
	signer *dnssec.Signer // nil: not signed
	ring   *dnssec.Ring   // that it was signed with
	owners list
	soa    dnsserver.Record
	bytes  int // of all records, roughly
}

// owner is a name and its sets in the order of their types, with those of DNSSEC but RRSIG. It is immutable.
type owner struct {
	key  string
	name dnsserver.Name
	sets []set
}

type set struct {
	rtype   uint16
	ttl     uint32
	data    [][]byte // in canonical order
	rrsigs  [][]byte
	refresh int64 // Unix seconds: when the signatures are to be renewed
}

func (s *set) same(other *set) bool {
	return s.rtype == other.rtype && s.ttl == other.ttl && slices.EqualFunc(s.data, other.data, bytes.Equal)
}

func (o *owner) set(rtype uint16) *set {
	if o != nil {
		for i := range o.sets {
			if o.sets[i].rtype == rtype {
				return &o.sets[i]
			}
		}
	}
	return nil
}

// keyOf is what names are sorted by.
func keyOf(name dnsserver.Name) string { return string(dnssec.SortKey(nil, []byte(name))) }

// maker makes an image of another, or of nothing.
type maker struct {
	ctx     context.Context
	now     time.Time
	old     *image // with an empty list when there was none
	next    *image
	renewed map[string]bool   // keys of owners whose signatures may be made anew
	fresh   map[string]*owner // that are made; nil for those that are gone
}

// newImage makes the image of a zone. old is one of the same zone, or nil; of renew those signatures are renewed that are due.
func newImage(ctx context.Context, old *image, zone *dnsserver.Zone, signer *dnssec.Signer, renew []string, now time.Time) (*image, *delta, error) {
	m := &maker{ctx: ctx, now: now, old: old, next: &image{zone: zone, signer: signer}, renewed: map[string]bool{}, fresh: map[string]*owner{}}
	if signer != nil {
		m.next.ring = signer.Ring()
	}
	for _, key := range renew {
		m.renewed[key] = true
	}
	for _, s := range apexSets(zone) {
		if s.Type == dns.TypeSOA {
			m.next.soa = dnsserver.Record{Owner: zone.Origin(), Type: s.Type, TTL: s.TTL, Data: s.Data[0]}
		}
	}
	if old == nil {
		m.old = &image{}
	}
	if err := m.take(m.names(), renew); err != nil {
		return nil, nil, err
	}
	m.next.owners = m.old.owners.with(m.edits())
	if signer != nil {
		if err := m.chain(); err != nil {
			return nil, nil, err
		}
		m.next.owners = m.old.owners.with(m.edits())
	}
	d := m.delta()
	m.next.bytes = m.old.bytes + d.grown
	return m.next, d, nil
}

func apexSets(zone *dnsserver.Zone) []*dnsserver.Set {
	sets, _ := zone.Lookup(zone.Origin())
	return sets
}

// names are those at which something differs from the old image, the origin always.
func (m *maker) names() map[dnsserver.Name]bool {
	zone := m.next.zone
	names := map[dnsserver.Name]bool{zone.Origin(): true}
	if m.old.zone == nil {
		for name := range zone.All() {
			names[name] = true
		}
		return names
	}
	for _, d := range dnsserver.Diff(m.old.zone, zone) {
		names[d.Name] = true
	}
	return names
}

// take makes the owners of names, and those whose signatures are renewed, without the chain.
func (m *maker) take(names map[dnsserver.Name]bool, renew []string) error {
	for _, key := range renew {
		if o := m.old.owners.get(key); o != nil {
			names[o.name] = true
		}
	}
	for name := range names {
		key := keyOf(name)
		old := m.old.owners.get(key)
		sets, _ := m.next.zone.Lookup(name)
		o := &owner{key: key, name: name}
		for _, s := range sets {
			o.sets = append(o.sets, set{rtype: s.Type, ttl: s.TTL, data: s.Canonical()})
		}
		if name == m.next.zone.Origin() && m.next.ring != nil {
			for _, s := range m.next.ring.Apex() {
				o.sets = append(o.sets, set{rtype: s.Type, ttl: s.TTL, data: s.Data})
			}
		}
		if len(o.sets) == 0 {
			if old != nil {
				m.fresh[key] = nil
			}
			continue
		}
		slices.SortFunc(o.sets, func(a, b set) int { return int(a.rtype) - int(b.rtype) })
		m.fresh[key] = o
	}
	return m.signAll(func(o, old *owner) error {
		for i := range o.sets {
			if err := m.sign(o, &o.sets[i], old); err != nil {
				return err
			}
		}
		return nil
	})
}

// signAll has every fresh owner signed, by half of the processors: a first image takes hundreds of thousands of signatures, and the
// others answer queries.
func (m *maker) signAll(sign func(o, old *owner) error) error {
	if m.next.signer == nil {
		return nil
	}
	const atOnce = 256
	owners := make([]*owner, 0, len(m.fresh))
	for _, o := range m.fresh {
		if o != nil {
			owners = append(owners, o)
		}
	}
	var group errgroup.Group
	group.SetLimit(max(1, runtime.GOMAXPROCS(0)/2))
	for some := range slices.Chunk(owners, atOnce) {
		group.Go(func() error {
			for _, o := range some {
				if err := sign(o, m.old.owners.get(o.key)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// sign gives a set its signatures, those of before when it is the same and they are not to be renewed.
func (m *maker) sign(o *owner, s *set, old *owner) error {
	signer := m.next.signer
	if was := old.set(s.rtype); was != nil && was.same(s) && !m.due(o, was) {
		s.rrsigs, s.refresh = was.rrsigs, was.refresh
		return nil
	}
	if err := m.ctx.Err(); err != nil {
		return err // there may be hundreds of thousands
	}
	rrsigs, refresh, err := signer.Make(dnssec.Set{Owner: []byte(o.name), Type: s.rtype, TTL: s.ttl, Data: s.data}, m.next.ring, m.now)
	if err != nil {
		return fmt.Errorf("sign %s %s: %w", o.name, dns.TypeToString[s.rtype], err)
	}
	s.rrsigs, s.refresh = rrsigs, refresh.Unix()
	return nil
}

// due says whether signatures are to be made anew although their set is the same. The origin's are looked at always.
func (m *maker) due(o *owner, was *set) bool {
	return (m.renewed[o.key] || o.name == m.next.zone.Origin()) && was.due(m.next.ring, m.now)
}

func (s *set) due(ring *dnssec.Ring, now time.Time) bool {
	return s.refresh <= now.Unix() || !ring.Made(s.rtype, s.rrsigs)
}

func (m *maker) edits() []edit {
	edits := make([]edit, 0, len(m.fresh))
	for key, o := range m.fresh {
		edits = append(edits, edit{key, o})
	}
	return edits
}

// chain gives the names that are new or have changed, and those before names that came or went, their NSEC records.
func (m *maker) chain() error {
	var befores []*owner
	for key, o := range m.fresh {
		if o == nil || m.old.owners.get(key) == nil {
			if before := m.next.owners.before(key); m.fresh[before.key] == nil {
				befores = append(befores, before)
			}
		}
	}
	for _, o := range befores {
		before := *o
		before.sets = slices.DeleteFunc(slices.Clone(o.sets), func(s set) bool { return s.rtype == dns.TypeNSEC })
		m.fresh[o.key] = &before
	}
	return m.signAll(m.link)
}

// link gives a name its NSEC record.
func (m *maker) link(o, old *owner) error {
	types := make([]uint16, 0, len(o.sets)+2)
	for _, s := range o.sets {
		types = append(types, s.rtype)
	}
	next := m.next.owners.after(o.key)
	nsec := dnssec.NewLink([]byte(o.name), []byte(next.name), types, m.next.zone.NegativeTTL())
	s := set{rtype: nsec.Type, ttl: nsec.TTL, data: nsec.Data}
	if err := m.sign(o, &s, old); err != nil {
		return err
	}
	at, _ := slices.BinarySearchFunc(o.sets, s, func(a, b set) int { return int(a.rtype) - int(b.rtype) })
	o.sets = slices.Insert(o.sets, at, s)
	return nil
}

// due returns the keys of owners with signatures that are to be renewed, a number of them at most.
func (i *image) due(now time.Time, most int) (keys []string) {
	if i.signer == nil {
		return nil
	}
	ring := i.signer.Ring()
	for o := range i.owners.all() {
		if slices.ContainsFunc(o.sets, func(s set) bool { return s.due(ring, now) }) {
			if keys = append(keys, o.key); len(keys) == most {
				return keys
			}
		}
	}
	return keys
}
