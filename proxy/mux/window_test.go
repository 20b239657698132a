package mux_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// inBothRoles runs f with an end that has the streams 1, 3 and 5 open, as a server, which has sent the heads of its responses, and as a
// client, which has sent those of its requests.
func inBothRoles(t *testing.T, f func(t *testing.T, open func(limits http2.Limits, settings ...oracle.Setting) *peer)) {
	t.Helper()
	l := run(t)
	t.Run(server, func(t *testing.T) {
		f(t, func(limits http2.Limits, settings ...oracle.Setting) *peer {
			return answering(serve(t, l, limits, settings...))
		})
	})
	t.Run(client, func(t *testing.T) {
		f(t, func(limits http2.Limits, settings ...oracle.Setting) *peer { return dial(t, l, limits, settings...) })
	})
}

// answering has the streams of a server begin.
func answering(p *peer) *peer {
	p.t.Helper()
	for _, id := range []uint32{1, 3, 5} {
		p.message(id, false)
	}
	p.fence()
	for _, id := range []uint32{1, 3, 5} {
		p.e.on(id, func(x *exchange) { x.SendHead(response(200), nil, false) })
	}
	if got := p.fence(); !slices.Equal(got, []string{"1 200", "3 200", "5 200"}) {
		p.t.Fatalf("%q", got)
	}
	p.e.told()
	return p
}

// content has the end under test send on a stream.
func (p *peer) content(id uint32, text string, last bool) {
	p.t.Helper()
	p.e.on(id, func(x *exchange) { x.Send([]byte(text), last) })
}

