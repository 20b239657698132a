package http1

import (
	"errors"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// follow feeds in to b in pieces of the given sizes (the last one repeats), keeping what is not consumed, and returns the content
// and what is left over.
func follow(b *Body, trailers *message.Fields, in string, sizes ...int) (content, rest string, err error) {
	var pending []byte
	for at, i := 0, 0; at < len(in) || i == 0; i++ {
		size := sizes[min(i, len(sizes)-1)]
		end := min(at+max(size, 1), len(in))
		pending = append(pending, in[at:end]...)
		at = end
		for {
			n, keep, err := b.Next(pending, trailers)
			if err != nil {
				return content, string(pending) + in[at:], err
			}
			if n == 0 {
				break
			}
			if keep {
				content += string(pending[:n])
			}
			clear(pending[:n]) // nothing may depend on it
			pending = pending[n:]
		}
	}
	return content, string(pending), nil
}

func TestBodyFraming(t *testing.T) {
	tests := []struct {
		name          string
		f             Framing
		in            string
		content, rest string
		done          bool
		end           error
	}{
		{"none", Framing{}, "next", "", "next", true, nil},
		{"length", Framing{Length, 3}, "abcnext", "abc", "next", true, nil},
		{"length incomplete", Framing{Length, 3}, "ab", "ab", "", false, ErrTruncated},
		{"until close", Framing{Kind: UntilClose}, "abc", "abc", "", false, nil},
		{"chunked incomplete", Framing{Kind: Chunked}, "3\r\nabc\r\n", "abc", "", false, ErrTruncated},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := NewBody(tt.f)
			content, rest, err := follow(&b, nil, tt.in, len(tt.in))
			if err != nil || content != tt.content || rest != tt.rest || b.Done() != tt.done {
				t.Errorf("content %q, rest %q, done %v, %v", content, rest, b.Done(), err)
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
		name, in, content string
		err               error
	}{
		{"empty", "0\r\n\r\n", "", nil},
		{"one", "3\r\nabc\r\n0\r\n\r\n", "abc", nil},
		{"two", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc", nil},
		{"hex", "0A\r\n0123456789\r\n00\r\n\r\n", "0123456789", nil},
		{"data that looks like an end", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n", nil},
		{"extension is dropped", "3;a\r\nabc\r\n0;b=c;d\r\n\r\n", "abc", nil},
		{"quoted extension is dropped", quoted, "abc", nil},
		{"trailer", "0\r\nX-Sum: 1\r\n\r\n", "", nil},
		{"forbidden trailers are dropped", "0\r\nHost: a\r\nX-Sum: 1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\nContent-Type: b\r\n" +
			"X-Forwarded-For: c\r\nX_Request_Id: d\r\nSet-Cookie: e\r\nAuthorization: f\r\nConnection: g\r\n\r\n", "", nil},

		{"no size", "\r\n\r\n", "", ErrChunkSize},
		{"space before size", " 1\r\na\r\n", "", ErrChunkSize},
		{"space after size", "1 \r\na\r\n", "", ErrChunkSize},
		{"tab after size", "1\t\r\na\r\n", "", ErrChunkSize},
		{"plus", "+1\r\na\r\n", "", ErrChunkSize},
		{"minus", "-1\r\na\r\n", "", ErrChunkSize},
		{"0x", "0x1\r\na\r\n", "", ErrChunkSize},
		{"no hex digit", "g\r\n", "", ErrChunkSize},
		{"underscore", "1_0\r\n", "", ErrChunkSize},
		{"comma", "1,1\r\n", "", ErrChunkSize},
		{"NUL", "1\x00\r\n", "", ErrChunkSize},
		{"overflow", "8000000000000000\r\n", "", ErrChunkSize},
		{"overflow of 64 bits", "10000000000000003\r\nabc\r\n", "", ErrChunkSize},
		{"very many zeros", strings.Repeat("0", 17) + "\r\n\r\n", "", ErrChunkSize},
		{"size ends in LF", "1\na\r\n", "", ErrBareLF},
		{"size ends in CR", "1\ra\r\n", "", ErrBareCR},
		{"size ends in CR CR LF", "1\r\r\na\r\n", "", ErrBareCR},
		{"data too long", "1\r\nab\r\n", "a", ErrChunkEnd},
		{"data too short", "3\r\nab\r\n0\r\n\r\n", "ab\r", ErrChunkEnd},
		{"data ends in LF", "1\r\na\n0\r\n\r\n", "a", ErrChunkEnd},
		{"data ends in CR", "1\r\na\r0\r\n\r\n", "a", ErrChunkEnd},
		{"extension without name", "1;\r\na\r\n", "", ErrChunkExtension},
		{"extension with space", "1; a\r\n", "", ErrChunkExtension},
		{"extension after space", "1 ;a\r\n", "", ErrChunkSize},
		{"extension without value", "1;a=\r\n", "", ErrChunkExtension},
		{"extension with LF", "1;a\n", "", ErrBareLF},
		{"extension with CR", "1;a\rb\r\n", "", ErrBareCR},
		{"extension with LF in quotes", "1;a=\"\n\"\r\n", "", ErrBareLF},
		{"extension with CR in quotes", "1;a=\"\r\n\"\r\n", "", ErrChunkExtension},
		{"extension with NUL", "1;a\x00\r\n", "", ErrChunkExtension},
		{"extension with junk after quotes", "1;a=\"b\"c\r\n", "", ErrChunkExtension},
		{"extension too long", "1;" + strings.Repeat("a", 256) + "\r\na\r\n", "", ErrChunkExtension},
		{"very many extensions", strings.Repeat("1;"+strings.Repeat("a", 254)+"\r\na\r\n", 65), strings.Repeat("a", 64), ErrChunkExtension},
		{"end in LF", "0\r\n\n", "", ErrBareLF},
		{"end in CR", "0\r\n\r0", "", ErrBareCR},
		{"trailer ends in LF", "0\r\na: b\n\r\n", "", ErrBareLF},
		{"trailer with bare CR", "0\r\na: b\rc\r\n\r\n", "", ErrBareCR},
		{"trailer folded", "0\r\na: b\r\n c\r\n\r\n", "", ErrFolding},
		{"trailer without colon", "0\r\na\r\n\r\n", "", ErrFieldName},
		{"trailer with space before colon", "0\r\na : b\r\n\r\n", "", ErrFieldName},
		{"trailer with NUL", "0\r\na: \x00\r\n\r\n", "", ErrFieldValue},
		{"trailer too long", "0\r\na: " + strings.Repeat("b", 4<<10) + "\r\n\r\n", "", ErrTrailer},
		{"trailer too long and endless", "0\r\na: " + strings.Repeat("b", 5<<10), "", ErrTrailer},
		{"very many trailers", "0\r\n" + strings.Repeat("a: "+strings.Repeat("b", 1019)+"\r\n", 17) + "\r\n", "", ErrTrailer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{len(tt.in) + 4, 1, 2, 7} {
				in := tt.in
				if tt.err == nil {
					in += "next"
				}
				b := NewBody(Framing{Kind: Chunked})
				content, rest, err := follow(&b, nil, in, size)
				if content != tt.content || !errors.Is(err, tt.err) {
					t.Errorf("pieces of %d: content %.60q, %v; want %.60q, %v", size, content, err, tt.content, tt.err)
				}
				if err == nil && (rest != "next" || !b.Done()) {
					t.Errorf("pieces of %d: rest %q, done %v", size, rest, b.Done())
				}
			}
		})
	}
}

func TestTrailers(t *testing.T) {
	const end = "\r\n\r\n"
	var many []string
	for range maxTrailers {
		many = append(many, "a: b")
	}
	tests := []struct {
		name, in, want string
		err            error
	}{
		{"none", "0" + end, "0" + end, nil},
		{"one", "0\r\nX-Sum: 1" + end, "0\r\nX-Sum: 1" + end, nil},
		{"of gRPC", "0\r\ngrpc-status:\t0 \r\nGrpc-Message:" + end, "0\r\ngrpc-status: 0\r\nGrpc-Message: " + end, nil},
		{"etag", "0\r\nETag: a\r\nDigest: b\r\nserver-timing: c" + end, "0\r\nETag: a\r\nDigest: b\r\nserver-timing: c" + end, nil},
		{
			"forbidden ones are dropped",
			"0\r\nHost: a\r\nX-Sum: 1\r\nContent-Length: 3\r\ntransfer-encoding: chunked\r\nContent-Type: b\r\nX-Forwarded-For: c\r\nX_Request_Id: d\r\n" +
				"Set-Cookie: e\r\nAuthorization: f\r\nConnection: g\r\nTE: h\r\nTrailer: i\r\nUpgrade: j\r\nExpect: k\r\nUser-Agent: l\r\nCookie: m\r\n" +
				"Server: n\r\nDate: o\r\nVia: p\r\nForwarded: q\r\nX-Real-IP: r\r\nX-Envoy-Attempt-Count: s\r\nKeep-Alive: t\r\nProxy-Authenticate: u\r\n" +
				"If-Match: v\r\nSec-WebSocket-Accept: w\r\nCache-Control: x\r\nWWW-Authenticate: y\r\nTraceparent: z\r\nLocation: a\r\nX-Last: 2\r\n" +
				"Access-Control-Allow-Origin: b\r\nRange: c\r\nVary: d\r\nAge: e\r\nHTTP2-Settings: f" + end,
			"0\r\nX-Sum: 1\r\nX-Last: 2" + end, nil,
		},
		{"as many as allowed", "0\r\n" + strings.Join(many, "\r\n") + end, "0\r\n" + strings.Join(many, "\r\n") + end, nil},
		{"too many", "0\r\n" + strings.Join(many, "\r\n") + "\r\nc: d" + end, "", ErrTrailer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{len(tt.in), 1, 3} {
				b, trailers := NewBody(Framing{Kind: Chunked}), new(message.Fields)
				trailers.Reset()
				if _, _, err := follow(&b, trailers, tt.in, size); !errors.Is(err, tt.err) {
					t.Fatalf("pieces of %d: %v, want %v", size, err, tt.err)
				}
				if tt.err != nil {
					continue
				}
				if got := string(AppendLastChunk(nil, trailers)); got != tt.want {
					t.Errorf("pieces of %d: %q, want %q", size, got, tt.want)
				}
			}
		})
	}
	if got := string(AppendLastChunk(nil, nil)); got != "0"+end {
		t.Errorf("without trailers: %q", got)
	}
}

// Fields that a sender of another version of HTTP put behind a body are judged as those of a chunked body are.
func TestCVEClass13_TrailersOfAnyVersionAreJudged(t *testing.T) {
	f := new(message.Fields)
	f.Reset()
	for _, name := range []string{"x-sum", "x-forwarded-for", "authorization", "content-length", "transfer-encoding", "host", "grpc-status"} {
		f.AddField(name, "1")
	}
	if got, want := string(AppendLastChunk(nil, f)), "0\r\nx-sum: 1\r\ngrpc-status: 1\r\n\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWrapChunk(t *testing.T) {
	for _, n := range []int{1, 15, 16, 4095, 65536} {
		buf := make([]byte, 18+n+2)
		for i := range n {
			buf[18+i] = 'a' + byte(i%26)
		}
		content := string(buf[18 : 18+n])
		from, to := WrapChunk(buf, 18, 18+n)
		b := NewBody(Framing{Kind: Chunked})
		got, rest, err := follow(&b, nil, string(buf[from:to])+"0\r\n\r\n", 1<<20)
		if got != content || rest != "" || err != nil || !b.Done() {
			t.Errorf("%d bytes: %.40q, rest %q, %v", n, got, rest, err)
		}
	}
}
