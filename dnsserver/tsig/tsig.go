// Package tsig authenticates DNS messages by secrets that two servers share (RFC 8945), with HMAC of SHA-256 and SHA-512.
//
// It knows messages as bytes: a Session begins with a message that was verified or signed, and signs or verifies what comes next.
package tsig

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/miekg/dns"
)

// Fudge is how far the clocks of two servers may be apart.
const Fudge = 5 * time.Minute

// shortestSecret is in bytes. What is shorter can be tried.
const shortestSecret = 16

// Key is a secret and its name. It is immutable, and prints as its name.
type Key struct {
	name      string // in lower case, with the last dot
	algorithm string // as TSIG has it: a domain name
	secret    []byte
}

// NewKey makes a key. The algorithm is hmac-sha256 or hmac-sha512; the secret has 16 bytes at least and is the key's from now on.
func NewKey(name, algorithm string, secret []byte) (*Key, error) {
	name = dns.CanonicalName(name)
	if _, ok := dns.IsDomainName(name); !ok || name == "." {
		return nil, fmt.Errorf("make TSIG key: got the name %q, want a domain name", name)
	}
	if len(secret) < shortestSecret {
		return nil, fmt.Errorf("make TSIG key %s: got a secret of %d bytes, want %d at least", name, len(secret), shortestSecret)
	}
	k := &Key{name: name, algorithm: dns.CanonicalName(algorithm), secret: secret}
	if k.hash() == nil {
		return nil, fmt.Errorf("make TSIG key %s: got the algorithm %q, want hmac-sha256 or hmac-sha512", name, algorithm)
	}
	return k, nil
}

// Name returns the key's name, with the last dot.
func (k *Key) Name() string { return k.name }

// String returns the key's name, so that nobody prints its secret.
func (k *Key) String() string { return k.name }

// GoString does so for %#v.
func (k *Key) GoString() string { return k.name }

func (k *Key) hash() func() hash.Hash {
	switch k.algorithm {
	case dns.HmacSHA256:
		return sha256.New
	case dns.HmacSHA512:
		return sha512.New
	}
	return nil
}

// Session is a message and those that follow it. It is not safe for concurrent use.
type Session struct {
	key     *Key
	record  record // of the message that was verified, or what will be said
	prior   []byte // the MAC of the message before
	follows bool   // a message was signed that answers the first
	failed  uint16 // the error of RFC 8945 §3, 0 for none
}

// Key returns the key that the message was signed with, nil when it was not verified.
func (s *Session) Key() *Key {
	if s.failed != 0 {
		return nil
	}
	return s.key
}

// Failed returns the error of RFC 8945 §3, dns.RcodeBadKey, dns.RcodeBadSig, dns.RcodeBadTime or dns.RcodeBadTrunc, 0 for none.
func (s *Session) Failed() uint16 { return s.failed }

// ErrFormat is of messages whose TSIG record is malformed, or not where it must be.
var ErrFormat = errors.New("malformed TSIG record")

// Verify looks at a query that came in. Without a TSIG record the session is nil. A query that is not authentic has a session that
// has failed; with it the answer, NOTAUTH, is finished. The message is not changed.
func Verify(keys []*Key, message []byte, now time.Time) (*Session, error) {
	at, err := find(message)
	if err != nil || at == 0 {
		return nil, err
	}
	s := &Session{}
	if s.record, err = parse(message, at); err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.name == s.record.name && k.algorithm == s.record.algorithm {
			s.key = k
		}
	}
	if s.key == nil {
		s.failed = dns.RcodeBadKey
		return s, nil
	}
	s.failed, err = s.check(nil, message[:at], now)
	s.prior = s.record.mac
	return s, err
}

// check verifies the session's record, which stood behind a message, and returns the error of RFC 8945 §3.
func (s *Session) check(prior, message []byte, now time.Time) (failed uint16, err error) {
	mac, want := s.record.mac, s.key.hash()().Size()
	switch {
	case len(mac) > want || len(mac) < max(10, want/2):
		return 0, ErrFormat // §5.2.2.1
	case !hmac.Equal(mac, s.key.mac(prior, message, &s.record, false)[:len(mac)]):
		return dns.RcodeBadSig, nil
	case len(mac) < want:
		return dns.RcodeBadTrunc, nil // it is authentic, and less than what we want
	}
	apart := now.Unix() - int64(s.record.signed)
	fudge := min(int64(s.record.fudge), int64(Fudge/time.Second)) // what is older may have been recorded by somebody
	if apart > fudge || -apart > fudge {
		return dns.RcodeBadTime, nil
	}
	return 0, nil
}

