package http2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// recorder writes down what a connection tells, content joined so that it does not matter how it was cut.
type recorder struct {
	conn    Conn
	lines   []string
	streams []*Stream
	keep    bool // content is not consumed
	release bool // streams are released when they are reset
	data    map[uint32]int
}

func (r *recorder) note(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *recorder) Headers(s *Stream, h *message.Head, end bool) {
	r.streams = append(r.streams, s)
	r.note("%d headers %v %s", s.ID(), end, render(h))
}

func (r *recorder) Data(s *Stream, p []byte, end bool) {
	last := fmt.Sprintf("%d data ", s.ID())
	if len(r.lines) == 0 || !strings.HasPrefix(r.lines[len(r.lines)-1], last) {
		r.note("%s", last)
	}
	r.lines[len(r.lines)-1] += string(p)
	if end {
		r.note("%d end", s.ID())
	}
	if r.data != nil {
		r.data[s.ID()] += len(p)
	}
	if !r.keep {
		r.conn.Consumed(s, len(p))
	}
}

func (r *recorder) Trailers(s *Stream, f *message.Fields) {
	r.note("%d trailers %s", s.ID(), render(f))
}

func (r *recorder) Reset(s *Stream, code ErrCode, remote bool) {
	r.note("%d reset %d %v", s.ID(), code, remote)
	if r.release {
		r.conn.Release(s)
	}
}
func (r *recorder) Writable(s *Stream) { r.note("%d writable", s.ID()) }
func (r *recorder) Event(e Event)      { r.note("event %d", e) }

// peer writes what a client sends.
type peer struct {
	*oracle.Framer
	out bytes.Buffer
	enc *hpack.Encoder
	buf bytes.Buffer
}

func newPeer() *peer {
	p := new(peer)
	p.Framer = oracle.NewFramer(&p.out, nil)
	p.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.buf)
	p.out.WriteString(prefaceText)
	_ = p.WriteSettings()
	return p
}

func (p *peer) block(fields ...string) []byte {
	p.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.buf.Bytes())
}

func (p *peer) headers(id uint32, end bool, fields ...string) {
	_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
}

func (p *peer) request(id uint32, end bool, more ...string) {
	p.headers(id, end, append([]string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a"}, more...)...)
}

// control lists the frames in b that end something.
func control(t testing.TB, b []byte) (lines []string) {
	fr := oracle.NewFramer(nil, bytes.NewReader(b))
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return lines
		}
		switch f := f.(type) {
		case *oracle.RSTStreamFrame:
			lines = append(lines, fmt.Sprintf("rst %d %d", f.StreamID, f.ErrCode))
		case *oracle.GoAwayFrame:
			lines = append(lines, fmt.Sprintf("goaway %d", f.ErrCode))
		}
	}
}

func serverOf(l Limits) *recorder {
	r := new(recorder)
	r.conn.InitServer(l, new(Arena))
	return r
}

// run feeds all of in, in pieces that end at the cuts, and tells what came of it.
func (r *recorder) run(t testing.TB, in []byte, cuts ...int) []string {
	have := 0
	for _, cut := range append(cuts, len(in)) {
		used, err := r.conn.Feed(in[have:max(cut, have)], r)
		have += used
		if err != nil {
			r.note("error %v", err)
			break
		}
	}
	return append(r.lines, control(t, r.conn.AppendControl(nil))...)
}

