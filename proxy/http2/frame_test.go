package http2

import (
	"bytes"
	"io"
	"testing"

	oracle "golang.org/x/net/http2"
)

func TestFramesAreReadByTheOracle(t *testing.T) {
	var b []byte
	b = appendReset(b, 7, Cancel)
	b = appendGoAway(b, 5, EnhanceYourCalm)
	b = appendWindowUpdate(b, 3, 1000)
	fr := oracle.NewFramer(io.Discard, bytes.NewReader(b))
	f1, err1 := fr.ReadFrame()
	if r, ok := f1.(*oracle.RSTStreamFrame); err1 != nil || !ok || r.StreamID != 7 || r.ErrCode != oracle.ErrCodeCancel {
		t.Errorf("%v %v", f1, err1)
	}
	f2, err2 := fr.ReadFrame()
	if g, ok := f2.(*oracle.GoAwayFrame); err2 != nil || !ok || g.LastStreamID != 5 || g.ErrCode != oracle.ErrCodeEnhanceYourCalm {
		t.Errorf("%v %v", f2, err2)
	}
	f3, err3 := fr.ReadFrame()
	if w, ok := f3.(*oracle.WindowUpdateFrame); err3 != nil || !ok || w.StreamID != 3 || w.Increment != 1000 {
		t.Errorf("%v %v", f3, err3)
	}
}

// A section longer than a frame is split, whatever its length.
func TestSectionsAreSplit(t *testing.T) {
	const limit = 100
	for n := range 5*limit + 2 {
		section := make([]byte, n)
		for i := range section {
			section[i] = byte(i)
		}
		dst := append([]byte("before"), make([]byte, frameHeaderSize)...)
		dst = appendBlock(append(dst, section...), len(dst), 9, true, limit)
		var got []byte
		rest, frames := dst[len("before"):], 0
		for len(rest) > 0 {
			f := parseFrame(rest)
			last := len(rest) == frameHeaderSize+f.length
			if f.stream != 9 || f.length > limit || f.has(flagEndHeaders) != last || (f.kind == frameHeaders) != (frames == 0) || frames == 0 && !f.has(flagEndStream) {
				t.Fatalf("%d bytes: frame %d is %+v", n, frames, f)
			}
			got = append(got, rest[frameHeaderSize:frameHeaderSize+f.length]...)
			rest = rest[frameHeaderSize+f.length:]
			frames++
		}
		if !bytes.Equal(got, section) {
			t.Fatalf("%d bytes: the section is not whole", n)
		}
	}
}

func FuzzFrameHeader(f *testing.F) {
	f.Add([]byte{0, 0, 4, 3, 0, 0, 0, 0, 7, 0, 0, 0, 8})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < frameHeaderSize {
			return
		}
		got := parseFrame(in)
		want, err := oracle.ReadFrameHeader(bytes.NewReader(in))
		if err != nil || got != (frame{int(want.Length), frameType(want.Type), uint8(want.Flags), want.StreamID}) {
			t.Fatalf("%+v, the oracle has %v %v", got, want, err)
		}
		if b := got.bytes(); parseFrame(b[:]) != got {
			t.Fatal("a header is not read as it is written")
		}
	})
}
