package http2

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// A path that does not start with a slash must not reach what decides by paths (CVE-2026-33186).
func TestCVEClass03_PathsStartWithASlash(t *testing.T) {
	for _, path := range []string{"a", "", "admin/x", "http://a/", "?q", "\\a", "*a"} {
		p := newPeer()
		p.headers(1, true, ":method", "GET", ":scheme", "http", ":path", path, ":authority", "a")
		if got := serverOf(Limits{}).run(t, p.out.Bytes()); !slices.Contains(got, "rst 1 1") {
			t.Errorf("%q: %q", path, got)
		}
	}
}

// Content that is not as long as was told would smuggle a request behind a proxy that speaks HTTP/1 upstream.
func TestCVEClass14_ContentLengthIsTheSumOfData(t *testing.T) {
	for _, c := range []struct {
		length string
		data   []string
		ok     bool
	}{
		{"4", []string{"ab", "cd"}, true}, {"0", []string{""}, true}, {"4", []string{"abc"}, false}, {"4", []string{"abcd", "e"}, false}, {"0", []string{"GET / HTTP/1.1"}, false},
	} {
		for _, trailers := range []bool{false, true} {
			p := newPeer()
			p.request(1, false, "content-length", c.length)
			for i, d := range c.data {
				_ = p.WriteData(1, !trailers && i == len(c.data)-1, []byte(d))
			}
			if trailers {
				p.headers(1, true, "x-t", "1")
			}
			got := serverOf(Limits{}).run(t, p.out.Bytes())
			ended := slices.ContainsFunc(got, func(l string) bool { return l == "1 end" || strings.HasPrefix(l, "1 trailers") })
			if ended != c.ok || slices.Contains(got, "rst 1 1") == c.ok {
				t.Errorf("%s %q: %q", c.length, c.data, got)
			}
		}
	}
}

// TestCVEClass15_LongSectionsCountByTheirLength: they had to be decoded, also those that are malformed at their begin.
func TestCVEClass15_LongSectionsCountByTheirLength(t *testing.T) {
	for _, c := range []struct {
		name  string
		begin []byte // static entries
	}{
		{"well-formed", []byte{0x82, 0x86, 0x84}},
		{"malformed", []byte{0x90, 0x82, 0x86, 0x84}}, // pseudo-fields behind a field
	} {
		t.Run(c.name, func(t *testing.T) {
			r, p := serverOf(Limits{}), newPeer()
			r.release = true
			taken, err := 0, error(nil)
			for ; err == nil && taken < 100; taken++ {
				block := append(bytes.Clone(c.begin), bytes.Repeat([]byte{0x90}, 12000)...)
				_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: uint32(2*taken + 1), BlockFragment: block, EndHeaders: true, EndStream: true})
				_, err = r.conn.Feed(p.out.Bytes(), r)
				p.out.Reset()
			}
			if want := 1 + 1000/(overNoise+12000/overBytes); err != EnhanceYourCalm || taken != want {
				t.Errorf("%v after %d sections, want an end of the connection by the %dth", err, taken, want)
			}
		})
	}
}

// Each flood ends the connection, in bounded memory (CVE-2023-39325, CVE-2023-45288, CVE-2019-9512 and their kin).
func TestCVEClass15_FloodsEndTheConnection(t *testing.T) {
	for _, c := range []struct {
		name  string
		kind  Counter // NumCounters: streams that are begun for nothing, of which an event tells
		write func(p *peer, i int)
	}{
		{"rapid reset", NumCounters, func(p *peer, i int) {
			p.request(uint32(2*i+1), true)
			_ = p.WriteRSTStream(uint32(2*i+1), oracle.ErrCodeCancel)
		}},
		{"resets that are provoked", NumCounters, func(p *peer, i int) { p.request(uint32(2*i+1), true); _ = p.WriteWindowUpdate(uint32(2*i+1), 0) }},
		{"malformed", NumCounters, func(p *peer, i int) { p.headers(uint32(2*i+1), true, "x", "y") }},
		{"too many streams", NumCounters, func(p *peer, i int) { p.request(uint32(2*i+1), false) }},
		{"continuation", HeaderOverflow, func(p *peer, i int) {
			if i == 0 {
				_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 1})
			}
			_ = p.WriteContinuation(1, false, []byte{0})
		}},
		{"settings", OutboundControlFlood, func(p *peer, _ int) { _ = p.WriteSettings() }},
		{"settings acks", InboundUselessFramesFlood, func(p *peer, _ int) { _ = p.WriteSettingsAck() }},
		{"ping", OutboundControlFlood, func(p *peer, _ int) { _ = p.WritePing(false, [8]byte{}) }},
		{"ping acks", InboundUselessFramesFlood, func(p *peer, _ int) { _ = p.WritePing(true, [8]byte{}) }},
		{"empty continuation", InboundEmptyFramesFlood, func(p *peer, i int) {
			if i == 0 {
				_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 1})
			}
			_ = p.WriteContinuation(1, false, nil)
		}},
		{"priority", InboundPriorityFramesFlood, func(p *peer, i int) { _ = p.WritePriority(uint32(2*i+1), oracle.PriorityParam{}) }},
		{"window updates", InboundWindowUpdateFlood, func(p *peer, _ int) { _ = p.WriteWindowUpdate(0, 1) }},
		{"unknown frames", InboundUselessFramesFlood, func(p *peer, _ int) { _ = p.WriteRawFrame(99, 0, 0, nil) }},
		{"empty data", InboundEmptyFramesFlood, func(p *peer, i int) {
			if i == 0 {
				p.request(1, false)
			}
			_ = p.WriteData(1, false, nil)
		}},
		{"data for a closed stream", InboundUselessFramesFlood, func(p *peer, i int) {
			if i == 0 {
				p.request(1, true)
				_ = p.WriteRSTStream(1, oracle.ErrCodeCancel)
			}
			_ = p.WriteData(1, false, []byte("a"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, p := serverOf(Limits{}), newPeer()
			r.release = true
			var counts Counts
			r.conn.Count(&counts)
			for i := range 3000 {
				c.write(p, i)
				_, err := r.conn.Feed(p.out.Bytes(), r)
				p.out.Reset()
				if i%10 == 0 && err == nil {
					r.conn.AppendControl(nil)
				}
				if err != nil {
					if err != EnhanceYourCalm {
						t.Errorf("after %d: %v", i, err)
					}
					for k, n := range counts[HeaderOverflow : OutboundControlFlood+1] {
						if n != 0 != (Counter(k) == c.kind) || n > 1 {
							t.Errorf("%s is %d, want one of %v alone", Counter(k), n, c.kind)
						}
					}
					if told := slices.Contains(r.lines, fmt.Sprint("event ", EventResets)); told != (c.kind == NumCounters) {
						t.Errorf("told of resets: %v in %q", told, r.lines[max(0, len(r.lines)-3):])
					}
					return
				}
			}
			t.Error("it was let through")
		})
	}
}

