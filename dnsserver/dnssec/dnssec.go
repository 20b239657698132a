// Package dnssec signs a zone while it is served (RFC 4033 to 4035), with ECDSA P-256 and SHA-256 (RFC 6605).
//
// Keys are on disk and are rolled over by a small state machine (RFC 6781, 7583): see Keys. A Signer makes signatures when they
// are asked for and keeps them in a Slot beside the set that they are of, so that their memory ends with the set. What does not
// exist is denied at its own name (RFC 9824): see Denier.
//
// Nothing here knows of servers or zones: names and record data are bytes in wire form.
package dnssec

import (
	"bytes"
	"fmt"

	"github.com/miekg/dns"
)

// The numbers of RFC 4034 and 6605 that all else here stands on.
const (
	algorithm = 13 // ECDSAP256SHA256
	protocol  = 3  // of every DNSKEY
	class     = 1  // IN
)

// Set is a set of records: all of one type at one name. Its bytes are in the canonical form of RFC 4034 §6.
type Set struct {
	Owner []byte // in wire form, lower case, not compressed
	Type  uint16
	TTL   uint32   // in seconds, as the zone has it
	Data  [][]byte // RDATA in wire form, its names in lower case and not compressed; in canonical order, none twice
}

// WireName returns a domain name in wire form and lower case. A missing last dot is added.
func WireName(name string) ([]byte, error) {
	buf := make([]byte, 256)
	n, err := dns.PackDomainName(dns.CanonicalName(name), buf, 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("read domain name %q: %w", name, err)
	}
	return buf[:n:n], nil
}

// textName is WireName's way back.
func textName(wire []byte) string {
	name, _, err := dns.UnpackDomainName(wire, 0)
	if err != nil {
		return "."
	}
	return name
}

// labels returns how many labels a name in wire form has, as RRSIG counts them: neither the root nor a leading "*".
func labels(name []byte) (n uint8) {
	for at := 0; at < len(name) && name[at] != 0; at += int(name[at]) + 1 {
		n++
	}
	if bytes.HasPrefix(name, []byte{1, '*'}) {
		n--
	}
	return n
}

// SortKey appends to dst what bytes.Compare orders as RFC 4034 §6.1 orders names: by labels from the root, shorter ones first.
func SortKey(dst, name []byte) []byte {
	var starts [128]uint8
	n := 0
	for at := 0; at < len(name) && name[at] != 0; at += int(name[at]) + 1 {
		starts[n] = uint8(at)
		n++
	}
	for i := n - 1; i >= 0; i-- {
		at := int(starts[i])
		for _, c := range name[at+1 : at+1+int(name[at])] {
			if c == 0 {
				dst = append(dst, 0, 1) // a byte of 0 comes after the end of a label
				continue
			}
			dst = append(dst, c)
		}
		dst = append(dst, 0, 0)
	}
	return dst
}