// Every kind of frame, cut at every place, means the same.
func TestEverySplitPointGivesTheSameActions(t *testing.T) {
	p := newPeer()
	_ = p.WriteSettings(oracle.Setting{ID: oracle.SettingInitialWindowSize, Val: 70000})
	p.request(1, false, "x-a", "b", "trailer", "x-t")
	_ = p.WriteData(1, false, []byte("hello "))
	_ = p.WriteDataPadded(1, false, []byte("world"), make([]byte, 7))
	p.request(3, true)
	_ = p.WritePing(false, [8]byte{1})
	block := p.block(":method", "GET", ":scheme", "https", ":path", "/x?y", ":authority", "a:1", "cookie", "c=d")
	_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 5, BlockFragment: block[:3], PadLength: 3, Priority: oracle.PriorityParam{StreamDep: 1, Weight: 3}})
	_ = p.WriteContinuation(5, false, block[3:5])
	_ = p.WriteContinuation(5, true, block[5:])
	_ = p.WriteWindowUpdate(5, 10)
	_ = p.WriteDataPadded(5, true, nil, make([]byte, 4))
	p.headers(1, true, "x-t", "1")
	_ = p.WriteRSTStream(3, oracle.ErrCodeCancel)
	_ = p.WriteRawFrame(77, 0, 0, []byte("unknown"))
	p.request(7, false, "content-length", "3")
	_ = p.WriteData(7, true, []byte("four"))
	_ = p.WriteGoAway(0, oracle.ErrCodeNo, []byte("bye"))
	p.request(6, true)
	in := p.out.Bytes()
	want := serverOf(Limits{}).run(t, in)
	if !slices.Contains(want, "goaway 1") || !slices.Contains(want, "1 data hello world") || !slices.Contains(want, "rst 7 1") || !slices.Contains(want, "5 end") {
		t.Fatalf("%q", want)
	}
	for cut := range in {
		if got := serverOf(Limits{}).run(t, in, cut); !slices.Equal(got, want) {
			t.Fatalf("cut at %d: got %q, want %q", cut, got, want)
		}
	}
	each := make([]int, len(in))
	for i := range each {
		each[i] = i
	}
	if got := serverOf(Limits{}).run(t, in, each...); !slices.Equal(got, want) {
		t.Fatalf("byte by byte: got %q, want %q", got, want)
	}
}

// RFC 9113 section 8: what is malformed resets its stream, and nobody sees it.
func TestMalformedMessagesAreReset(t *testing.T) {
	get := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	with := func(more ...string) []string { return append(slices.Clone(get), more...) }
	for _, c := range []struct {
		name   string
		fields []string
		ok     bool
	}{
		{"plain", get, true},
		{"te trailers", with("te", "trailers"), true},
		{"host repeats", with("host", "A"), true},
		{"host alone", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "a"}, true},
		{"asterisk", []string{":method", "OPTIONS", ":scheme", "http", ":path", "*", ":authority", "a"}, true},
		{"connect", []string{":method", "CONNECT", ":authority", "a:1"}, true},
		{"cookies", with("cookie", "a", "cookie", "b"), true},
		{"upper case", with("X-a", "b"), false},
		{"space in name", with("x a", "b"), false},
		{"empty name", with("", "b"), false},
		{"NUL", with("x-a", "a\x00b"), false},
		{"CRLF", with("x-a", "a\r\nb: c"), false},
		{"LF", with("x-a", "a\n"), false},
		{"leading space", with("x-a", " a"), false},
		{"trailing tab", with("x-a", "a\t"), false},
		{"connection", with("connection", "close"), false},
		{"upgrade", with("upgrade", "h2c"), false},
		{"keep-alive", with("keep-alive", "1"), false},
		{"proxy-connection", with("proxy-connection", "a"), false},
		{"chunked", with("transfer-encoding", "chunked"), false},
		{"te gzip", with("te", "gzip"), false},
		{"other host", with("host", "b"), false},
		{"two hosts", with("host", "a", "host", "a"), false},
		{"pseudo behind", with("x-a", "b", ":authority", "a"), false},
		{"pseudo twice", with(":path", "/"), false},
		{"pseudo unknown", with(":x", "y"), false},
		{"status", with(":status", "200"), false},
		{"protocol", with(":protocol", "websocket"), false},
		{"content-length with end", with("content-length", "1"), false},
		{"two lengths", with("content-length", "0", "content-length", "0"), false},
		{"signed length", with("content-length", "+0"), false},
		{"no method", get[2:], false},
		{"no authority", get[:6], false},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "a"}, false},
		{"no scheme", []string{":method", "GET", ":path", "/", ":authority", "a"}, false},
		{"other scheme", []string{":method", "GET", ":scheme", "javascript", ":path", "/", ":authority", "a"}, false},
		{"user information", []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "u@a"}, false},
		{"method", []string{":method", "GE T", ":scheme", "http", ":path", "/", ":authority", "a"}, false},
		{"connect with path", []string{":method", "CONNECT", ":authority", "a:1", ":path", "/", ":scheme", "http"}, false},
		{"connect without port", []string{":method", "CONNECT", ":authority", "a"}, false},
		{"asterisk of GET", []string{":method", "GET", ":scheme", "http", ":path", "*", ":authority", "a"}, false},
		{"fragment", []string{":method", "GET", ":scheme", "http", ":path", "/a#b", ":authority", "a"}, false},
		{"space in path", []string{":method", "GET", ":scheme", "http", ":path", "/a b", ":authority", "a"}, false},
	} {
		p := newPeer()
		p.headers(1, true, c.fields...)
		p.request(3, true) // the table is in step
		got := serverOf(Limits{}).run(t, p.out.Bytes())
		seen := slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "1 headers") })
		if seen != c.ok || slices.Contains(got, "rst 1 1") == c.ok || !slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "3 headers true POST") }) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}