// expect sends what was written and compares what comes.
func (p *peer) expect(what string, want ...string) {
	p.t.Helper()
	if got := p.fence(); !slices.Equal(got, want) {
		p.t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func window(n uint32) oracle.Setting {
	return oracle.Setting{ID: oracle.SettingInitialWindowSize, Val: n}
}

// TestContentWaitsForThePeersWindows (RFC 9113 sections 5.2 and 6.9): what they do not allow is kept, in order and nobody else held
// up, and its sender told when it is gone.
func TestContentWaitsForThePeersWindows(t *testing.T) {
	inBothRoles(t, func(t *testing.T, open func(http2.Limits, ...oracle.Setting) *peer) {
		t.Run("a window of nothing", func(t *testing.T) {
			p := open(http2.Limits{}, window(0))
			p.content(1, "abcde", true)
			p.content(3, "", true)
			p.expect("an empty end needs no window", `3 "" end`)
			p.e.on(1, func(x *exchange) {
				if !x.Congested() || !x.Pending() || x.Held() == 0 {
					t.Errorf("congested %v, pending %v, %d bytes held, want that it waits", x.Congested(), x.Pending(), x.Held())
				}
			})
			_ = p.WriteWindowUpdate(1, 2)
			p.expect("a part", `1 "ab"`)
			_ = p.WriteWindowUpdate(1, 3)
			p.expect("the rest", `1 "cde" end`)
			p.e.on(1, func(x *exchange) {
				if x.writable != 1 || x.Pending() || x.Held() != 0 {
					t.Errorf("told %d times, pending %v, %d bytes held", x.writable, x.Pending(), x.Held())
				}
			})
		})
		t.Run("a stream that waits holds no other up", func(t *testing.T) {
			p := open(http2.Limits{}, window(0))
			p.content(1, "abc", true)
			p.content(3, "def", true)
			_ = p.WriteWindowUpdate(3, 3)
			_ = p.WriteWindowUpdate(0, 1)
			p.expect("the second", `3 "def" end`)
			_ = p.WriteSettings(window(3))
			p.expect("a window for all", `1 "abc" end`)
		})
		t.Run("the connection's window", func(t *testing.T) {
			p := open(http2.Limits{}, window(1<<20))
			p.content(1, strings.Repeat("a", 65535), false)
			p.content(3, "abc", true)
			p.content(5, "def", true)
			p.content(1, "ghi", true)
			if got := p.fence(); len(got) != 4 {
				t.Errorf("got %q, want all that the window allows", got)
			}
			_ = p.WriteWindowUpdate(0, 4)
			p.expect("who waits longest is first", `3 "abc" end`, `5 "d"`)
			_ = p.WriteWindowUpdate(0, 100)
			p.expect("the rest", `1 "ghi" end`, `5 "ef" end`)
		})
		t.Run("a window below zero", func(t *testing.T) {
			p := open(http2.Limits{})
			p.content(1, "0123456789", false)
			_ = p.WriteSettings(window(5))
			p.expect("what was allowed", `1 "0123456789"`)
			p.content(1, "abcdef", true)
			_ = p.WriteWindowUpdate(1, 5)
			p.expect("up to zero")
			_ = p.WriteWindowUpdate(1, 1)
			p.expect("a byte", `1 "a"`)
			p.wide = true
			_ = p.WriteSettings(window(10))
			p.expect("by a setting, which is acknowledged first", "settings acknowledged", `1 "bcdef" end`)
		})
		t.Run("trailers wait behind content", func(t *testing.T) {
			p := open(http2.Limits{}, window(2))
			p.content(1, "abc", false)
			p.e.on(1, func(x *exchange) {
				tail := new(message.Fields)
				tail.Reset()
				tail.AddField("x-t", "1")
				x.SendTrailers(tail, nil)
				tail.Reset() // they were copied
			})
			p.expect("a part", `1 "ab"`)
			_ = p.WriteWindowUpdate(1, 1)
			p.expect("the rest", `1 "c"`, "1 x-t=1 end")
		})
		t.Run("who waits is cut off", func(t *testing.T) {
			p := open(http2.Limits{}, window(0))
			for _, id := range []uint32{1, 3, 5} {
				p.content(id, "abc", true)
			}
			_ = p.WriteRSTStream(1, oracle.ErrCodeCancel)
			p.expect("by the peer")
			p.e.on(3, func(x *exchange) { x.close() })
			p.expect("by us", "3 reset CANCEL")
			_ = p.WriteWindowUpdate(1, 3)
			_ = p.WriteWindowUpdate(3, 3)
			_ = p.WriteSettings(window(3))
			p.expect("only who is left", `5 "abc" end`)
			if told := p.e.told(); !slices.Equal(told, []string{"1 cut off by peer: CANCEL"}) {
				t.Errorf("told %q", told)
			}
		})
		t.Run("frames as large as the peer takes, or we like", func(t *testing.T) {
			for size, want := range map[uint32]int{1 << 14: 1 << 14, 1<<24 - 1: 1 << 15} {
				p := open(http2.Limits{}, window(1<<20), oracle.Setting{ID: oracle.SettingMaxFrameSize, Val: size})
				p.content(1, strings.Repeat("a", want+1), true)
				p.expect(fmt.Sprint("of ", size), fmt.Sprintf(`1 "%d bytes"`, want), `1 "a" end`)
			}
		})
	})
}

// TestWindowsAreOpenedForWhatIsTaken (RFC 9113 sections 6.9 and 6.9.1): for all of a frame, padding too, and as long as nobody takes
// it not; who sends more is cut off.
func TestWindowsAreOpenedForWhatIsTaken(t *testing.T) {
	inBothRoles(t, func(t *testing.T, open func(http2.Limits, ...oracle.Setting) *peer) {
		begun := func(limits http2.Limits, held bool) *peer {
			p := open(limits)
			if !p.server {
				for _, id := range []uint32{1, 3, 5} {
					p.message(id, false)
				}
			}
			p.fence()
			p.wide = true
			p.e.do(func() { p.e.full = held })
			return p
		}
		data := func(p *peer, id uint32, n, pad int) {
			if pad == 0 {
				_ = p.WriteData(id, false, make([]byte, n))
			} else {
				_ = p.WriteDataPadded(id, false, make([]byte, n), make([]byte, pad))
			}
		}
		thousand := http2.Limits{Window: 1000}
		t.Run("taken at once", func(t *testing.T) {
			p := begun(thousand, false)
			data(p, 1, 499, 0)
			p.expect("less than half")
			data(p, 1, 1, 0)
			p.expect("half", "1 window +500")
		})
		t.Run("taken later", func(t *testing.T) {
			p := begun(thousand, true)
			data(p, 1, 1000, 0)
			p.expect("all, which nobody takes")
			p.e.on(1, func(x *exchange) { x.Pull() })
			p.expect("somebody does", "1 window +1000")
			data(p, 1, 1000, 0)
			data(p, 1, 1, 0)
			p.expect("a byte too many", "1 reset FLOW_CONTROL_ERROR")
		})
		t.Run("padding", func(t *testing.T) {
			p := begun(thousand, true)
			data(p, 1, 100, 255)
			data(p, 1, 100, 255)
			p.expect("it waits for nobody", "1 window +512")
			data(p, 1, 544, 255)
			p.expect("up to the last byte")
			data(p, 1, 0, 1)
			p.expect("it counts, and nothing else is there", "1 reset FLOW_CONTROL_ERROR")
		})
		t.Run("the connection's, whoever takes it", func(t *testing.T) {
			p := begun(http2.Limits{Window: 32767, ConnWindow: 65535}, true)
			left := 65535
			send := func(id uint32, n int) {
				t.Helper()
				if left -= n; left < 0 {
					t.Fatalf("the connection has no window left for stream %d, as others are stalled", id)
				}
				data(p, id, n, 0)
				for _, line := range p.fence() {
					n := 0
					if _, err := fmt.Sscanf(line, "0 window +%d", &n); err != nil {
						t.Errorf("stream %d: %s", id, line)
					}
					left += n
				}
			}
			for _, id := range []uint32{1, 3, 5} {
				send(id, 16384)
				send(id, 16383)
			}
			p.e.on(1, func(x *exchange) { x.Pull() })
			p.expect("a stream's, once", "1 window +32767")
			p.e.on(3, func(x *exchange) { x.close() })
			p.expect("what a stream held that is cut off is not given back twice", "3 reset CANCEL")
			data(p, 5, 1, 0)
			p.expect("a byte too many", "5 reset FLOW_CONTROL_ERROR")
		})
		t.Run("what comes behind our reset", func(t *testing.T) {
			const limit = 65535
			p := begun(http2.Limits{Window: 20000, ConnWindow: limit}, true)
			data(p, 1, 10000, 0)
			p.fence()
			p.e.on(1, func(x *exchange) { x.close() })
			p.expect("what was held is given back", "1 reset CANCEL")
			p.e.told()
			data(p, 1, 16000, 200)
			data(p, 1, 16000, 200) // the peer may not know yet
			p.headers(1, true, "x-late", "1")
			back := 0
			for _, line := range p.fence() {
				n := 0
				if _, err := fmt.Sscanf(line, "0 window +%d", &n); err != nil {
					t.Error(line)
				}
				back += n
			}
			if most := 10000 + 2*16201; back < limit/2 || back > most {
				t.Errorf("%d bytes are given back, want half of %d at least and %d at most", back, limit, most)
			}
			if told := p.e.told(); len(told) > 0 {
				t.Errorf("told %q of a stream that was given back", told)
			}
		})
	})
}

// TestWindowsAreWholeInTheEnd: whatever is sent, padded, held and cut off, all of it is given back.
func TestWindowsAreWholeInTheEnd(t *testing.T) {
	inBothRoles(t, func(t *testing.T, open func(http2.Limits, ...oracle.Setting) *peer) {
		rnd := rand.New(rand.NewPCG(7, 8))
		const limit = 65535
		for range 20 {
			p := open(http2.Limits{Window: 20000, ConnWindow: limit, Noise: 1 << 20})
			p.fence()
			p.wide = true
			left := map[uint32]int{0: limit, 1: 20000, 3: 20000, 5: 20000}
			if !p.server {
				for _, id := range []uint32{1, 3, 5} {
					p.message(id, false)
				}
			}
			note := func() {
				for _, line := range p.fence() {
					var id uint32
					var n int
					if _, err := fmt.Sscanf(line, "%d window +%d", &id, &n); err == nil {
						left[id] += n
					} else if !strings.HasSuffix(line, " reset CANCEL") {
						t.Fatal(line)
					}
				}
			}
			gone := map[uint32]bool{}
			for range 60 {
				id := []uint32{1, 3, 5}[rnd.IntN(3)]
				n, pad := rnd.IntN(3000), rnd.IntN(256)
				if all := n + pad + 1; all <= left[0] && all <= left[id] {
					_ = p.WriteDataPadded(id, false, make([]byte, n), make([]byte, pad))
					left[0], left[id] = left[0]-all, left[id]-all
				}
				note()
				p.e.do(func() { p.e.full = rnd.IntN(2) == 0 })
				if x := p.e.streams[id]; !gone[id] {
					switch rnd.IntN(8) {
					case 0:
						gone[id] = true
						p.e.on(id, func(*exchange) { x.close() })
					case 1, 2, 3:
						p.e.on(id, func(*exchange) { x.Pull() })
					}
				}
			}
			for _, x := range p.e.streams {
				p.e.do(x.close)
			}
			note()
			if left[0] <= limit/2 || left[0] > limit {
				t.Errorf("the connection's window is %d in the end, want more than half of %d", left[0], limit)
			}
		}
	})
}

// TestKernelsThatTakeNoMore: what the peer's windows allow and its kernel does not take waits here, bounded; a server's peer that
// asks on and reads nothing is not heard until it reads, and then all comes.
func TestKernelsThatTakeNoMore(t *testing.T) {
	l := run(t)
	p := begin(t, l, http2.Limits{}, true, 4<<10, []oracle.Setting{window(widest)})
	_ = p.WriteWindowUpdate(0, 1<<30)
	answering(p)
	const size = 1200 << 10 // more than waits for a peer before it is not heard any more
	body := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	p.e.on(1, func(x *exchange) {
		for part := range slices.Chunk(body, 32<<10) {
			x.Send(part, false)
		}
		if !x.Congested() || x.Pending() || !x.e.conn.Clogged() {
			t.Errorf("congested %v, kept by the stream %v, clogged %v", x.Congested(), x.Pending(), x.e.conn.Clogged())
		}
	})
	for _, id := range []uint32{3, 5} {
		p.e.on(id, func(x *exchange) {
			if !x.Congested() || x.Pending() {
				t.Errorf("stream %d: congested %v, kept by the stream %v", id, x.Congested(), x.Pending())
			}
		})
	}
	p.e.on(3, func(x *exchange) { x.close() }) // and is told no more
	p.message(7, true)
	p.send()
	for range 3 {
		p.e.do(func() {})
	}
	if told := p.e.told(); len(told) > 0 {
		t.Errorf("told %q by a peer that does not read", told)
	}
	p.content(1, "", true)
	got := 0
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := f.(*oracle.DataFrame); ok {
			if !bytes.Equal(d.Data(), body[got:got+len(d.Data())]) {
				t.Fatalf("other bytes after %d", got)
			}
			if got += len(d.Data()); d.StreamEnded() {
				break
			}
		}
	}
	p.fence()
	if told := p.e.told(); got != size || !slices.Contains(told, "7 POST / end") {
		t.Errorf("%d bytes of %d came, told %q", got, size, told)
	}
	for _, id := range []uint32{1, 5} {
		p.e.on(id, func(x *exchange) {
			if x.writable != 1 || x.e.conn.Held() != 0 {
				t.Errorf("stream %d was told %d times that it can send, %d bytes held", id, x.writable, x.e.conn.Held())
			}
		})
	}
}

// TestConnectionsThatBreakWhileTheyWait: who is told of that holds nothing any more.
func TestConnectionsThatBreakWhileTheyWait(t *testing.T) {
	inBothRoles(t, func(t *testing.T, open func(http2.Limits, ...oracle.Setting) *peer) {
		p := open(http2.Limits{}, window(1))
		p.content(1, "abc", true)
		p.fence()
		p.conn.Close()
		if err := p.e.ended(); err == nil || errors.As(err, new(http2.ErrCode)) {
			t.Errorf("ended by %v", err)
		}
		told := p.e.told()
		for _, id := range []string{"1", "3", "5"} {
			if n := count(told, id+" cut off by loss: "); n != 1 {
				t.Errorf("stream %s was told %d times: %q", id, n, told)
			}
		}
	})
}
