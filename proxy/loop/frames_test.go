package loop

import (
	"math/rand/v2"
	"testing"
)

// TestFrames: however a stream of records is cut, each is counted once, in the piece that has its last byte.
func TestFrames(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var in []byte
		var ends []int
		longest := 0
		for range 1 + r.IntN(10) {
			n := r.IntN(1 << r.IntN(15))
			in = append(in, byte(r.Uint32()), 3, 3, byte(n>>8), byte(n))
			for range n {
				in = append(in, byte(r.Uint32()))
			}
			ends = append(ends, len(in))
			longest = max(longest, n)
		}
		var f frames
		for at := 0; at < len(in); {
			n := min(r.IntN(1<<r.IntN(15)), len(in)-at)
			f.given(in[at : at+n])
			want := 0
			for _, end := range ends {
				if at < end && end <= at+n {
					want++
				}
			}
			if at += n; f.whole != want {
				t.Fatalf("%d records end in bytes %d to %d, want %d", f.whole, at-n, at, want)
			}
		}
		if f.longest != longest || f.at != 0 || f.left != 0 {
			t.Fatalf("%+v after all records, the longest of which has %d bytes", f, longest)
		}
	}
}
