package dnsserver

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// How long cookies are good, in seconds (RFC 9018 §4.3), and how often the secret changes.
const (
	cookieAge     = 3600
	cookieFresh   = 1800 // one that is older is replaced in the answer
	cookieFuture  = 300
	secretChanges = 24 * 3600
)

// cookies makes and checks server cookies (RFC 7873) as RFC 9018 has them. Those made with the secret before the last change
// are still taken.
type cookies struct {
	secrets atomic.Pointer[secrets]
}

type secrets struct {
	since            uint32 // Unix seconds
	current, earlier [16]byte
}

// at returns the secrets to be used at a time; who finds them too old changes them.
func (c *cookies) at(now uint32) *secrets {
	s := c.secrets.Load()
	if s != nil && now-s.since < secretChanges {
		return s
	}
	next := &secrets{since: now}
	_, _ = rand.Read(next.current[:]) // it never fails
	if s != nil {
		next.earlier = s.current
	} else {
		next.earlier = next.current
	}
	if !c.secrets.CompareAndSwap(s, next) {
		return c.secrets.Load()
	}
	return next
}

// check says whether a cookie has a server part of ours for that client, and whether it is fresh enough to be used on.
func (c *cookies) check(cookie []byte, client netip.Addr, now uint32) (good, fresh bool) {
	if len(cookie) != clientCookie+serverCookie || cookie[clientCookie] != 1 {
		return false, false
	}
	age := int32(now - binary.BigEndian.Uint32(cookie[clientCookie+4:])) // serial arithmetic (RFC 1982)
	if age > cookieAge || age < -cookieFuture {
		return false, false
	}
	s := c.at(now)
	for i, secret := range [...]*[16]byte{&s.current, &s.earlier} {
		var want [8]byte
		cookieHash(want[:], secret, cookie[:clientCookie+8], client)
		if subtle.ConstantTimeCompare(want[:], cookie[clientCookie+8:]) == 1 {
			return true, age < cookieFresh && i == 0
		}
	}
	return false, false
}

// appendTo appends the cookie that answers a client's.
func (c *cookies) appendTo(b, cookie []byte, client netip.Addr, now uint32) []byte {
	if good, fresh := c.check(cookie, client, now); good && fresh {
		return append(b, cookie...)
	}
	start := len(b)
	b = append(b, cookie[:clientCookie]...)
	b = append(b, 1, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, now)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	cookieHash(b[len(b)-8:], &c.at(now).current, b[start:len(b)-8], client)
	return b
}

// cookieHash writes the hash of what stands before it in a cookie and of the client's address.
func cookieHash(to []byte, secret *[16]byte, before []byte, client netip.Addr) {
	var input [clientCookie + 8 + 16]byte
	n := copy(input[:], before)
	if client.Is4() {
		a := client.As4()
		n += copy(input[n:], a[:])
	} else {
		a := client.As16()
		n += copy(input[n:], a[:])
	}
	binary.LittleEndian.PutUint64(to, sipHash(secret, input[:n]))
}
