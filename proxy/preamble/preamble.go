// Package preamble reads how a connection begins, and writes one of the ways: the PROXY protocol's header, with which a
// proxy in front tells whose connection it passes on.
//
// It is pure: bytes in, a verdict out. Nothing is kept between calls, so that what comes in pieces is read by asking again
// with more of it.
package preamble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
)

// MaxBytes bounds a header with all its extensions. The standard allows 64 KiB; what proxies send stays far below this.
const MaxBytes = 4096

const (
	signature1 = "PROXY "
	signature2 = "\r\n\r\n\x00\r\nQUIT\n"
	maxLine    = 107 // of version 1, with its end; by the standard
	fixed2     = 16  // of version 2, before the addresses
	addrs4     = 12
	addrs6     = 36
)

// ErrNone means that the bytes are not the beginning of a PROXY header of either version.
var ErrNone = errors.New("read PROXY header: there is none")

// Header is what a PROXY header says.
type Header struct {
	Version int // 1 or 2; set with an error too once it is known
	// Source and Destination are the ends of the connection as the first proxy saw it. They are invalid if the proxy
	// speaks for itself or does not know: then the connection's own ends count.
	Source, Destination netip.AddrPort
}

// Read reads the header at the beginning of data and tells its length. A length of 0 without an error asks for more
// bytes; it never does with MaxBytes. The error is ErrNone, or says what is wrong with the header.
func Read(data []byte) (h Header, n int, err error) {
	switch {
	case begins(data, signature1):
		return readLine(data)
	case begins(data, signature2):
		return readBinary(data)
	case startOf(data, signature1), startOf(data, signature2):
		return Header{}, 0, nil
	}
	return Header{}, 0, ErrNone
}

func begins(data []byte, signature string) bool {
	return len(data) >= len(signature) && string(data[:len(signature)]) == signature
}

// startOf reports whether data may become the signature with more bytes.
func startOf(data []byte, signature string) bool {
	return len(data) < len(signature) && string(data) == signature[:len(data)]
}

// readLine reads version 1: "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".
func readLine(data []byte) (Header, int, error) {
	h := Header{Version: 1}
	line := data[:min(len(data), maxLine)]
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		if len(line) == maxLine {
			return h, 0, fmt.Errorf("read PROXY header: no end of line in %d bytes", maxLine)
		}
		return h, 0, nil
	}
	if line[end-1] != '\r' {
		return h, 0, errors.New("read PROXY header: a line that ends without a carriage return")
	}
	n, line := end+1, line[len(signature1):end-1]
	if rest, unknown := bytes.CutPrefix(line, []byte("UNKNOWN")); unknown && (len(rest) == 0 || rest[0] == ' ') {
		return h, n, nil // the rest of the line has no meaning, by the standard
	}
	fields := bytes.Split(line, []byte{' '})
	if len(fields) != 5 {
		return h, 0, fmt.Errorf("read PROXY header: %d fields, want 5", len(fields))
	}
	var six bool
	switch string(fields[0]) {
	case "TCP4":
	case "TCP6":
		six = true
	default:
		return h, 0, errors.New("read PROXY header: a protocol that is not TCP4, TCP6 or UNKNOWN")
	}
	source, err := textAddr(fields[1], fields[3], six)
	if err != nil {
		return h, 0, err
	}
	destination, err := textAddr(fields[2], fields[4], six)
	if err != nil {
		return h, 0, err
	}
	h.Source, h.Destination = source, destination
	return h, n, nil
}

// textAddr reads an address of the family that the line named, and a port without leading zeros.
func textAddr(ip, port []byte, six bool) (netip.AddrPort, error) {
	addr, err := netip.ParseAddr(string(ip))
	if err != nil || addr.Is6() != six || addr.Zone() != "" {
		return netip.AddrPort{}, errors.New("read PROXY header: an address that is not one of its family")
	}
	number, err := strconv.ParseUint(string(port), 10, 16)
	if err != nil || port[0] == '+' || len(port) > 1 && port[0] == '0' {
		return netip.AddrPort{}, errors.New("read PROXY header: a port that is not a number up to 65535")
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}

// readBinary reads version 2. What follows the addresses are extensions: they are skipped.
func readBinary(data []byte) (Header, int, error) {
	h := Header{Version: 2}
	if len(data) < fixed2 {
		return h, 0, nil
	}
	command, family, size := data[12], data[13], int(binary.BigEndian.Uint16(data[14:]))
	if command != 0x20 && command != 0x21 {
		return h, 0, fmt.Errorf("read PROXY header: version and command %#x", command)
	}
	n := fixed2 + size
	if n > MaxBytes {
		return h, 0, fmt.Errorf("read PROXY header: %d bytes, at most %d are read", n, MaxBytes)
	}
	need := 0
	if command == 0x21 {
		switch family {
		case 0x00: // the proxy does not know
		case 0x11:
			need = addrs4
		case 0x21:
			need = addrs6
		case 0x31, 0x32:
			return h, 0, errors.New("read PROXY header: a unix socket's address, which is not supported")
		default:
			return h, 0, fmt.Errorf("read PROXY header: family and protocol %#x, want TCP over IPv4 or IPv6", family)
		}
	}
	if size < need {
		return h, 0, fmt.Errorf("read PROXY header: %d bytes of addresses, want %d", size, need)
	}
	if len(data) < n {
		return h, 0, nil
	}
	at := data[fixed2:]
	switch need {
	case addrs4:
		h.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(at)), binary.BigEndian.Uint16(at[8:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom4([4]byte(at[4:])), binary.BigEndian.Uint16(at[10:]))
	case addrs6:
		h.Source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(at)).Unmap(), binary.BigEndian.Uint16(at[32:]))
		h.Destination = netip.AddrPortFrom(netip.AddrFrom16([16]byte(at[16:])).Unmap(), binary.BigEndian.Uint16(at[34:]))
	}
	return h, n, nil
}
