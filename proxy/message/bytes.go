package message

var nameBytes = makeNameBytes()

func makeNameBytes() (t [NumNames][]byte) {
	for n := range t {
		t[n] = []byte(nameTexts[n])
	}
	return t
}

// Bytes is String without an allocation. It must not be changed.
func (n Name) Bytes() []byte { return nameBytes[n] }

// SetKnown makes what an edit sets of a known name.
func SetKnown(n Name, value []byte) Set { return Set{Known: n, Name: n.Bytes(), Value: value} }

// AddBytes appends a field of a known name with its text.
func (h *Head) AddBytes(n Name, value []byte) {
	start := uint32(len(h.Text))
	h.Text = append(append(h.Text, nameTexts[n]...), value...)
	mid := start + uint32(len(nameTexts[n]))
	h.Add(Field{Name: Span{start, mid}, Value: Span{mid, uint32(len(h.Text))}, Known: n})
}
