package dnsserver

import (
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

const (
	optBytes       = 11   // an OPT record without options
	maxUDPPayload  = 1232 // what fits everywhere without fragments (DNS flag day 2020)
	clientCookie   = 8
	serverCookie   = 16 // as RFC 9018 makes them; others are 8 to 32 bytes
	maxCookie      = clientCookie + 32
	dnssecOK       = 0x8000
	compactOK      = 0x4000 // RFC 9824 §5.1
	keepAliveUnits = 100    // milliseconds
)

// edns is what an OPT record says (RFC 6891).
type edns struct {
	present   bool
	version   uint8
	flags     uint16
	size      uint16
	nsid      bool
	keepAlive bool
	padded    bool
	hasCookie bool
	hasSubnet bool
	cookies   int // bytes of the cookie
	cookie    [maxCookie]byte
	subnet    subnet
}

// subnet is the address of somebody behind a resolver (RFC 7871).
type subnet struct {
	family uint16
	source uint8 // bits
	addr   netip.Addr
}

// parse reads an OPT record that begins the bytes, which has no owner but the root. It says whether it is well-formed, with
// those of its options that the server knows.
func (e *edns) parse(b []byte) bool {
	e.present = true
	e.size, e.version, e.flags = binary.BigEndian.Uint16(b[3:]), b[6], binary.BigEndian.Uint16(b[7:])
	end := optBytes + int(binary.BigEndian.Uint16(b[9:]))
	if end > len(b) {
		return false
	}
	for options := b[optBytes:end]; len(options) > 0; {
		if len(options) < 4 {
			return false
		}
		code, n := binary.BigEndian.Uint16(options), 4+int(binary.BigEndian.Uint16(options[2:]))
		if n > len(options) || !e.option(code, options[4:n]) {
			return false
		}
		options = options[n:]
	}
	return true
}

// option reads one option. Of two with one code the first counts.
func (e *edns) option(code uint16, data []byte) bool {
	switch code {
	case dns.EDNS0NSID:
		e.nsid = true
	case dns.EDNS0COOKIE:
		if len(data) != clientCookie && (len(data) < clientCookie+8 || len(data) > maxCookie) {
			return false // RFC 7873 §5.2.2
		}
		if !e.hasCookie {
			e.hasCookie, e.cookies = true, copy(e.cookie[:], data)
		}
	case dns.EDNS0TCPKEEPALIVE:
		e.keepAlive = true
		return len(data) == 0 || len(data) == 2
	case dns.EDNS0PADDING:
		e.padded = true
	case dns.EDNS0SUBNET:
		return e.readSubnet(data)
	case dns.EDNS0UL:
		return len(data) == 4 || len(data) == 8
	case dns.EDNS0LLQ:
		return len(data) >= 18
	case dns.EDNS0EXPIRE:
		return len(data) == 0 || len(data) >= 4
	}
	return true
}

// readSubnet reads a client subnet. RFC 7871 §6: the address has no more bytes than it needs, and no bits beyond its length.
func (e *edns) readSubnet(data []byte) bool {
	if len(data) < 4 {
		return false
	}
	s := subnet{family: binary.BigEndian.Uint16(data), source: data[2]}
	scope, addr := data[3], data[4:]
	var full [16]byte
	bits := 0
	switch s.family {
	case 0:
		if s.source != 0 || len(addr) != 0 {
			return false
		}
	case 1:
		bits = 32
	case 2:
		bits = 128
	default:
		return false
	}
	if int(s.source) > bits || scope != 0 || len(addr) != (int(s.source)+7)/8 {
		return false
	}
	copy(full[:], addr)
	switch s.family {
	case 1:
		s.addr = netip.AddrFrom4([4]byte(full[:4]))
	case 2:
		s.addr = netip.AddrFrom16(full)
	}
	if s.family != 0 {
		if prefix, err := s.addr.Prefix(int(s.source)); err != nil || prefix.Addr() != s.addr {
			return false
		}
	}
	if !e.hasSubnet {
		e.hasSubnet, e.subnet = true, s
	}
	return true
}
