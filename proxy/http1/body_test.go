package http1

import (
	"errors"
	"strings"
	"testing"
)

// follow feeds in to b in pieces of the given sizes (the last one repeats), keeping what is not consumed, and returns what is
// passed on and what is left over.
func follow(b *Body, in string, sizes ...int) (kept, rest string, err error) {
	var pending []byte
	for at, i := 0, 0; at < len(in) || i == 0; i++ {
		size := sizes[min(i, len(sizes)-1)]
		end := min(at+max(size, 1), len(in))
		pending = append(pending, in[at:end]...)
		at = end
		for {
			n, keep, err := b.Next(pending)
			if err != nil {
				return kept, string(pending) + in[at:], err
			}
			if n == 0 {
				break
			}
			if keep {
				kept += string(pending[:n])
			}
			pending = pending[n:]
		}
	}
	return kept, string(pending), nil
}

func TestBodyFraming(t *testing.T) {
	tests := []struct {
		name       string
		f          Framing
		in         string
		kept, rest string
		done       bool
		end        error
	}{
		{"none", Framing{}, "next", "", "next", true, nil},
		{"length", Framing{Length, 3}, "abcnext", "abc", "next", true, nil},
		{"length incomplete", Framing{Length, 3}, "ab", "ab", "", false, ErrTruncated},
		{"until close", Framing{Kind: UntilClose}, "abc", "abc", "", false, nil},
		{"chunked incomplete", Framing{Kind: Chunked}, "3\r\nabc\r\n", "3\r\nabc\r\n", "", false, ErrTruncated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBody(tt.f, false)
			kept, rest, err := follow(&b, tt.in, len(tt.in))
			if err != nil || kept != tt.kept || rest != tt.rest || b.Done() != tt.done {
				t.Errorf("kept %q, rest %q, done %v, %v", kept, rest, b.Done(), err)
			}
			if err := b.End(); !errors.Is(err, tt.end) {
				t.Errorf("End() = %v, want %v", err, tt.end)
			}
		})
	}
}

