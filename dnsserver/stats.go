package dnsserver

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
)

// Stats are what a server has counted since it was made.
type Stats struct {
	Queries      []QueryCount // without those that are 0, sorted
	Truncated    uint64       // answers over UDP with TC, for they did not fit
	Limited      uint64       // queries over UDP that were not answered, or by TC alone, as their source asked too much
	Unsigned     uint64       // queries with DO that got no answer, or TC alone, as too many signatures were to be made
	Ignored      uint64       // messages that are no queries
	RefusedConns uint64       // connections beyond a bound
	SocketErrors uint64
	Panics       uint64 // at some packet; always 0 unless there is a bug
}

// QueryCount counts the queries of one kind.
type QueryCount struct {
	Zone      string // the zone's domain with the last dot, "" for what no zone was asked for
	Transport string // "udp", "tcp", "tls", "https"
	Type      string // "A", …; "other" for types that nobody would have metrics of
	Rcode     string // "NOERROR", …; "other" for those that the server does not give by itself
	Count     uint64
}

// transport is what a query came by.
type transport uint8

const (
	udp transport = iota
	tcp
	overTLS
	overHTTPS
	transports
)

func (t transport) String() string { return [...]string{"udp", "tcp", "tls", "https"}[t] }

// kinds are the types that are counted by name; the last stands for all others.
var kinds = [...]uint16{
	dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeSOA, dns.TypeNS, dns.TypeANY, dns.TypeTXT, dns.TypePTR, dns.TypeHTTPS, dns.TypeSVCB,
	dns.TypeDNSKEY, dns.TypeDS, dns.TypeAXFR, dns.TypeIXFR, dns.TypeCNAME, dns.TypeMX, dns.TypeCAA, dns.TypeNAPTR, dns.TypeTLSA,
	dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeCDS, dns.TypeCDNSKEY, dns.TypeNone,
}

// rcodes are those that the server gives. Their places are what is counted by; the last stands for all others.
var rcodes = [...]int{
	dns.RcodeSuccess, dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeNotImplemented, dns.RcodeRefused,
	dns.RcodeNotAuth, dns.RcodeBadVers, otherRcode,
}

const otherRcode = -1

// shard counts for those that seldom meet: a loop, or the connections of one transport.
type shard struct {
	by transport

	mu    sync.Mutex // for those that add a zone
	zones atomic.Pointer[[]*zoneCounts]

	truncated, limited, unsigned, ignored atomic.Uint64
}

type zoneCounts struct {
	origin Name
	counts [len(kinds)][len(rcodes)]atomic.Uint64
}

// count counts a query. Zones are few: they are the operator's.
func (s *shard) count(origin Name, qtype uint16, rcode int) {
	if zones := s.zones.Load(); zones != nil {
		for _, z := range *zones {
			if z.origin == origin {
				z.add(qtype, rcode)
				return
			}
		}
	}
	s.zone(origin).add(qtype, rcode)
}

func (s *shard) zone(origin Name) *zoneCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*zoneCounts
	if zones := s.zones.Load(); zones != nil {
		all = slices.Clone(*zones)
	}
	if at := slices.IndexFunc(all, func(z *zoneCounts) bool { return z.origin == origin }); at >= 0 {
		return all[at]
	}
	z := &zoneCounts{origin: origin}
	all = append(all, z)
	s.zones.Store(&all)
	return z
}

func (z *zoneCounts) add(qtype uint16, rcode int) {
	kind := slices.Index(kinds[:], qtype)
	if kind < 0 {
		kind = len(kinds) - 1
	}
	place := rcode
	if rcode >= 6 { // the first six are their own places
		if place = slices.Index(rcodes[:], rcode); place < 0 {
			place = len(rcodes) - 1
		}
	}
	z.counts[kind][place].Add(1)
}

// Stats returns what was counted so far.
func (s *Server) Stats() Stats {
	out := Stats{RefusedConns: s.refusedConns.Load(), SocketErrors: s.socketErrors.Load(), Panics: s.panics.Load()}
	sums := map[QueryCount]uint64{}
	for _, shard := range s.shards {
		out.Truncated += shard.truncated.Load()
		out.Limited += shard.limited.Load()
		out.Unsigned += shard.unsigned.Load()
		out.Ignored += shard.ignored.Load()
		if zones := shard.zones.Load(); zones != nil {
			for _, z := range *zones {
				z.sum(shard.by, sums)
			}
		}
	}
	for key, n := range sums {
		key.Count = n
		out.Queries = append(out.Queries, key)
	}
	slices.SortFunc(out.Queries, func(a, b QueryCount) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Transport, b.Transport), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Rcode, b.Rcode))
	})
	return out
}

func (z *zoneCounts) sum(by transport, sums map[QueryCount]uint64) {
	key := QueryCount{Transport: by.String()}
	if z.origin != "" {
		key.Zone = z.origin.String()
	}
	for kind := range z.counts {
		for i := range z.counts[kind] {
			if n := z.counts[kind][i].Load(); n > 0 {
				key.Type, key.Rcode = "other", "other"
				if rcodes[i] != otherRcode {
					key.Rcode = dns.RcodeToString[rcodes[i]]
				}
				if kinds[kind] != dns.TypeNone {
					key.Type = dns.TypeToString[kinds[kind]]
				}
				sums[key] += n
			}
		}
	}
}
