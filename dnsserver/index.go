package dnsserver

import (
	"cmp"
	"hash/maphash"
	"math/bits"
	"slices"
)

// index finds a name's node among all of a zone. It is immutable: a new one shares all pages but those that change, so that
// it costs no more than what changes. A page is a hash table with open addressing, at most half full.
type index struct {
	seed  maphash.Seed
	shift uint // of a hash: what is left is the page's number
	pages []page
	names int // nodes, roughly: it decides when pages are too full
}

// page has beside its slots a byte for each, 0 for an empty one: these are so few that they stay in the processor's caches, and of a name
// that does not exist nothing else is looked at.
type page struct {
	tags  []uint8
	slots []slot
}

func tagOf(hash uint64) uint8 { return uint8(hash>>32) | 1 } // of bits that choose neither page nor slot

// slot has the node's name beside the node, so that both are waited for at once: of the names of a large zone few are in the
// processor's caches.
type slot struct {
	hash uint64
	name Name
	node *node
}

func slotOf(hash uint64, n *node) slot { return slot{hash, n.name, n} }

// What a page holds on average when it is made, and when all are made anew.
const (
	namesOfAPage     = 64
	mostNamesOfAPage = 4 * namesOfAPage
)

// change is what one change of branches does to one name: some nodes go, some come. An empty node counts for one branch.
type change struct {
	hash       uint64
	gone, come *node
}

// newIndex makes an index for about so many names.
func newIndex(seed maphash.Seed, names int) *index {
	pages := 1 << bits.Len(uint(names/namesOfAPage))
	return &index{seed: seed, shift: uint(64 - bits.Len(uint(pages)) + 1), pages: make([]page, pages)}
}

func (x *index) hash(name string) uint64 { return maphash.String(x.seed, name) }

// changes appends what it takes to hang a branch in another's place; either may be nil.
func (x *index) changes(changes []change, gone, come *Branch) []change {
	if gone != nil {
		for name, n := range gone.nodes {
			if come == nil || come.nodes[name] != n {
				changes = append(changes, change{hash: x.hash(string(name)), gone: n})
			}
		}
	}
	if come != nil {
		for name, n := range come.nodes {
			if gone == nil || gone.nodes[name] != n {
				changes = append(changes, change{hash: x.hash(string(name)), come: n})
			}
		}
	}
	return changes
}

// crowded says whether the pages would be too full after so many changes.
func (x *index) crowded(changes int) bool { return x.names+changes > mostNamesOfAPage*len(x.pages) }

// find returns the node of a name in wire form and lower case, nil when there is none.
func (x *index) find(name []byte) *node {
	hash := maphash.Bytes(x.seed, name)
	p := &x.pages[hash>>x.shift]
	if len(p.tags) == 0 {
		return nil
	}
	tag, mask := tagOf(hash), uint64(len(p.tags)-1)
	for at := hash & mask; p.tags[at] != 0; at = (at + 1) & mask {
		if p.tags[at] == tag {
			if s := &p.slots[at]; s.hash == hash && string(s.name) == string(name) {
				return s.node
			}
		}
	}
	return nil
}

// with returns the index after changes; those of one name may be many.
func (x *index) with(changes []change) *index {
	next := *x
	next.pages = slices.Clone(x.pages)
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.hash>>x.shift, b.hash>>x.shift) })
	for len(changes) > 0 {
		number := changes[0].hash >> x.shift
		n := 1
		for n < len(changes) && changes[n].hash>>x.shift == number {
			n++
		}
		before := x.pages[number]
		after := rebuild(before, changes[:n])
		next.pages[number] = after
		next.names += used(after.slots) - used(before.slots)
		changes = changes[n:]
	}
	return &next
}

func used(slots []slot) (n int) {
	for i := range slots {
		if slots[i].node != nil {
			n++
		}
	}
	return n
}

// rebuild makes a page of another after changes.
func rebuild(before page, changes []change) page {
	kept := make([]slot, 0, used(before.slots)+len(changes))
	for _, s := range before.slots {
		if s.node != nil {
			kept = append(kept, s)
		}
	}
	for _, c := range changes {
		if c.gone != nil {
			kept = remove(kept, c.gone)
		}
		if c.come != nil {
			kept = add(kept, slotOf(c.hash, c.come))
		}
	}
	if len(kept) == 0 {
		return page{}
	}
	// Where nodes share a name, the one that is to be found comes first in its probe sequence.
	slices.SortStableFunc(kept, func(a, b slot) int {
		if a.hash != b.hash {
			return cmp.Compare(a.hash, b.hash)
		}
		if e := cmp.Compare(min(len(b.node.sets), 1), min(len(a.node.sets), 1)); e != 0 {
			return e
		}
		return cmp.Compare(a.node.rank, b.node.rank)
	})
	size := 1 << bits.Len(uint(2*len(kept)-1))
	out := page{make([]uint8, size), make([]slot, size)}
	mask := uint64(size - 1)
	for _, s := range kept {
		at := s.hash & mask
		for out.tags[at] != 0 {
			at = (at + 1) & mask
		}
		out.tags[at], out.slots[at] = tagOf(s.hash), s
	}
	return out
}

func remove(kept []slot, n *node) []slot {
	for i, s := range kept {
		switch {
		case s.node == n:
			return slices.Delete(kept, i, i+1)
		case len(n.sets) == 0 && len(s.node.sets) == 0 && s.node.name == n.name:
			if s.node.refs == 1 {
				return slices.Delete(kept, i, i+1)
			}
			kept[i].node = &node{name: n.name, refs: s.node.refs - 1}
			return kept
		}
	}
	return kept
}

func add(kept []slot, one slot) []slot {
	if len(one.node.sets) > 0 {
		return append(kept, one)
	}
	for i, s := range kept {
		if len(s.node.sets) == 0 && s.node.name == one.node.name {
			kept[i].node = &node{name: s.node.name, refs: s.node.refs + 1}
			return kept
		}
	}
	return append(kept, slotOf(one.hash, &node{name: one.node.name, refs: 1}))
}
