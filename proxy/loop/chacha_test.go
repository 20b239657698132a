package loop_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/big"
	"math/bits"
	"slices"
	"testing"
)

// chacha is ChaCha20-Poly1305 (RFC 8439) as the standard library has it within crypto/tls only, which chooses it where the processor
// does not know AES. It is for tests: slow, and open to whoever measures its time.
type chacha [8]uint32

func newChaCha(key []byte) (c chacha) {
	for i := range c {
		c[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	return c
}

func (c chacha) NonceSize() int { return 12 }
func (c chacha) Overhead() int  { return 16 }

// block is 64 bytes of the key stream (section 2.3).
func (c chacha) block(counter uint32, nonce []byte) (out [64]byte) {
	in := [16]uint32{0x61707865, 0x3320646e, 0x79622d32, 0x6b206574, 12: counter}
	copy(in[4:], c[:])
	for i := range 3 {
		in[13+i] = binary.LittleEndian.Uint32(nonce[4*i:])
	}
	s := in
	quarter := func(a, b, c, d int) {
		s[a] += s[b]
		s[d] = bits.RotateLeft32(s[d]^s[a], 16)
		s[c] += s[d]
		s[b] = bits.RotateLeft32(s[b]^s[c], 12)
		s[a] += s[b]
		s[d] = bits.RotateLeft32(s[d]^s[a], 8)
		s[c] += s[d]
		s[b] = bits.RotateLeft32(s[b]^s[c], 7)
	}
	for range 10 {
		for i := range 4 {
			quarter(i, 4+i, 8+i, 12+i)
		}
		for i := range 4 {
			quarter(i, 4+(i+1)%4, 8+(i+2)%4, 12+(i+3)%4)
		}
	}
	for i := range s {
		binary.LittleEndian.PutUint32(out[4*i:], s[i]+in[i])
	}
	return out
}

func (c chacha) xor(nonce, p []byte) []byte {
	out := bytes.Clone(p)
	for i := range out {
		if i%64 == 0 {
			key := c.block(uint32(1+i/64), nonce)
			for j := i; j < min(i+64, len(out)); j++ {
				out[j] ^= key[j-i]
			}
		}
	}
	return out
}

// tag authenticates what was encrypted (sections 2.5 and 2.8).
func (c chacha) tag(nonce, sealed, more []byte) []byte {
	pad := func(b []byte) []byte { return append(bytes.Clone(b), make([]byte, (16-len(b)%16)%16)...) }
	text := append(pad(more), pad(sealed)...)
	text = binary.LittleEndian.AppendUint64(text, uint64(len(more)))
	text = binary.LittleEndian.AppendUint64(text, uint64(len(sealed)))
	number := func(b []byte) *big.Int {
		b = bytes.Clone(b)
		slices.Reverse(b)
		return new(big.Int).SetBytes(b)
	}
	key := c.block(0, nonce)
	for i := 3; i < 16; i += 4 {
		key[i] &= 15
	}
	for i := 4; i < 16; i += 4 {
		key[i] &= 252
	}
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 130), big.NewInt(5))
	sum, r := new(big.Int), number(key[:16])
	for part := range slices.Chunk(text, 16) {
		sum.Add(sum, number(append(bytes.Clone(part), 1)))
		sum.Mod(sum.Mul(sum, r), prime)
	}
	out := make([]byte, 16)
	sum.Mod(sum.Add(sum, number(key[16:32])), new(big.Int).Lsh(big.NewInt(1), 128)).FillBytes(out)
	slices.Reverse(out)
	return out
}

func (c chacha) Seal(dst, nonce, plain, more []byte) []byte {
	sealed := c.xor(nonce, plain)
	return append(append(dst, sealed...), c.tag(nonce, sealed, more)...)
}

func (c chacha) Open(dst, nonce, in, more []byte) ([]byte, error) {
	if len(in) < 16 {
		return nil, errors.New("a record without a tag")
	}
	sealed, tag := in[:len(in)-16], in[len(in)-16:]
	if !bytes.Equal(tag, c.tag(nonce, sealed, more)) {
		return nil, errors.New("a record with a wrong tag")
	}
	return append(dst, c.xor(nonce, sealed)...), nil
}

// TestChaCha20Poly1305 is the example of RFC 8439 section 2.8.2.
func TestChaCha20Poly1305(t *testing.T) {
	text := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	c := newChaCha(text("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"))
	nonce, more := text("070000004041424344454647"), text("50515253c0c1c2c3c4c5c6c7")
	plain := []byte("Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.")
	sealed := c.Seal(nil, nonce, plain, more)
	if begin, tag := text("d31a8d34648e60db7b86afbc53ef7ec2"), text("1ae10b594f09e26a7e902ecbd0600691"); !bytes.HasPrefix(sealed, begin) || !bytes.HasSuffix(sealed, tag) {
		t.Errorf("got %x, want %x…%x", sealed, begin, tag)
	}
	if got, err := c.Open(nil, nonce, sealed, more); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("%q, %v", got, err)
	}
	sealed[3]++
	if _, err := c.Open(nil, nonce, sealed, more); err == nil {
		t.Error("a changed text was opened")
	}
}
