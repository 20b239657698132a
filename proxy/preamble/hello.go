package preamble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

const (
	// MaxHello is what a ClientHello may have in bytes.
	MaxHello = 16 << 10
	// MaxHelloBytes is what it may have with the headers of the records that it comes in: small ones are allowed, but not
	// one for each byte.
	MaxHelloBytes = MaxHello + 1<<10

	recordHeader    = 5
	maxRecord       = 16 << 10
	typeHandshake   = 22
	typeClientHello = 1
	extensionName   = 0
	extensionALPN   = 16
	maxProtocols    = 64
)

// ErrNoTLS means that the bytes do not begin a TLS connection.
var ErrNoTLS = errors.New("read ClientHello: there is none")

// Hello is what a ClientHello says about who is called, and for what.
type Hello struct {
	ServerName string   // lower case; empty: none is named
	Protocols  []string // of ALPN, in the client's order
}

// ReadHello reads the ClientHello at the beginning of data, over however many TLS records it is spread. done is false without
// an error as long as bytes are missing; that is never so with MaxHelloBytes. most bounds the message, 0 is MaxHello. The
// error is ErrNoTLS, or says what is wrong: such a connection must not be served as if it had named nobody.
func ReadHello(data []byte, most int) (h Hello, done bool, err error) {
	if most <= 0 || most > MaxHello {
		most = MaxHello
	}
	if len(data) > 0 && data[0] != typeHandshake || len(data) > 1 && data[1] != 3 {
		return h, false, ErrNoTLS
	}
	message, done, err := assemble(data, most)
	if err != nil || !done {
		return h, false, err
	}
	if err := h.read(message[4:]); err != nil {
		return Hello{}, false, err
	}
	return h, true, nil
}

// assemble puts the fragments of the first handshake message together. With one fragment nothing is copied.
func assemble(data []byte, most int) (message []byte, done bool, err error) {
	whole := len(data)
	var joined []byte
	for first := true; ; first = false {
		if len(data) < recordHeader {
			break
		}
		size := int(binary.BigEndian.Uint16(data[3:]))
		switch {
		case data[0] != typeHandshake || data[1] != 3:
			return nil, false, errors.New("read ClientHello: another kind of record within it")
		case size == 0 || size > maxRecord:
			return nil, false, fmt.Errorf("read ClientHello: a record of %d bytes", size)
		}
		part := data[recordHeader:min(len(data), recordHeader+size)]
		if first {
			message = part
		} else {
			if joined == nil {
				joined = append(make([]byte, 0, min(whole, 4+most)), message...)
			}
			joined = append(joined, part...)
			message = joined
		}
		if len(message) > 0 && message[0] != typeClientHello {
			return nil, false, fmt.Errorf("read ClientHello: a handshake message of type %d", message[0])
		}
		if len(message) >= 4 {
			need := 4 + int(message[1])<<16 + int(binary.BigEndian.Uint16(message[2:]))
			if need > most {
				return nil, false, fmt.Errorf("read ClientHello: %d bytes, at most %d are read", need, most)
			}
			if len(message)+size-len(part) > need { // also when the rest of the record has not come
				return nil, false, errors.New("read ClientHello: something behind it in its record")
			}
			if len(message) == need {
				return message, true, nil
			}
		}
		if len(part) < size {
			break
		}
		data = data[recordHeader+size:]
	}
	if whole >= MaxHelloBytes {
		return nil, false, fmt.Errorf("read ClientHello: not complete with %d bytes", whole)
	}
	return nil, false, nil
}

var errShort = errors.New("read ClientHello: a length that does not fit")

// cut takes a vector whose length has so many bytes from the front of data.
func cut(data []byte, bytes int) (vector, rest []byte, err error) {
	if len(data) < bytes {
		return nil, nil, errShort
	}
	n := 0
	for _, b := range data[:bytes] {
		n = n<<8 | int(b)
	}
	data = data[bytes:]
	if len(data) < n {
		return nil, nil, errShort
	}
	return data[:n], data[n:], nil
}

// read reads the message's body.
func (h *Hello) read(body []byte) error {
	const fixed = 2 + 32 // version and random
	if len(body) < fixed {
		return errShort
	}
	rest := body[fixed:]
	var err error
	for _, bytes := range []int{1, 2, 1} { // session, cipher suites, compression methods
		if _, rest, err = cut(rest, bytes); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil // a client of the time before extensions
	}
	extensions, rest, err := cut(rest, 2)
	if err != nil || len(rest) > 0 {
		return errShort
	}
	var seen [1 << 16 / 64]uint64
	for len(extensions) > 0 {
		if len(extensions) < 2 {
			return errShort
		}
		kind := binary.BigEndian.Uint16(extensions)
		if seen[kind/64]&(1<<(kind%64)) != 0 {
			return fmt.Errorf("read ClientHello: extension %d twice", kind)
		}
		seen[kind/64] |= 1 << (kind % 64)
		var value []byte
		if value, extensions, err = cut(extensions[2:], 2); err != nil {
			return err
		}
		switch kind {
		case extensionName:
			err = h.readName(value)
		case extensionALPN:
			err = h.readProtocols(value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readName reads the server_name extension (RFC 6066 section 3).
func (h *Hello) readName(value []byte) error {
	list, rest, err := cut(value, 2)
	if err != nil || len(rest) > 0 || len(list) == 0 {
		return errShort
	}
	for len(list) > 0 {
		kind := list[0]
		var name []byte
		if name, list, err = cut(list[1:], 2); err != nil {
			return err
		}
		if kind != 0 {
			continue
		}
		if h.ServerName != "" {
			return errors.New("read ClientHello: two server names")
		}
		if h.ServerName, err = serverName(name); err != nil {
			return err
		}
	}
	return nil
}

// serverName checks a DNS name without a dot at the end and makes it lower case. An IP address is none (RFC 6066).
func serverName(name []byte) (string, error) {
	errName := errors.New("read ClientHello: a server name that is no DNS name")
	if len(name) == 0 || len(name) > 253 {
		return "", errName
	}
	lower := make([]byte, len(name))
	label := 0
	for i, b := range name {
		switch {
		case b >= 'A' && b <= 'Z':
			b += 'a' - 'A'
		case b >= 'a' && b <= 'z', b >= '0' && b <= '9', b == '-', b == '_':
		case b == '.' && label > 0:
			lower[i], label = b, 0
			continue
		default:
			return "", errName
		}
		if label++; label > 63 {
			return "", errName
		}
		lower[i] = b
	}
	text := string(lower)
	if _, err := netip.ParseAddr(text); err == nil || label == 0 {
		return "", errName
	}
	return text, nil
}

// readProtocols reads the ALPN extension (RFC 7301 section 3.1).
func (h *Hello) readProtocols(value []byte) error {
	list, rest, err := cut(value, 2)
	if err != nil || len(rest) > 0 || len(list) == 0 {
		return errShort
	}
	for len(list) > 0 {
		var name []byte
		if name, list, err = cut(list, 1); err != nil || len(name) == 0 {
			return errShort
		}
		if len(h.Protocols) == maxProtocols {
			return fmt.Errorf("read ClientHello: more than %d protocols", maxProtocols)
		}
		h.Protocols = append(h.Protocols, string(name))
	}
	return nil
}
