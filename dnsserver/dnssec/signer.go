package dnssec

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Times of signatures.
const (
	// skew is how far behind a validator's clock may be. Inception lies that far, and up to that much more, in the past.
	skew = time.Hour
	// spare is how long a signature still holds when it is served last: longer than any TTL of a mesh.
	spare = 2 * time.Hour
	// DefaultValidity is how long signatures hold that are made to be served at once.
	DefaultValidity = 7 * 24 * time.Hour
)

// Signer signs sets and keeps the signatures. It is safe for concurrent use.
type Signer struct {
	ring     func() *Ring
	validity time.Duration
	made     *atomic.Uint64
}

// NewSigner returns a signer that asks for the ring at each signature. validity is how long a signature holds, 0 for
// DefaultValidity.
func NewSigner(ring func() *Ring, validity time.Duration) *Signer {
	if validity == 0 {
		validity = DefaultValidity
	}
	return &Signer{ring: ring, validity: max(validity, 4*spare), made: new(atomic.Uint64)}
}

// Lasting returns a signer with the same keys for signatures that are copied to others: they hold for 30 days, and when they are
// renewed, after 22 at the latest, copies that nobody refreshes for a week are still valid.
func (s *Signer) Lasting() *Signer {
	const validity = 30 * 24 * time.Hour
	return &Signer{ring: s.ring, validity: validity, made: s.made}
}

// Made returns how many signatures were made.
func (s *Signer) Made() uint64 { return s.made.Load() }

// Ring returns the keys that are signed with now.
func (s *Signer) Ring() *Ring { return s.ring() }

// Slot keeps a set's signatures. It stands beside the set and is used for that set alone; when the set's data changes it has
// another slot. Its zero value is empty. Sets that are the same under several names may share one.
type Slot struct {
	first    atomic.Pointer[signature]
	renewing atomic.Bool
	mu       sync.Mutex // held while signing what nobody can do without
}

// maxOwners is how many names can share a slot; beyond it their signatures push each other out.
const maxOwners = 4

// signature is immutable.
type signature struct {
	next       *signature // of another owner
	owner      []byte
	rrsigs     [][]byte // RDATA, one for each key
	tags       []uint16 // of the keys
	ring       *Ring    // the one it was made with
	inception  int64    // unix seconds, as the two below
	expiration int64
	refresh    int64 // when it is time to make another
}

// usable reports whether it can be given to a client: it holds for a while and its keys are published.
func (s *signature) usable(now int64, ring *Ring) bool {
	return s.inception <= now && now < s.expiration-int64(spare/time.Second) && (s.ring == ring || ring.has(s.tags))
}

// Sign returns the RDATA of the set's RRSIG records, one for each key that signs sets of its type, at the time now. They hold
// for two hours at least, whatever the clock did since they were made, and by keys that are published. They are shared, and not
// to be changed. A set is signed once, however many ask; while its signature is renewed the others are given the one before.
// Where none is kept that can be used, may is asked whether one may be made; nil allows it. Without leave there is none, and no
// error.
func (s *Signer) Sign(slot *Slot, set Set, now time.Time, may Leave) ([][]byte, error) {
	ring, at := s.ring(), now.Unix()
	if sig := slot.find(set.Owner); sig != nil && sig.usable(at, ring) {
		if at < sig.refresh || !slot.renewing.CompareAndSwap(false, true) {
			return sig.rrsigs, nil
		}
		defer slot.renewing.Store(false)
		if may != nil && !may.Sign() {
			return sig.rrsigs, nil
		}
		if renewed, err := s.sign(slot, set, ring, at); err == nil {
			return renewed.rrsigs, nil
		}
		return sig.rrsigs, nil
	}
	if may != nil && !may.Sign() {
		return nil, nil
	}
	slot.mu.Lock()
	defer slot.mu.Unlock()
	if sig := slot.find(set.Owner); sig != nil && sig.usable(at, ring) {
		return sig.rrsigs, nil // another was quicker
	}
	sig, err := s.sign(slot, set, ring, at)
	if err != nil {
		return nil, err
	}
	return sig.rrsigs, nil
}

// Leave decides whether a signature may be made, which takes 70 µs: anybody can ask for one.
type Leave interface{ Sign() bool }

// Until returns until when the signatures of a slot hold, and whether there are any for the owner.
func (slot *Slot) Until(owner []byte) (time.Time, bool) {
	if sig := slot.find(owner); sig != nil {
		return time.Unix(sig.expiration, 0), true
	}
	return time.Time{}, false
}

