package http1

import (
	"bytes"
	"testing"
)

func TestKnownNames(t *testing.T) {
	for n := Host; n < numNames; n++ {
		if n.String() == "" {
			t.Fatalf("name %d has no text", n)
		}
		text := []byte(n.String())
		for _, b := range [][]byte{text, bytes.ToUpper(text)} {
			if got := lookup(b); got != n {
				t.Errorf("lookup(%q) = %v, want %v", b, got, n)
			}
		}
		for i := range text {
			other := bytes.Clone(text)
			for _, c := range "!_~z0" {
				if other[i] = byte(c); !bytes.Equal(other, text) && lookup(other) != Other {
					t.Errorf("lookup(%q) = %v, want none", other, lookup(other))
				}
			}
		}
		for _, other := range [][]byte{append([]byte("x"), text...), append(bytes.Clone(text), 's'), text[1:]} {
			if lookup(other) != Other {
				t.Errorf("lookup(%q) = %v, want none", other, lookup(other))
			}
		}
	}
	if lookup(nil) != Other || Other.String() != "" || numNames > 64 {
		t.Error("no name is a name, or there are too many for a NameSet")
	}
}
