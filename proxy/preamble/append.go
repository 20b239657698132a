package preamble

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Extension is one of the values that may follow the addresses of a header of version 2.
type Extension struct {
	Type  byte
	Value string // bytes
}

// Append writes a header; its Version is 1 or 2, and only 2 has extensions, which together are to be shorter than 64 KiB. Ends
// that are not both valid are told as unknown. Ends of two families are told as those of IPv6.
func Append(b []byte, h Header, extensions ...Extension) []byte {
	source, destination := h.Source, h.Destination
	known := source.IsValid() && destination.IsValid()
	if known {
		source, destination = alike(source, destination), alike(destination, source)
	}
	if h.Version == 1 {
		return appendLine(b, source, destination, known)
	}
	return appendBinary(b, source, destination, known, extensions)
}

// alike returns a in the family that it and other have in common.
func alike(a, other netip.AddrPort) netip.AddrPort {
	ip := a.Addr().Unmap().WithZone("")
	if ip.Is4() && !other.Addr().Unmap().Is4() {
		ip = netip.AddrFrom16(ip.As16())
	}
	return netip.AddrPortFrom(ip, a.Port())
}

func appendLine(b []byte, source, destination netip.AddrPort, known bool) []byte {
	b = append(b, signature1...)
	if !known {
		return append(b, "UNKNOWN\r\n"...)
	}
	family := "TCP6 "
	if source.Addr().Is4() {
		family = "TCP4 "
	}
	b = append(b, family...)
	b = append(source.Addr().AppendTo(b), ' ')
	b = append(destination.Addr().AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(source.Port()), 10), ' ')
	b = strconv.AppendUint(b, uint64(destination.Port()), 10)
	return append(b, "\r\n"...)
}

func appendBinary(b []byte, source, destination netip.AddrPort, known bool, extensions []Extension) []byte {
	const local, proxied, overV4, overV6 = 0x20, 0x21, 0x11, 0x21
	b = append(b, signature2...)
	start := len(b)
	switch {
	case !known:
		b = append(b, local, 0, 0, 0)
	case source.Addr().Is4():
		b = append(b, proxied, overV4, 0, 0)
		from, to := source.Addr().As4(), destination.Addr().As4()
		b = append(append(b, from[:]...), to[:]...)
	default:
		b = append(b, proxied, overV6, 0, 0)
		from, to := source.Addr().As16(), destination.Addr().As16()
		b = append(append(b, from[:]...), to[:]...)
	}
	if known {
		b = binary.BigEndian.AppendUint16(b, source.Port())
		b = binary.BigEndian.AppendUint16(b, destination.Port())
	}
	for _, e := range extensions {
		b = binary.BigEndian.AppendUint16(append(b, e.Type), uint16(len(e.Value)))
		b = append(b, e.Value...)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start-4))
	return b
}