// Due reports whether what the slot holds for the owner cannot be used any more at a time, or should be made anew.
func (s *Signer) Due(slot *Slot, owner []byte, now time.Time) bool {
	sig := slot.find(owner)
	return sig == nil || !sig.usable(now.Unix(), s.ring()) || now.Unix() >= sig.refresh
}

// usable reports whether what the slot holds for the owner can be given to a client at a time.
func (s *Signer) usable(slot *Slot, owner []byte, now time.Time) bool {
	sig := slot.find(owner)
	return sig != nil && sig.usable(now.Unix(), s.ring())
}

func (slot *Slot) find(owner []byte) *signature {
	for sig := slot.first.Load(); sig != nil; sig = sig.next {
		if bytes.Equal(sig.owner, owner) {
			return sig
		}
	}
	return nil
}

// put makes sig the first of the slot, and leaves out what it replaces.
func (slot *Slot) put(sig *signature) {
	for {
		before := slot.first.Load()
		kept := make([]*signature, 0, maxOwners)
		for old := before; old != nil && len(kept) < maxOwners-1; old = old.next {
			if !bytes.Equal(old.owner, sig.owner) {
				kept = append(kept, old)
			}
		}
		var next *signature
		for i := len(kept) - 1; i >= 0; i-- {
			again := *kept[i]
			again.next = next
			next = &again
		}
		sig.next = next
		if slot.first.CompareAndSwap(before, sig) {
			return
		}
	}
}

// sign makes the signatures of a set and puts them into its slot.
func (s *Signer) sign(slot *Slot, set Set, ring *Ring, now int64) (*signature, error) {
	sig, err := s.make(set, ring, now)
	if err == nil {
		slot.put(sig)
	}
	return sig, err
}

// Make makes signatures that nobody else keeps, RDATA as Sign returns it, and says when it is time to make others.
func (s *Signer) Make(set Set, ring *Ring, now time.Time) (rrsigs [][]byte, refresh time.Time, err error) {
	sig, err := s.make(set, ring, now.Unix())
	if err != nil {
		return nil, time.Time{}, err
	}
	return sig.rrsigs, time.Unix(sig.refresh, 0), nil
}

func (s *Signer) make(set Set, ring *Ring, now int64) (*signature, error) {
	valid := int64(s.validity / time.Second)
	sig := &signature{
		owner:      bytes.Clone(set.Owner), // the caller's may be a buffer
		ring:       ring,
		inception:  now - int64(skew/time.Second) - rand.Int64N(int64(skew/time.Second)),
		expiration: now + valid,
		// What was signed together, as after a start, is not renewed together.
		refresh: now + valid/2 + rand.Int64N(valid/4),
	}
	for _, key := range ring.signers(set.Type) {
		rrsig, err := signWith(key, ring.zone, set, uint32(sig.inception), uint32(sig.expiration))
		if err != nil {
			return nil, err
		}
		sig.rrsigs, sig.tags = append(sig.rrsigs, rrsig), append(sig.tags, key.tag)
		s.made.Add(1)
	}
	return sig, nil
}

// rrsigHead is how long the fixed fields of RRSIG's RDATA are.
const rrsigHead = 18

// signWith returns the RDATA of the RRSIG of a set (RFC 4034 §3.1).
func signWith(k *key, zone []byte, set Set, inception, expiration uint32) ([]byte, error) {
	rrsig := make([]byte, 0, rrsigHead+len(zone)+2*half)
	rrsig = binary.BigEndian.AppendUint16(rrsig, set.Type)
	rrsig = append(rrsig, algorithm, labels(set.Owner))
	rrsig = binary.BigEndian.AppendUint32(rrsig, set.TTL)
	rrsig = binary.BigEndian.AppendUint32(rrsig, expiration)
	rrsig = binary.BigEndian.AppendUint32(rrsig, inception)
	rrsig = binary.BigEndian.AppendUint16(rrsig, k.tag)
	rrsig = append(rrsig, zone...)

	hash := sha256.New()
	hash.Write(rrsig)
	head := append(make([]byte, 0, len(set.Owner)+10), set.Owner...)
	head = binary.BigEndian.AppendUint16(head, set.Type)
	head = binary.BigEndian.AppendUint16(head, class)
	head = binary.BigEndian.AppendUint32(head, set.TTL)
	for _, data := range set.Data {
		hash.Write(binary.BigEndian.AppendUint16(head, uint16(len(data))))
		hash.Write(data)
	}
	return k.sign(rrsig, hash.Sum(nil))
}
