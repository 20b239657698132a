package tsig

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerBytes = 12
	fixedBytes  = 10 // of a record, behind its name
)

// record is a TSIG record (RFC 8945 §4.2).
type record struct {
	name, algorithm string // in lower case, with the last dot
	signed          uint64 // Unix seconds
	fudge           uint16 // in seconds
	mac             []byte
	id              uint16 // of the message as it was signed
	failed          uint16
	other           []byte
	additional      uint16 // how many additional records the message has without this one
}

// find returns where a message's TSIG record begins, 0 when it has none. It must be the last of the additional ones, and the only one.
func find(message []byte) (at int, err error) {
	if len(message) < headerBytes {
		return 0, ErrFormat
	}
	count := func(at int) int { return int(binary.BigEndian.Uint16(message[at:])) }
	at = headerBytes
	for range count(4) {
		if at = skipName(message, at) + 4; at > len(message) {
			return 0, ErrFormat
		}
	}
	others := count(6) + count(8)
	records := others + count(10)
	for i := range records {
		start := at
		at = skipName(message, at)
		if at+fixedBytes > len(message) {
			return 0, ErrFormat
		}
		rtype := binary.BigEndian.Uint16(message[at:])
		at += fixedBytes + count(at+8)
		if at > len(message) {
			return 0, ErrFormat
		}
		if rtype == dns.TypeTSIG {
			if i != records-1 || i < others || at != len(message) {
				return 0, ErrFormat
			}
			return start, nil
		}
	}
	return 0, nil
}

// skipName returns where a name ends, more than the message is long for one that does not.
func skipName(message []byte, at int) int {
	for at < len(message) {
		switch n := int(message[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0:
			return at + 2
		case n > 63:
			return len(message) + 1
		default:
			at += 1 + n
		}
	}
	return len(message) + 1
}

// parse reads the record that begins at some place, where find found one.
func parse(message []byte, at int) (r record, err error) {
	name, at, err := dns.UnpackDomainName(message, at)
	if err != nil {
		return r, ErrFormat
	}
	r.name = dns.CanonicalName(name)
	fixed := message[at : at+fixedBytes]
	if binary.BigEndian.Uint16(fixed[2:]) != dns.ClassANY || binary.BigEndian.Uint32(fixed[4:]) != 0 {
		return r, ErrFormat
	}
	algorithm, at, err := dns.UnpackDomainName(message, at+fixedBytes)
	if err != nil || len(message)-at < 10 {
		return r, ErrFormat
	}
	r.algorithm = dns.CanonicalName(algorithm)
	rest := message[at:]
	r.signed = uint64(binary.BigEndian.Uint16(rest))<<32 | uint64(binary.BigEndian.Uint32(rest[2:]))
	r.fudge = binary.BigEndian.Uint16(rest[6:])
	size := int(binary.BigEndian.Uint16(rest[8:]))
	if rest = rest[10:]; len(rest) < size+6 {
		return r, ErrFormat
	}
	r.mac, rest = append([]byte{}, rest[:size]...), rest[size:]
	r.id, r.failed = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	if size = int(binary.BigEndian.Uint16(rest[4:])); len(rest) != 6+size {
		return r, ErrFormat
	}
	r.other = append([]byte{}, rest[6:]...)
	r.additional = binary.BigEndian.Uint16(message[10:]) - 1
	return r, nil
}

// appendTo appends the record to a message and counts it there.
func (r *record) appendTo(message []byte) []byte {
	binary.BigEndian.PutUint16(message[10:], binary.BigEndian.Uint16(message[10:])+1)
	message = appendName(message, r.name)
	message = binary.BigEndian.AppendUint16(message, dns.TypeTSIG)
	message = append(message, 0, dns.ClassANY, 0, 0, 0, 0)
	at := len(message)
	message = append(message, 0, 0)
	message = appendName(message, r.algorithm)
	message = appendTime(message, r.signed)
	message = binary.BigEndian.AppendUint16(message, r.fudge)
	message = binary.BigEndian.AppendUint16(message, uint16(len(r.mac)))
	message = append(message, r.mac...)
	message = binary.BigEndian.AppendUint16(message, r.id)
	message = binary.BigEndian.AppendUint16(message, r.failed)
	message = binary.BigEndian.AppendUint16(message, uint16(len(r.other)))
	message = append(message, r.other...)
	binary.BigEndian.PutUint16(message[at:], uint16(len(message)-at-2))
	return message
}

// appendName appends a name that was read, or checked, as one.
func appendName(b []byte, name string) []byte {
	var wire [256]byte
	n, err := dns.PackDomainName(name, wire[:], 0, nil, false)
	if err != nil {
		return append(b, 0)
	}
	return append(b, wire[:n]...)
}
