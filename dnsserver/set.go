package dnsserver

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
)

// Set is all records of one type at one name (an RRset). Its exported fields are filled by who makes it and belong to the
// branch from NewBranch on, which puts them in order; then it is immutable.
type Set struct {
	Type uint16
	TTL  uint32 // in seconds
	// Data is the RDATA of each record in wire form: names within uncompressed and in lower case, 65,535 bytes at most.
	// NewBranch sorts it in canonical order (RFC 4034 §6.3) and removes what is there twice. A set with localities that is larger
	// than what an answer over UDP holds is sorted by them first.
	Data [][]byte
	// Order says which records come first in answers; nil: each is as likely as any other.
	Order *Order

	prepared
}

// Order ranks the records of a set; each field is nil or has one element for each element of Data.
type Order struct {
	Weights    []uint32 // the chance to be first, in proportion. Where all are 0, all are equal.
	Localities []Locality
}

// Locality is where something runs, as in xDS.
type Locality struct{ Region, Zone, SubZone string }

func (l Locality) compare(other Locality) int {
	return cmp.Or(cmp.Compare(l.Region, other.Region), cmp.Compare(l.Zone, other.Zone), cmp.Compare(l.SubZone, other.SubZone))
}

// Addresses makes the A and AAAA sets of addresses; order is nil or has one element for each. The order of both is kept.
func Addresses(ttl uint32, addrs []netip.Addr, order *Order) []Set {
	v4, v6 := Set{Type: dns.TypeA, TTL: ttl}, Set{Type: dns.TypeAAAA, TTL: ttl}
	for i, addr := range addrs {
		to := &v6
		if addr = addr.Unmap(); addr.Is4() {
			to = &v4
		}
		to.Data = append(to.Data, addr.AsSlice())
		if order == nil {
			continue
		}
		if to.Order == nil {
			to.Order = &Order{}
		}
		if order.Weights != nil {
			to.Order.Weights = append(to.Order.Weights, order.Weights[i])
		}
		if order.Localities != nil {
			to.Order.Localities = append(to.Order.Localities, order.Localities[i])
		}
	}
	switch {
	case len(v4.Data) == 0 && len(v6.Data) == 0:
		return nil
	case len(v6.Data) == 0:
		return []Set{v4}
	case len(v4.Data) == 0:
		return []Set{v6}
	}
	return []Set{v4, v6}
}

// ServiceData is the RDATA of an SRV record (RFC 2782).
func ServiceData(priority, weight, port uint16, target Name) []byte {
	b := make([]byte, 0, serviceTarget+len(target))
	b = binary.BigEndian.AppendUint16(b, priority)
	b = binary.BigEndian.AppendUint16(b, weight)
	b = binary.BigEndian.AppendUint16(b, port)
	return append(b, target...)
}

// BindingData is the RDATA of an SVCB or HTTPS record in service mode (RFC 9460) with the protocols, each of 255 bytes at most,
// and the port, in the order of their keys.
func BindingData(priority uint16, target Name, alpn []string, port uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, priority)
	b = append(b, target...)
	size := 0
	for _, id := range alpn {
		size += 1 + len(id)
	}
	if size > 0 {
		b = binary.BigEndian.AppendUint16(b, uint16(dns.SVCB_ALPN))
		b = binary.BigEndian.AppendUint16(b, uint16(size))
		for _, id := range alpn {
			b = append(append(b, byte(len(id))), id...)
		}
	}
	b = binary.BigEndian.AppendUint16(b, uint16(dns.SVCB_PORT))
	b = binary.BigEndian.AppendUint16(b, 2)
	return binary.BigEndian.AppendUint16(b, port)
}

// TextData is the RDATA of a TXT record of strings, each of which is cut after 255 bytes.
func TextData(texts ...string) []byte {
	var b []byte
	for _, text := range texts {
		text = text[:min(len(text), 255)]
		b = append(append(b, byte(len(text))), text...)
	}
	return b
}

// Where the target begins in the data of records.
const (
	serviceTarget = 6 // SRV
	bindingTarget = 2 // SVCB, HTTPS
)

// What a record has in an image before its data: a pointer to the question's name, type, class, TTL, length of the data.
const (
	recordBytes  = 12
	questionName = 12 // where the question's name stands in every message
	pointer      = 0xc000
	maxPointer   = 0x3fff
)

