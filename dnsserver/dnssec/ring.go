package dnssec

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// Ring is what is published and signed with at one time. It is immutable.
type Ring struct {
	zone    []byte // in wire form
	signing *key   // the ZSK that new signatures are made with
	ksks    []*key // each signs the set of keys
	tags    []uint16
	apex    []ApexSet
}

// ApexSet is a set of the zone's apex that comes of its keys, with the slot of its signatures.
type ApexSet struct {
	Set
	Slot *Slot
}

// Apex returns the sets that the keys add to the zone's apex, by type: DNSKEY, CDS and CDNSKEY (RFC 7344).
func (r *Ring) Apex() []ApexSet { return r.apex }

// Zone returns the zone's name in wire form.
func (r *Ring) Zone() []byte { return r.zone }

// newRing makes the ring of keys in their states.
func newRing(zone []byte, ttl uint32, entries []*entry) *Ring {
	r := &Ring{zone: zone}
	var dnskeys, announced [][]byte
	var parent []*key
	ready := false
	for _, e := range entries {
		dnskeys = append(dnskeys, e.key.dnskey)
		r.tags = append(r.tags, e.key.tag)
		switch {
		case e.Role == ZSK && e.State == Active:
			r.signing = e.key
		case e.Role == KSK:
			// All of them, the retired too: a resolver may still have only the DS of the old one.
			r.ksks = append(r.ksks, e.key)
			ready = ready || e.State == Ready
		}
	}
	for _, e := range entries {
		// While a new KSK is ready, the parent is asked to have that one alone (RFC 7344 §4.1).
		if e.Role == KSK && (ready && e.State == Ready || !ready && e.State == Active) {
			parent = append(parent, e.key)
		}
	}
	var ds [][]byte
	for _, k := range parent {
		ds = append(ds, k.ds(zone))
		announced = append(announced, k.dnskey)
	}
	for _, set := range []Set{
		{Owner: zone, Type: dns.TypeDNSKEY, TTL: ttl, Data: canonical(dnskeys)},
		{Owner: zone, Type: dns.TypeCDS, TTL: ttl, Data: canonical(ds)},
		{Owner: zone, Type: dns.TypeCDNSKEY, TTL: ttl, Data: canonical(announced)},
	} {
		if len(set.Data) > 0 {
			r.apex = append(r.apex, ApexSet{Set: set, Slot: new(Slot)})
		}
	}
	return r
}

func canonical(data [][]byte) [][]byte {
	slices.SortFunc(data, bytes.Compare)
	return data
}

// signers returns the keys that sign sets of a type. CDS and CDNSKEY are signed by what the parent knows (RFC 7344 §4.1).
func (r *Ring) signers(rtype uint16) []*key {
	switch rtype {
	case dns.TypeDNSKEY, dns.TypeCDS, dns.TypeCDNSKEY:
		return r.ksks
	}
	return []*key{r.signing}
}

// has reports whether all keys with these tags are published.
func (r *Ring) has(tags []uint16) bool {
	for _, tag := range tags {
		if !slices.Contains(r.tags, tag) {
			return false
		}
	}
	return true
}

// Made reports whether signatures of a type, RDATA of RRSIG records, are by the keys that would sign it now.
func (r *Ring) Made(rtype uint16, rrsigs [][]byte) bool {
	return slices.EqualFunc(r.signers(rtype), rrsigs, func(k *key, rrsig []byte) bool {
		return binary.BigEndian.Uint16(rrsig[rrsigHead-2:]) == k.tag
	})
}
