package dnsserver

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
)

// limiter bounds how many answers over UDP go to one source in a second: a /24 of IPv4 or a /56 of IPv6, for a sender can forge
// any address, and then the answers hurt whoever has it. What is beyond is answered now and then by a header with TC alone: who
// really asks turns to TCP. It has a fixed size: sources that share an entry share its bound.
type limiter struct {
	seed    maphash.Seed
	rate    uint32
	entries []atomic.Uint64 // second << 32 | answers in it
}

const (
	limiterEntries = 1 << 16
	limiterSlip    = 2 // of so many answers that are held back one is sent truncated
)

// newLimiter makes one; with a rate of 0 it bounds nothing.
func newLimiter(rate uint32) *limiter {
	if rate == 0 {
		return nil
	}
	return &limiter{seed: maphash.MakeSeed(), rate: rate, entries: make([]atomic.Uint64, limiterEntries)}
}

// permit is what may be sent.
type permit uint8

const (
	whole     permit = iota // the answer
	truncated               // a header with TC
	nothing
)

// take counts one answer to a client. The host itself is not bounded: nobody forges its addresses from outside.
func (l *limiter) take(client netip.Addr, now uint32) permit {
	if l == nil || client.IsLoopback() {
		return whole
	}
	return l.count(client, now)
}

func (l *limiter) count(client netip.Addr, now uint32) permit {
	var key [7]byte
	if client.Is4() {
		a := client.As4()
		copy(key[:3], a[:])
	} else {
		a := client.As16()
		copy(key[:], a[:7])
	}
	entry := &l.entries[maphash.Bytes(l.seed, key[:])%limiterEntries]
	for {
		was := entry.Load()
		is := uint64(now)<<32 | 1
		if uint32(was>>32) == now {
			is = was + 1
		}
		if !entry.CompareAndSwap(was, is) {
			continue
		}
		switch over := uint32(is); {
		case over <= l.rate:
			return whole
		case over%limiterSlip == 0:
			return truncated
		default:
			return nothing
		}
	}
}
