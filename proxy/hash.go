package proxy

import (
	"bytes"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/router"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// hashKey puts the values that the route's policies name into one key, as Envoy does. It is called while the request's head is
// in memory, after note.
func (x *exchange) hashKey(m *router.Match) balance.Key {
	var key balance.Key
	for i := range m.Route.Hash {
		p := &m.Route.Hash[i]
		if hash, ok := x.hashed(p, m); ok {
			// Turned, so that equal values do not cancel each other.
			key = balance.Key{Hash: bits.RotateLeft64(key.Hash, 1) ^ hash, Set: true}
		}
		if p.Terminal && key.Set {
			break
		}
	}
	return key
}

// hashed returns the hash of the value that a policy names; false when the request has none.
func (x *exchange) hashed(p *config.HashPolicy, m *router.Match) (hash uint64, ok bool) {
	switch p.Header {
	case "", ":method", ":path", ":authority", "host", "x-request-id", "x-forwarded-for":
	default:
		return x.hashedLines(p.Header)
	}
	value := x.hashedValue(p, m)
	return balance.Hash(value, 0), len(value) > 0
}

// hashedValue returns the value of a policy that has no more than one. It lives until the next call.
func (x *exchange) hashedValue(p *config.HashPolicy, m *router.Match) []byte {
	w := x.w
	switch {
	case p.SourceIP:
		w.hashed = x.clientAddr().AppendTo(w.hashed[:0])
		return w.hashed
	case p.Cookie != "":
		return x.cookie(p.Cookie)
	}
	switch p.Header {
	case ":method":
		return x.match.Method
	case ":path":
		w.hashed = append(w.hashed[:0], m.Path...)
		if x.req.HasQuery {
			w.hashed = append(append(w.hashed, '?'), x.match.Query...)
		}
		return w.hashed
	case "x-request-id": // as it is sent on
		return x.id
	case "x-forwarded-for":
		return x.xff
	}
	return x.match.Host
}

// hashedLines returns the hash of the values of all lines of a field, whatever their order.
func (x *exchange) hashedLines(name string) (hash uint64, ok bool) {
	w := x.w
	w.values = w.values[:0]
	for i := 0; ; {
		value, next := x.req.Next(name, i)
		if next < 0 {
			break
		}
		w.values, i = append(w.values, value), next
	}
	slices.SortFunc(w.values, bytes.Compare)
	for _, v := range w.values {
		hash = balance.Hash(v, hash)
	}
	return hash, len(w.values) > 0
}

// cookie returns the value of the first cookie of that name, without quotes.
func (x *exchange) cookie(name string) []byte {
	for i := 0; ; {
		line, next := x.req.Next("cookie", i)
		if next < 0 {
			return nil
		}
		i = next
		if value, ok := cookieIn(line, name); ok {
			return value
		}
	}
}

// cookieIn finds a cookie in a line.
func cookieIn(line []byte, name string) (value []byte, ok bool) {
	for len(line) > 0 {
		var pair []byte
		pair, line, _ = bytes.Cut(line, []byte(";"))
		key, value, ok := bytes.Cut(bytes.TrimLeft(pair, " \t"), []byte("="))
		if !ok || string(key) != name {
			continue
		}
		if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
			value = value[1 : n-1]
		}
		return value, true
	}
	return nil, false
}

// clientAddr is the client's address: the peer's, or, behind trusted proxies, what the first of them said. As in Envoy, what is
// no address there leaves the peer's.
func (x *exchange) clientAddr() netip.Addr {
	peer, http := x.d.peer.Addr(), x.served.http()
	hops := http.XFFTrustedHops
	if http.UseRemoteAddress {
		if hops == 0 {
			return peer
		}
		if http.SkipXFFAppend { // the peer is not in the list
			hops--
		}
	}
	if addr, ok := forwardedFor(x.xff, hops); ok {
		return addr
	}
	return peer
}

// forwardedFor returns the address that stands hops before the last one of a list.
func forwardedFor(list []byte, hops int) (addr netip.Addr, ok bool) {
	for ; ; hops-- {
		comma := bytes.LastIndexByte(list, ',')
		if hops <= 0 {
			list = list[comma+1:]
			break
		}
		if comma < 0 {
			return addr, false
		}
		list = list[:comma]
	}
	const longest = 45 // of an IPv6 address
	if list = bytes.Trim(list, " \t"); len(list) > longest || addr.UnmarshalText(list) != nil || !addr.IsValid() || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	return addr, true
}
