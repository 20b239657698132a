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
