package dnsserver

import (
	"sync/atomic"

	"github.com/miekg/dns"
)

// Stats are what a server has counted since it was made.
type Stats struct {
	Queries      []QueryCount // without those that are 0
	Truncated    uint64       // answers with TC
	Ignored      uint64       // messages that are no queries
	RefusedConns uint64       // TCP connections beyond the bound
	SocketErrors uint64
	Panics       uint64 // of the message library, at some packet; always 0 unless it has a bug
}

// QueryCount counts the queries of one kind.
type QueryCount struct {
	Transport string // "udp", "tcp"
	Type      string // "A", …; "other" for types that nobody would have metrics of
	Rcode     string // "NOERROR", …
	Count     uint64
}

// kinds are the types that are counted by name; the last stands for all others.
var kinds = [...]uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeSOA, dns.TypeNS, dns.TypeANY, dns.TypeTXT, dns.TypePTR, dns.TypeHTTPS, dns.TypeNone}

// rcodes are those that the server gives.
var rcodes = [...]int{dns.RcodeSuccess, dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeNotImplemented, dns.RcodeRefused, dns.RcodeBadVers}

type stats struct {
	queries                                                [transports][len(kinds)][len(rcodes)]atomic.Uint64
	truncated, ignored, refusedConns, socketErrors, panics atomic.Uint64
}

func (s *stats) count(by transport, qtype uint16, rcode int) {
	kind := len(kinds) - 1
	for i, k := range kinds {
		if k == qtype {
			kind = i
			break
		}
	}
	for i, r := range rcodes {
		if r == rcode {
			s.queries[by][kind][i].Add(1)
			return
		}
	}
}

// Stats returns what was counted so far.
func (s *Server) Stats() Stats {
	out := Stats{
		Truncated: s.stats.truncated.Load(), Ignored: s.stats.ignored.Load(), RefusedConns: s.stats.refusedConns.Load(),
		SocketErrors: s.stats.socketErrors.Load(), Panics: s.stats.panics.Load(),
	}
	for by := range s.stats.queries {
		for kind := range s.stats.queries[by] {
			for i := range s.stats.queries[by][kind] {
				n := s.stats.queries[by][kind][i].Load()
				if n == 0 {
					continue
				}
				name := "other"
				if kinds[kind] != dns.TypeNone {
					name = dns.TypeToString[kinds[kind]]
				}
				out.Queries = append(out.Queries, QueryCount{transport(by).String(), name, dns.RcodeToString[rcodes[i]], n})
			}
		}
	}
	return out
}