// Ordinary use never ends in a flood: time, and streams that are finished, pay.
func TestBudgetsFillUp(t *testing.T) {
	r, p := serverOf(Limits{}), newPeer()
	for i := range 5000 {
		r.conn.Tick(uint32(i + 1))
		_ = p.WritePing(false, [8]byte{})
		p.request(uint32(2*i+1), false)
		_ = p.WriteRSTStream(uint32(2*i+1), oracle.ErrCodeCancel)
		if _, err := r.conn.Feed(p.out.Bytes(), r); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		p.out.Reset()
		r.conn.AppendControl(nil)
		for _, s := range r.streams {
			r.conn.Release(s)
		}
		r.streams = r.streams[:0]
	}
}

// A model of one stream as a server sees it (RFC 9113 section 5.1), against random frames.
func TestStreamStatesFollowTheModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for round := range 3000 {
		r, p := serverOf(Limits{}), newPeer()
		state, want := "idle", "" // want is how it ends
		var trace []string
		for range 8 {
			op, end := rnd.IntN(5), rnd.IntN(3) == 0
			trace = append(trace, fmt.Sprint(op, end))
			switch op {
			case 0:
				p.request(1, end)
			case 1:
				_ = p.WriteData(1, end, []byte("a"))
			case 2:
				p.headers(1, end, "x", "y")
			case 3:
				_ = p.WriteRSTStream(1, oracle.ErrCodeCancel)
			case 4:
				_ = p.WriteWindowUpdate(1, 1)
			}
			state, want = model(state, op, end)
			if want != "" {
				break
			}
		}
		got := r.run(t, p.out.Bytes())
		if want == "" && slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "goaway") || strings.HasPrefix(l, "rst") }) ||
			want != "" && !slices.Contains(got, want) {
			t.Fatalf("round %d %q: got %q, want %q", round, trace, got, want)
		}
	}
}

func model(state string, op int, end bool) (next, verdict string) {
	switch state {
	case "idle":
		switch {
		case op == 0 && end:
			return "half closed", ""
		case op == 0:
			return "open", ""
		case op == 2:
			return "reset", "rst 1 1"
		}
		return "", "goaway 1"
	case "open":
		switch {
		case op == 0 || op == 2 && !end:
			return "reset", "rst 1 1"
		case op == 3:
			return "closed by peer", ""
		case (op == 1 || op == 2) && end:
			return "half closed", ""
		}
		return "open", ""
	case "half closed":
		switch op {
		case 0, 1, 2:
			return "", "rst 1 5"
		case 3:
			return "closed by peer", ""
		}
		return state, ""
	}
	return state, "" // what comes behind a reset is ignored
}
