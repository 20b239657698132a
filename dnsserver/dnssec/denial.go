package dnssec

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// maxDenials is how many denials are kept at most, about 500 bytes each. Anybody can ask for any name.
const (
	maxDenials   = 32 << 10
	denialShards = 16
)

// Denier denies names that do not exist (RFC 9824): with an NSEC record at the very name, made when it is asked for. It is safe
// for concurrent use.
type Denier struct {
	signer *Signer
	seed   maphash.Seed
	shards [denialShards]denialShard
}

// denialShard keeps denials in two generations: who is asked for again moves to the younger one, and when that is full the
// older one is forgotten.
type denialShard struct {
	mu           sync.Mutex
	young, older map[string]*Denial
}

// Denial is an NSEC record, with the slot of its signatures. It is immutable.
type Denial struct {
	Set
	Slot Slot
}

// NewDenier returns a denier whose records are signed by signer.
func NewDenier(signer *Signer) *Denier {
	d := &Denier{signer: signer, seed: maphash.MakeSeed()}
	for i := range d.shards {
		d.shards[i].young = map[string]*Denial{}
	}
	return d
}

// Deny returns the NSEC record of a name in wire form and lower case that does not exist, and its signatures. ttl is the one of
// negative answers. Where neither is kept that can be used, may is asked whether they may be made; it costs a signature. Without
// leave there is no denial, and no error.
func (d *Denier) Deny(name []byte, ttl uint32, now time.Time, may Leave) (*Denial, [][]byte, error) {
	shard := &d.shards[maphash.Bytes(d.seed, name)%denialShards]
	denial := shard.get(name)
	if denial == nil || denial.TTL != ttl || !d.signer.usable(&denial.Slot, name, now) {
		if !may.Sign() {
			return nil, nil, nil
		}
		denial = NewDenial(name, []uint16{dns.TypeNXNAME}, ttl)
		shard.put(denial)
	}
	rrsigs, err := d.signer.Sign(&denial.Slot, denial.Set, now, nil)
	return denial, rrsigs, err
}

// NewDenial returns the NSEC record at a name in wire form and lower case. types are those that exist there, in any order and
// without NSEC and RRSIG, or NXNAME alone. ttl is the one of negative answers.
func NewDenial(name []byte, types []uint16, ttl uint32) *Denial {
	return NewLink(name, successor(name), types, ttl)
}

// NewLink returns the NSEC record from a name to the next one there is, as zones have it that are signed as a whole (RFC 4034 §4).
func NewLink(name, next []byte, types []uint16, ttl uint32) *Denial {
	name = bytes.Clone(name)
	listed := append(slices.Clone(types), dns.TypeRRSIG, dns.TypeNSEC)
	slices.Sort(listed)
	data := AppendBitmap(bytes.Clone(next), listed)
	return &Denial{Set: Set{Owner: name, Type: dns.TypeNSEC, TTL: ttl, Data: [][]byte{data}}}
}

func (s *denialShard) get(name []byte) *Denial {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.young[string(name)]; d != nil {
		return d
	}
	d := s.older[string(name)]
	if d != nil {
		s.add(d)
	}
	return d
}

func (s *denialShard) put(d *Denial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(d)
}

func (s *denialShard) add(d *Denial) {
	if len(s.young) >= maxDenials/denialShards/2 {
		s.young, s.older = make(map[string]*Denial, len(s.young)), s.young
	}
	s.young[string(d.Owner)] = d
}

// size returns how many denials are kept.
func (d *Denier) size() (n int) {
	for i := range d.shards {
		shard := &d.shards[i]
		shard.mu.Lock()
		n += len(shard.young) + len(shard.older)
		shard.mu.Unlock()
	}
	return n
}

// maxName is how long a name can be in wire form.
const maxName = 255

// successor returns the name that comes next after a name in canonical order, so that a record from one to the other denies
// nothing else (RFC 4471 §3.1.2): "\000." before it, or for names so long that this does not fit, the next label.
func successor(name []byte) []byte {
	if len(name)+2 <= maxName {
		return append([]byte{1, 0}, name...)
	}
	for len(name) > 1 {
		label, rest := name[1:1+int(name[0])], name[1+int(name[0]):]
		if len(label) < 63 && len(name) < maxName {
			return slices.Concat([]byte{byte(len(label) + 1)}, label, []byte{0}, rest)
		}
		for i := len(label) - 1; i >= 0; i-- {
			if label[i] == 0xff {
				continue
			}
			next := bytes.Clone(label[:i+1])
			next[i]++
			if next[i] == 'A' {
				next[i] = 'Z' + 1 // canonical names have no upper case
			}
			return slices.Concat([]byte{byte(len(next))}, next, rest)
		}
		name = rest
	}
	return name
}

// AppendBitmap appends the type bit maps of types in ascending order, as NSEC has them (RFC 4034 §4.1.2).
func AppendBitmap(dst []byte, types []uint16) []byte {
	for i := 0; i < len(types); {
		window := byte(types[i] >> 8)
		at := len(dst)
		dst = append(dst, window, 0)
		for ; i < len(types) && byte(types[i]>>8) == window; i++ {
			low := byte(types[i])
			for len(dst)-at-2 <= int(low/8) {
				dst = append(dst, 0)
			}
			dst[at+2+int(low/8)] |= 0x80 >> (low % 8)
		}
		dst[at+1] = byte(len(dst) - at - 2)
	}
	return dst
}
