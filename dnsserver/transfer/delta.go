package transfer

import (
	"iter"
	"slices"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// recordBytes is what a record takes in a message beside its data, with a short name.
const recordBytes = 16

// delta is what differs between two images.
type delta struct {
	from, to       dnsserver.Record // the SOA records
	removed, added []dnsserver.Record
	bytes          int // that it takes
	grown          int // by so many bytes the image is larger
}

// delta compares the images. Without an old one it only counts.
func (m *maker) delta() *delta {
	d := &delta{from: m.old.soa, to: m.next.soa}
	for key, o := range m.fresh {
		was := m.old.owners.get(key)
		for r := range was.records() {
			d.grown -= size(r)
		}
		for r := range o.records() {
			d.grown += size(r)
		}
		if m.old.zone != nil {
			d.compare(was, o)
		}
	}
	for _, r := range slices.Concat(d.removed, d.added) {
		d.bytes += size(r)
	}
	return d
}

func size(r dnsserver.Record) int { return recordBytes + len(r.Data) }

// records are all of an owner's but the SOA.
func (o *owner) records() iter.Seq[dnsserver.Record] {
	return func(yield func(dnsserver.Record) bool) {
		if o == nil {
			return
		}
		for i := range o.sets {
			s := &o.sets[i]
			for _, data := range s.data {
				if s.rtype != dns.TypeSOA && !yield(dnsserver.Record{Owner: o.name, Type: s.rtype, TTL: s.ttl, Data: data}) {
					return
				}
			}
			for _, data := range s.rrsigs {
				if !yield(dnsserver.Record{Owner: o.name, Type: dns.TypeRRSIG, TTL: s.ttl, Data: data}) {
					return
				}
			}
		}
	}
}

// compare adds what differs between two owners of one name; either may be nil.
func (d *delta) compare(was, is *owner) {
	type found struct {
		rtype uint16
		ttl   uint32
		data  string
	}
	gone := map[found]dnsserver.Record{}
	for r := range was.records() {
		gone[found{r.Type, r.TTL, string(r.Data)}] = r
	}
	for r := range is.records() {
		key := found{r.Type, r.TTL, string(r.Data)}
		if _, stays := gone[key]; stays {
			delete(gone, key)
			continue
		}
		d.added = append(d.added, r)
	}
	for r := range was.records() { // in their order
		if _, is := gone[found{r.Type, r.TTL, string(r.Data)}]; is {
			d.removed = append(d.removed, r)
		}
	}
}

// whole are the records of an image as AXFR has them (RFC 5936 §2.2).
func (i *image) whole() iter.Seq[dnsserver.Record] {
	return func(yield func(dnsserver.Record) bool) {
		if !yield(i.soa) {
			return
		}
		for o := range i.owners.all() {
			for r := range o.records() {
				if !yield(r) {
					return
				}
			}
		}
		yield(i.soa)
	}
}

// changes are those of deltas, each of which begins where the one before it ends, as IXFR has them (RFC 1995 §4).
func changes(deltas []*delta) iter.Seq[dnsserver.Record] {
	last := deltas[len(deltas)-1].to
	return func(yield func(dnsserver.Record) bool) {
		if !yield(last) {
			return
		}
		for _, d := range deltas {
			for _, part := range [][]dnsserver.Record{{d.from}, d.removed, {d.to}, d.added} {
				for _, r := range part {
					if !yield(r) {
						return
					}
				}
			}
		}
		yield(last)
	}
}

// serial is an SOA record's.
func serial(soa dnsserver.Record) uint32 {
	const fromEnd = 20
	b := soa.Data[len(soa.Data)-fromEnd:]
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// newer says whether a serial comes after another (RFC 1982 §3.2).
func newer(a, b uint32) bool { return int32(a-b) > 0 }
