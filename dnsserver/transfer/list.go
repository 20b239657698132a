package transfer

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// chunkOwners is how many owners a chunk has at most.
const chunkOwners = 256

// list is the owners in the order of their keys, which is the canonical one of their names. It is immutable: a new one shares the
// chunks that do not change, none of which is empty.
type list struct{ chunks [][]*owner }

// edit sets what stands at a key; nil for nothing.
type edit struct {
	key   string
	owner *owner
}

func byKey(o *owner, key string) int { return strings.Compare(o.key, key) }

// chunk returns the number of the chunk that a key is in, or would be.
func (l list) chunk(key string) int {
	at, found := slices.BinarySearchFunc(l.chunks, key, func(c []*owner, key string) int { return strings.Compare(c[0].key, key) })
	if !found && at > 0 {
		at--
	}
	return at
}

// get returns the owner of a key, or nil.
func (l list) get(key string) *owner {
	if len(l.chunks) == 0 {
		return nil
	}
	c := l.chunks[l.chunk(key)]
	if at, found := slices.BinarySearchFunc(c, key, byKey); found {
		return c[at]
	}
	return nil
}

// before returns the last owner before a key, or the last of all.
func (l list) before(key string) *owner {
	number := l.chunk(key)
	if at, _ := slices.BinarySearchFunc(l.chunks[number], key, byKey); at > 0 {
		return l.chunks[number][at-1]
	}
	last := l.chunks[(number+len(l.chunks)-1)%len(l.chunks)]
	return last[len(last)-1]
}

// after returns the first owner after a key, or the first of all.
func (l list) after(key string) *owner {
	number := l.chunk(key)
	at, found := slices.BinarySearchFunc(l.chunks[number], key, byKey)
	if found {
		at++
	}
	if at < len(l.chunks[number]) {
		return l.chunks[number][at]
	}
	return l.chunks[(number+1)%len(l.chunks)][0]
}

func (l list) all() iter.Seq[*owner] {
	return func(yield func(*owner) bool) {
		for _, c := range l.chunks {
			for _, o := range c {
				if !yield(o) {
					return
				}
			}
		}
	}
}

// with returns the list after edits, one for each key, which it sorts.
func (l list) with(edits []edit) list {
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.key, b.key) })
	chunks := l.chunks
	if len(chunks) == 0 {
		chunks = [][]*owner{nil}
	}
	next := list{chunks: make([][]*owner, 0, len(chunks)+len(edits)/chunkOwners)}
	for i, c := range chunks {
		n := len(edits)
		if i+1 < len(chunks) {
			n, _ = slices.BinarySearchFunc(edits, chunks[i+1][0].key, func(e edit, key string) int { return strings.Compare(e.key, key) })
		}
		if n > 0 {
			c = merge(c, edits[:n])
			edits = edits[n:]
		}
		for parts := (len(c) + chunkOwners - 1) / chunkOwners; parts > 0; parts-- {
			size := len(c) / parts
			next.chunks = append(next.chunks, c[:size:size])
			c = c[size:]
		}
	}
	return next
}

func merge(c []*owner, edits []edit) []*owner {
	out := make([]*owner, 0, len(c)+len(edits))
	for _, e := range edits {
		at, found := slices.BinarySearchFunc(c, e.key, byKey)
		out = append(out, c[:at]...)
		if found {
			at++
		}
		c = c[at:]
		if e.owner != nil {
			out = append(out, e.owner)
		}
	}
	return append(out, c...)
}