// prepared is what a branch computes once of a set, so that an answer is little more than copies.
//
// What most answers need comes first: names are asked for in no order, so each place in memory that is looked at costs more than
// the work that is done with it.
type prepared struct {
	image  []byte  // all records, each owned by a pointer to the question's name
	extra  []extra // nil, or what goes along with each record
	stride uint32  // how large each record is in the image, if all are alike, else 0
	// alike says that there is one window, and each of its records is as likely as any other to come first, whoever asks.
	alike bool
	// repeats says that two records have the same target, far that some target is in the zone and not in this branch.
	repeats, far bool

	full    *full    // all records, where they are more than a window
	windows []window // what answers over UDP give, one of them each
	starts  []uint32 // where each record begins in the image, and the image's end; nil if there is a stride
}

// window is a run of records that are answered together. It is fixed, and signed as a set of its own. Where the set has localities
// and more than one window, all its records are of one place.
type window struct {
	from, to int
	weight   uint64
	upTo     uint64   // the weights of this window and of those before it
	chances  []uint64 // for each record the weights up to it, within the window; nil: all are equal
	slot     dnssec.Slot
}

// full is a large set as answers over TCP give it.
type full struct {
	window
	sorted [][]byte // the records in canonical order
}

// extra are the addresses of a record's target.
type extra struct {
	target int    // where the target's name begins, from the record's start
	same   uint32 // the first record that has this target
	image  []byte // its A and AAAA records, owned by a pointer that is filled in
}

// canonical sorts the records and drops those that are there twice, whose weights are added.
func (s *Set) canonical() {
	if len(s.Data) == 1 {
		return
	}
	placed := s.Order != nil && s.Order.Localities != nil
	index := make([]int, len(s.Data))
	for i := range index {
		index[i] = i
	}
	slices.SortStableFunc(index, func(a, b int) int {
		if placed && len(index) > maxUDPAnswers {
			if c := s.Order.Localities[a].compare(s.Order.Localities[b]); c != 0 {
				return c
			}
		}
		return bytes.Compare(s.Data[a], s.Data[b])
	})
	data := make([][]byte, 0, len(index))
	var order *Order
	if s.Order != nil {
		order = &Order{}
	}
	for _, from := range index {
		last := len(data) - 1
		if last >= 0 && bytes.Equal(data[last], s.Data[from]) {
			if order != nil && order.Weights != nil {
				order.Weights[last] = uint32(min(uint64(order.Weights[last])+uint64(s.Order.Weights[from]), 1<<32-1))
			}
			continue
		}
		data = append(data, s.Data[from])
		if order != nil && s.Order.Weights != nil {
			order.Weights = append(order.Weights, s.Order.Weights[from])
		}
		if order != nil && s.Order.Localities != nil {
			order.Localities = append(order.Localities, s.Order.Localities[from])
		}
	}
	s.Data, s.Order = data, order
}

// prepare computes the image and the windows. The extra records come later: they need the whole branch.
func (s *Set) prepare() {
	s.canonical()
	size := 0
	s.stride = uint32(recordBytes + len(s.Data[0]))
	for _, data := range s.Data {
		size += recordBytes + len(data)
		if len(data) != len(s.Data[0]) {
			s.stride = 0
		}
	}
	s.image = make([]byte, 0, size)
	if s.stride == 0 {
		s.starts = make([]uint32, 0, len(s.Data)+1)
	}
	for i, data := range s.Data {
		if s.stride == 0 {
			s.starts = append(s.starts, uint32(len(s.image)))
		}
		s.image = appendRecord(s.image, s.Type, s.TTL, data)
		s.Data[i] = s.image[len(s.image)-len(data) : len(s.image) : len(s.image)] // one copy of it is enough
	}
	if s.stride == 0 {
		s.starts = append(s.starts, uint32(len(s.image)))
	}
	s.divide()
	s.alike = s.full == nil && s.windows[0].chances == nil && (s.Order == nil || s.Order.Localities == nil)
}

// start is where a record begins in the image, and for the number of records the image's end.
func (s *Set) start(i int) int {
	if s.stride != 0 {
		return i * int(s.stride)
	}
	return int(s.starts[i])
}

// all is the window of all records.
func (s *Set) all() *window {
	if s.full != nil {
		return &s.full.window
	}
	return &s.windows[0]
}

// canonicalOf returns the records of a window in canonical order.
func (s *Set) canonicalOf(w *window) [][]byte {
	if s.full != nil && w == &s.full.window {
		return s.full.sorted
	}
	return s.Data[w.from:w.to]
}

// Canonical returns all records in canonical order (RFC 4034 §6.3). The caller changes nothing.
func (s *Set) Canonical() [][]byte { return s.canonicalOf(s.all()) }