func TestChunked(t *testing.T) {
	const quoted = `3;a="b\"c;\\"` + "\r\nabc\r\n0\r\n\r\n"
	tests := []struct {
		name, in   string
		kept, data string
		err        error
	}{
		{"empty", "0\r\n\r\n", "0\r\n\r\n", "", nil},
		{"one", "3\r\nabc\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "abc", nil},
		{"two", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc", nil},
		{"hex", "0A\r\n0123456789\r\n00\r\n\r\n", "0A\r\n0123456789\r\n00\r\n\r\n", "0123456789", nil},
		{"data that looks like an end", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n", nil},
		{"extension is dropped", "3;a\r\nabc\r\n0;b=c;d\r\n\r\n", "3\r\nabc\r\n0\r\n\r\n", "abc", nil},
		{"quoted extension is dropped", quoted, "3\r\nabc\r\n0\r\n\r\n", "abc", nil},
		{"trailer", "0\r\nX-Sum: 1\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n", "", nil},
		{"forbidden trailers are dropped", "0\r\nHost: a\r\nX-Sum: 1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\nContent-Type: b\r\n" +
			"X-Forwarded-For: c\r\nX_Request_Id: d\r\nSet-Cookie: e\r\nAuthorization: f\r\nConnection: g\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n", "", nil},

		{"no size", "\r\n\r\n", "", "", ErrChunkSize},
		{"space before size", " 1\r\na\r\n", "", "", ErrChunkSize},
		{"space after size", "1 \r\na\r\n", "1", "", ErrChunkSize},
		{"tab after size", "1\t\r\na\r\n", "1", "", ErrChunkSize},
		{"plus", "+1\r\na\r\n", "", "", ErrChunkSize},
		{"minus", "-1\r\na\r\n", "", "", ErrChunkSize},
		{"0x", "0x1\r\na\r\n", "0", "", ErrChunkSize},
		{"no hex digit", "g\r\n", "", "", ErrChunkSize},
		{"underscore", "1_0\r\n", "1", "", ErrChunkSize},
		{"comma", "1,1\r\n", "1", "", ErrChunkSize},
		{"NUL", "1\x00\r\n", "1", "", ErrChunkSize},
		{"overflow", "8000000000000000\r\n", "800000000000000", "", ErrChunkSize},
		{"overflow of 64 bits", "10000000000000003\r\nabc\r\n", "1000000000000000", "", ErrChunkSize},
		{"very many zeros", strings.Repeat("0", 17) + "\r\n\r\n", strings.Repeat("0", 16), "", ErrChunkSize},
		{"size ends in LF", "1\na\r\n", "1", "", ErrBareLF},
		{"size ends in CR", "1\ra\r\n", "1\r", "", ErrBareCR},
		{"size ends in CR CR LF", "1\r\r\na\r\n", "1\r", "", ErrBareCR},
		{"data too long", "1\r\nab\r\n", "1\r\na", "a", ErrChunkEnd},
		{"data too short", "3\r\nab\r\n0\r\n\r\n", "3\r\nab\r", "ab\r", ErrChunkEnd},
		{"data ends in LF", "1\r\na\n0\r\n\r\n", "1\r\na", "a", ErrChunkEnd},
		{"data ends in CR", "1\r\na\r0\r\n\r\n", "1\r\na\r", "a", ErrChunkEnd},
		{"extension without name", "1;\r\na\r\n", "1", "", ErrChunkExtension},
		{"extension with space", "1; a\r\n", "1", "", ErrChunkExtension},
		{"extension after space", "1 ;a\r\n", "1", "", ErrChunkSize},
		{"extension without value", "1;a=\r\n", "1", "", ErrChunkExtension},
		{"extension with LF", "1;a\n", "1", "", ErrBareLF},
		{"extension with CR", "1;a\rb\r\n", "1\r", "", ErrBareCR},
		{"extension with LF in quotes", "1;a=\"\n\"\r\n", "1", "", ErrBareLF},
		{"extension with CR in quotes", "1;a=\"\r\n\"\r\n", "1", "", ErrChunkExtension},
		{"extension with NUL", "1;a\x00\r\n", "1", "", ErrChunkExtension},
		{"extension with junk after quotes", "1;a=\"b\"c\r\n", "1", "", ErrChunkExtension},
		{"extension too long", "1;" + strings.Repeat("a", 256) + "\r\na\r\n", "1", "", ErrChunkExtension},
		{
			"very many extensions", strings.Repeat("1;"+strings.Repeat("a", 254)+"\r\na\r\n", 65), strings.Repeat("1\r\na\r\n", 64) + "1",
			strings.Repeat("a", 64), ErrChunkExtension,
		},
		{"end in LF", "0\r\n\n", "0\r\n", "", ErrBareLF},
		{"end in CR", "0\r\n\r0", "0\r\n", "", ErrBareCR},
		{"trailer ends in LF", "0\r\na: b\n\r\n", "0\r\n", "", ErrBareLF},
		{"trailer with bare CR", "0\r\na: b\rc\r\n\r\n", "0\r\n", "", ErrBareCR},
		{"trailer folded", "0\r\na: b\r\n c\r\n\r\n", "0\r\na: b\r\n", "", ErrFolding},
		{"trailer without colon", "0\r\na\r\n\r\n", "0\r\n", "", ErrFieldName},
		{"trailer with space before colon", "0\r\na : b\r\n\r\n", "0\r\n", "", ErrFieldName},
		{"trailer with NUL", "0\r\na: \x00\r\n\r\n", "0\r\n", "", ErrFieldValue},
		{"trailer too long", "0\r\na: " + strings.Repeat("b", 4<<10) + "\r\n\r\n", "0\r\n", "", ErrTrailer},
		{"trailer too long and endless", "0\r\na: " + strings.Repeat("b", 5<<10), "0\r\n", "", ErrTrailer},
		{
			"very many trailers", "0\r\n" + strings.Repeat("a: "+strings.Repeat("b", 1019)+"\r\n", 17) + "\r\n",
			"0\r\n" + strings.Repeat("a: "+strings.Repeat("b", 1019)+"\r\n", 16), "", ErrTrailer,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{len(tt.in) + 4, 1, 2, 7} {
				in := tt.in
				if tt.err == nil {
					in += "next"
				}
				raw, data := NewBody(Framing{Kind: Chunked}, false), NewBody(Framing{Kind: Chunked}, true)
				kept, rest, err := follow(&raw, in, size)
				if kept != tt.kept || !errors.Is(err, tt.err) {
					t.Errorf("pieces of %d: kept %.60q, %v; want %.60q, %v", size, kept, err, tt.kept, tt.err)
				}
				if err == nil && (rest != "next" || !raw.Done()) {
					t.Errorf("pieces of %d: rest %q, done %v", size, rest, raw.Done())
				}
				if kept, _, err := follow(&data, in, size); kept != tt.data || !errors.Is(err, tt.err) {
					t.Errorf("pieces of %d: data %.60q, %v; want %.60q, %v", size, kept, err, tt.data, tt.err)
				}
			}
		})
	}
}

func TestChunkedIsOneSpan(t *testing.T) {
	in := []byte("3\r\nabc\r\n5\r\ndefgh\r\n0\r\nX-Sum: 1\r\n\r\n")
	b := NewBody(Framing{Kind: Chunked}, false)
	if n, keep, err := b.Next(in); n != len(in) || !keep || err != nil || !b.Done() {
		t.Errorf("Next = %d, %v, %v; want %d bytes at once", n, keep, err, len(in))
	}
}