// Sign appends a TSIG record to a query of ours, and returns the session that its answer is verified with.
func Sign(key *Key, message []byte, now time.Time) ([]byte, *Session) {
	s := &Session{key: key, record: record{name: key.name, algorithm: key.algorithm}}
	s.record.id = binary.BigEndian.Uint16(message)
	message = s.sign(message, nil, false, now)
	return message, s
}

// Append appends the TSIG record to an answer, the first or one that follows it in a stream. It counts the record in the header.
func (s *Session) Append(message []byte, now time.Time) []byte {
	switch s.failed {
	case dns.RcodeBadKey, dns.RcodeBadSig:
		s.record.failed, s.record.mac = s.failed, nil
		return s.record.appendTo(message)
	case dns.RcodeBadTime: // the client's time, and ours beside it
		s.record.failed = s.failed
		s.record.other = appendTime(nil, uint64(now.Unix()))
		now = time.Unix(int64(s.record.signed), 0)
	default:
		s.record.failed, s.record.other = s.failed, nil
	}
	message = s.sign(message, s.prior, s.follows, now)
	s.follows = true
	return message
}

func (s *Session) sign(message, prior []byte, timers bool, now time.Time) []byte {
	s.record.additional = binary.BigEndian.Uint16(message[10:])
	s.record.signed, s.record.fudge = uint64(now.Unix()), uint16(Fudge/time.Second)
	s.record.mac = s.key.mac(prior, message, &s.record, timers)
	s.prior = s.record.mac
	return s.record.appendTo(message)
}

// VerifyAnswer looks at the answer to a query that was signed.
func (s *Session) VerifyAnswer(message []byte, now time.Time) error {
	at, err := find(message)
	if err != nil {
		return fmt.Errorf("verify answer: %w", err)
	}
	if at == 0 {
		return errors.New("verify answer: got no TSIG record, want one of " + s.key.name)
	}
	query := s.prior
	if s.record, err = parse(message, at); err != nil {
		return fmt.Errorf("verify answer: %w", err)
	}
	if s.record.name != s.key.name || s.record.algorithm != s.key.algorithm {
		return fmt.Errorf("verify answer: got one by key %s (%s), want %s (%s)", s.record.name, s.record.algorithm, s.key.name, s.key.algorithm)
	}
	if s.record.failed != 0 {
		return fmt.Errorf("verify answer: the other server refused the key: %s", errorText(s.record.failed))
	}
	failed, err := s.check(query, message[:at], now)
	if err == nil && failed != 0 {
		err = errors.New(errorText(failed))
	}
	if err != nil {
		return fmt.Errorf("verify answer: %w", err)
	}
	return nil
}

func errorText(code uint16) string {
	switch code {
	case dns.RcodeBadSig:
		return "BADSIG (the secrets differ)"
	case dns.RcodeBadKey:
		return "BADKEY (it has no such key)"
	case dns.RcodeBadTime:
		return "BADTIME (the clocks differ)"
	case dns.RcodeBadTrunc:
		return "BADTRUNC"
	}
	return fmt.Sprintf("error %d", code)
}

// Size returns how many bytes Append appends at most.
func (s *Session) Size() int {
	n := len(s.record.name) + len(s.record.algorithm) + 2 + 10 + 10 + 2 + 6 + 6
	if s.key != nil {
		n += s.key.hash()().Size()
	}
	return n
}

// mac is the digest of RFC 8945 §4.3 over a message without its TSIG record; prior is the MAC of the message before, timers is for
// those that follow the first answer.
func (k *Key) mac(prior, message []byte, r *record, timers bool) []byte {
	h := hmac.New(k.hash(), k.secret)
	var head []byte
	if prior != nil {
		head = binary.BigEndian.AppendUint16(head, uint16(len(prior)))
		head = append(head, prior...)
	}
	head = binary.BigEndian.AppendUint16(head, r.id)
	h.Write(head)
	h.Write(message[2:10])
	h.Write([]byte{byte(r.additional >> 8), byte(r.additional)})
	h.Write(message[12:])
	var tail []byte
	if !timers {
		tail = appendName(tail, r.name)
		tail = append(tail, 0, dns.ClassANY, 0, 0, 0, 0)
		tail = appendName(tail, r.algorithm)
	}
	tail = appendTime(tail, r.signed)
	tail = binary.BigEndian.AppendUint16(tail, r.fudge)
	if !timers {
		tail = binary.BigEndian.AppendUint16(tail, r.failed)
		tail = binary.BigEndian.AppendUint16(tail, uint16(len(r.other)))
		tail = append(tail, r.other...)
	}
	h.Write(tail)
	return h.Sum(nil)
}

func appendTime(b []byte, seconds uint64) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(seconds>>32))
	return binary.BigEndian.AppendUint32(b, uint32(seconds))
}