// divide makes the windows, as equal as can be; those of a set with localities each of one place.
func (s *Set) divide() {
	var starts []int
	for from := 0; from < len(s.Data); {
		to := len(s.Data)
		if s.Order != nil && s.Order.Localities != nil && len(s.Data) > maxUDPAnswers {
			place := s.Order.Localities[from]
			for to = from + 1; to < len(s.Data) && s.Order.Localities[to] == place; {
				to++
			}
		}
		n := to - from
		count := (n + maxUDPAnswers - 1) / maxUDPAnswers
		for i := range count {
			starts = append(starts, from+i*n/count)
		}
		from = to
	}
	s.windows = make([]window, len(starts))
	var before uint64
	for i := range s.windows {
		w := &s.windows[i]
		if w.from, w.to = starts[i], len(s.Data); i+1 < len(starts) {
			w.to = starts[i+1]
		}
		w.weight = s.weigh(w)
		before += w.weight
		w.upTo = before
	}
	if len(s.windows) > 1 {
		s.full = &full{window: window{to: len(s.Data)}, sorted: slices.SortedFunc(slices.Values(s.Data), bytes.Compare)}
	}
}

// weigh fills a window's chances in and returns its weight.
func (s *Set) weigh(w *window) (sum uint64) {
	n := w.to - w.from
	if s.Order == nil || s.Order.Weights == nil {
		return uint64(n)
	}
	weights := s.Order.Weights[w.from:w.to]
	if !slices.ContainsFunc(s.Order.Weights, func(v uint32) bool { return v != s.Order.Weights[0] }) {
		return uint64(n) // all alike
	}
	w.chances = make([]uint64, n)
	for i, weight := range weights {
		sum += uint64(weight)
		w.chances[i] = sum
	}
	if sum == 0 {
		w.chances = nil
	}
	return sum
}

// appendRecord appends a record owned by a pointer to the question's name.
func appendRecord(b []byte, rtype uint16, ttl uint32, data []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, pointer|questionName)
	b = binary.BigEndian.AppendUint16(b, rtype)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// targetAt is where a name begins in the data of types whose answers bring that name's addresses along, 0 for others.
func targetAt(rtype uint16) (at int, ok bool) {
	switch rtype {
	case dns.TypeSRV:
		return serviceTarget, true
	case dns.TypeSVCB, dns.TypeHTTPS:
		return bindingTarget, true
	case dns.TypeNS:
		return 0, true
	}
	return 0, false
}

// attach adds what the targets within the branch have of addresses.
func (s *Set) attach(origin Name, find func(Name) *node) {
	at, ok := targetAt(s.Type)
	if !ok {
		return
	}
	s.extra = make([]extra, len(s.Data))
	seen := make(map[Name]uint32, len(s.Data))
	for i, data := range s.Data {
		target := Name(nameAt(data, at))
		if len(target) <= 1 { // the root is a service's own name in SVCB, and nobody's address in others
			continue
		}
		s.extra[i].target = recordBytes + at
		first, repeated := seen[target]
		if !repeated {
			first = uint32(i)
			seen[target] = first
		}
		s.extra[i].same = first
		s.repeats = s.repeats || repeated
		if n := find(target); n != nil {
			s.extra[i].image = n.addresses()
		} else if target.within(origin) {
			s.far = true
		}
	}
	s.gather()
}

// gather puts what goes along with the records together in memory, as it is answered together.
func (s *Set) gather() {
	size := 0
	for i := range s.extra {
		size += len(s.extra[i].image)
	}
	if len(s.extra) < 2 || s.repeats || size == 0 {
		return
	}
	all := make([]byte, 0, size)
	for i := range s.extra {
		if e := &s.extra[i]; e.image != nil {
			from := len(all)
			all = append(all, e.image...)
			e.image = all[from:]
		}
	}
}

// nameAt returns the name that begins at some place of a record's data, nil for none.
func nameAt(data []byte, at int) []byte {
	for end := at; end < len(data); end += 1 + int(data[end]) {
		if data[end] == 0 {
			return data[at : end+1]
		}
	}
	return nil
}

// sortSets puts sets in the order of their types and returns pointers to those that have records.
func sortSets(sets []Set) []*Set {
	out := make([]*Set, 0, len(sets))
	for i := range sets {
		if len(sets[i].Data) > 0 {
			out = append(out, &sets[i])
		}
	}
	slices.SortStableFunc(out, byType)
	return out
}

func byType(a, b *Set) int { return cmp.Compare(a.Type, b.Type) }

// Equal says whether two sets are the same records, whatever their order in answers. Either may be nil.
func (s *Set) Equal(other *Set) bool {
	if s == other || s == nil || other == nil {
		return s == other
	}
	return s.Type == other.Type && s.TTL == other.TTL && slices.EqualFunc(s.Data, other.Data, bytes.Equal)
}
