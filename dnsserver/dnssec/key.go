package dnssec

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
)

// Role is what a key signs.
type Role string

// The roles of keys.
const (
	KSK Role = "ksk" // the set of keys; the parent's DS, or a trust anchor, points to it
	ZSK Role = "zsk" // everything else
)

// half is the length of r, s, x, y and the private key, in bytes.
const half = 32

// key is a private key and what is published of it. It is immutable.
type key struct {
	role    Role
	private *ecdsa.PrivateKey
	dnskey  []byte // RDATA of the DNSKEY record
	tag     uint16
}

func newKey(role Role, private *ecdsa.PrivateKey) (*key, error) {
	point, err := private.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	flags := uint16(256) // a zone's key
	if role == KSK {
		flags |= 1 // secure entry point
	}
	data := binary.BigEndian.AppendUint16(nil, flags)
	data = append(data, protocol, algorithm)
	data = append(data, point[1:]...)
	return &key{role: role, private: private, dnskey: data, tag: keyTag(data)}, nil
}

// generate makes a key whose tag is none of those taken: validators find keys by it.
func generate(role Role, taken func(tag uint16) bool) (*key, error) {
	for {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generate key: %w", err)
		}
		k, err := newKey(role, private)
		if err != nil || !taken(k.tag) {
			return k, err
		}
	}
}

// keyTag is RFC 4034 appendix B.
func keyTag(dnskey []byte) uint16 {
	var sum uint32
	for i, b := range dnskey {
		if i&1 == 0 {
			sum += uint32(b) << 8
		} else {
			sum += uint32(b)
		}
	}
	return uint16(sum + sum>>16)
}

// parsePrivate reads what encodePrivate wrote.
func parsePrivate(role Role, text string) (*key, error) {
	if role != KSK && role != ZSK {
		return nil, fmt.Errorf("read key: role %q, want %q or %q", role, KSK, ZSK)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return newKey(role, private)
}

// encodePrivate returns the private key as BIND's files have it: base64 of 32 bytes.
func (k *key) encodePrivate() (string, error) {
	raw, err := k.private.Bytes()
	return base64.StdEncoding.EncodeToString(raw), err
}

// sign returns the signature of a SHA-256 sum as RFC 6605 §4 has it: r and s.
func (k *key) sign(dst, sum []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, k.private, sum)
	if err != nil {
		return nil, fmt.Errorf("sign with key %d: %w", k.tag, err)
	}
	for _, n := range []*big.Int{r, s} {
		var buf [half]byte
		dst = append(dst, n.FillBytes(buf[:])...)
	}
	return dst, nil
}

// ds returns the RDATA of the key's DS record in zone (RFC 4509).
func (k *key) ds(zone []byte) []byte {
	const sha256Digest = 2
	sum := sha256.Sum256(append(append([]byte(nil), zone...), k.dnskey...))
	data := binary.BigEndian.AppendUint16(nil, k.tag)
	return append(append(data, algorithm, sha256Digest), sum[:]...)
}

// dsText writes the RDATA of a DS record as zone files have it.
func dsText(ds []byte) string {
	return fmt.Sprintf("%d %d %d %s", binary.BigEndian.Uint16(ds), ds[2], ds[3], strings.ToUpper(hex.EncodeToString(ds[4:])))
}

// dnskeyText writes the RDATA of a DNSKEY record as zone files have it.
func dnskeyText(data []byte) string {
	return fmt.Sprintf("%d %d %d %s", binary.BigEndian.Uint16(data), data[2], data[3], base64.StdEncoding.EncodeToString(data[4:]))
}