// Window updates and pings that follow from content are no noise, however long a stream lasts: gRPC has a ping under way whenever it
// gets content, to set its windows.
func TestEchoesOfContentAreNoNoise(t *testing.T) {
	r, p := serverOf(Limits{}), newPeer()
	p.request(1, true)
	r.run(t, p.out.Bytes())
	s, h := r.streams[0], new(message.Head)
	h.Reset()
	h.Status = 200
	r.conn.AppendHeaders(nil, s, h, nil, false)
	for i := range 5000 {
		if _, n := r.conn.DataHeader(s, 10, false); n != 10 {
			t.Fatalf("after %d: %d bytes may be sent", i, n)
		}
		p.out.Reset()
		_ = p.WritePing(false, [8]byte{byte(i)})
		_ = p.WriteWindowUpdate(0, 10)
		_ = p.WriteWindowUpdate(1, 10)
		if _, err := r.conn.Feed(p.out.Bytes(), r); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		r.conn.AppendControl(nil)
	}
}

// Clients that take back what has lasted for a while are no flood, even if there are many of them behind one proxy.
func TestLateResetsAreNoFlood(t *testing.T) {
	const many = 1500
	r, p := serverOf(Limits{Streams: many}), newPeer()
	r.release = true
	r.conn.Tick(10)
	for _, c := range []struct {
		at   uint32
		want error
	}{{12, nil}, {13, EnhanceYourCalm}} { // those of the second time are reset within a second
		for i := range uint32(many) {
			p.request(2*i+1+c.at*4000, true)
		}
		if c.want == nil {
			r.run(t, p.out.Bytes())
			p.out.Reset()
		}
		r.conn.Tick(c.at)
		for i := range uint32(many) {
			_ = p.WriteRSTStream(2*i+1+c.at*4000, oracle.ErrCodeCancel)
		}
		if _, err := r.conn.Feed(p.out.Bytes(), r); err != c.want && (err != nil || c.want != nil) {
			t.Errorf("at %d: %v, want %v", c.at, err, c.want)
		}
		p.out.Reset()
		r.conn.AppendControl(nil)
	}
}

// Control that nobody takes away does not pile up.
func TestCVEClass15_AnswersAreBounded(t *testing.T) {
	r, p := serverOf(Limits{Noise: 1 << 30}), newPeer()
	for range 5000 {
		_ = p.WritePing(false, [8]byte{})
	}
	if _, err := r.conn.Feed(p.out.Bytes(), r); err != EnhanceYourCalm || cap(r.conn.control) > 4*controlBytes {
		t.Errorf("%v, %d bytes wait", err, cap(r.conn.control))
	}
}

// A stream that was reset counts until its work is over.
func TestCVEClass15_ResetStreamsCountUntilReleased(t *testing.T) {
	r, p := serverOf(Limits{Streams: 2}), newPeer()
	for _, id := range []uint32{1, 3, 5} {
		p.request(id, true)
		_ = p.WriteRSTStream(id, oracle.ErrCodeCancel)
	}
	got := r.run(t, p.out.Bytes())
	if !slices.Contains(got, "rst 5 7") || r.conn.Active() != 2 {
		t.Errorf("%d active: %q", r.conn.Active(), got)
	}
	r.conn.Release(r.streams[0])
	p.out.Reset()
	p.request(7, true)
	if got := r.run(t, p.out.Bytes()); !strings.HasPrefix(got[len(got)-1], "7 headers") {
		t.Errorf("%q", got)
	}
}
