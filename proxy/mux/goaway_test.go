package mux_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// told compares what was told.
func (p *peer) told(what string, want ...string) {
	p.t.Helper()
	got := p.e.told()
	slices.Sort(got) // streams are told in no certain order
	slices.Sort(want)
	if !slices.Equal(got, want) {
		p.t.Errorf("%s: told %q, want %q", what, got, want)
	}
}

// TestServersThatGoAway (RFC 9113 section 6.8): who is told that no more streams are taken may not have known when it began one; who
// is told which was the last does not get another one through, and the tables stay in step all the same.
func TestServersThatGoAway(t *testing.T) {
	p := answering(serve(t, run(t), http2.Limits{}))
	p.e.do(func() { p.e.conn.Drain(false) })
	p.message(7, false)
	p.expect("at first", "goaway 2147483647 NO_ERROR")
	p.told("at first", "7 POST /")
	p.e.do(func() { p.e.conn.Drain(true) })
	p.message(9, false, "x-table", "of both")
	_ = p.WriteData(9, false, []byte("abc"))
	_ = p.WriteWindowUpdate(9, 1)
	p.headers(9, true, "x-late", "1")
	_ = p.WriteData(7, false, []byte("abc"))
	p.headers(7, true, "x-table", "of both") // by its number in the table
	p.expect("then", "goaway 7 NO_ERROR")
	p.told("then", `7 "abc"`, "7 trailers x-table=of both")
	for _, id := range []uint32{1, 3, 5, 7} {
		if id == 7 {
			p.e.on(id, func(x *exchange) { x.SendHead(response(204), nil, true) })
			p.expect("of the last", "7 204 end")
		} else {
			p.content(id, "", true)
			p.expect("of another", fmt.Sprintf(`%d "" end`, id))
		}
		p.e.on(id, func(x *exchange) { x.close() })
		if id != 7 {
			p.expect("nobody waits for the rest of what the client says", fmt.Sprintf("%d reset NO_ERROR", id))
		}
	}
	p.told("in the end", "idle")
	p.e.do(func() { p.e.conn.Drain(true) })
	p.expect("again", "goaway 7 NO_ERROR")
}

// TestServersOfClientsThatGoAway: what such a client has begun is answered.
func TestServersOfClientsThatGoAway(t *testing.T) {
	p := answering(serve(t, run(t), http2.Limits{}))
	_ = p.WriteGoAway(0, oracle.ErrCodeNo, []byte("bye"))
	_ = p.WriteData(1, true, []byte("abc"))
	p.content(1, "def", true)
	p.expect("the answer", `1 "def" end`)
	p.told("the rest", "going away", `1 "abc" end`)
}

// TestClientsOfServersThatGoAway: streams that the server did not take are told so, which allows to repeat them, and only those; no
// others are begun.
func TestClientsOfServersThatGoAway(t *testing.T) {
	l := run(t)
	for _, c := range []struct {
		name string
		last []uint32 // of one GOAWAY after the other
		code oracle.ErrCode
		want []string
		left []uint32
	}{
		{"all are taken", []uint32{1<<31 - 1}, oracle.ErrCodeNo, nil, []uint32{1, 3, 5}},
		{"then two", []uint32{1<<31 - 1, 3}, oracle.ErrCodeNo, []string{"5 cut off by peer: REFUSED_STREAM"}, []uint32{1, 3}},
		{"one", []uint32{1}, oracle.ErrCodeNo, []string{"3 cut off by peer: REFUSED_STREAM", "5 cut off by peer: REFUSED_STREAM"}, []uint32{1}},
		{"one, after a mistake", []uint32{2}, oracle.ErrCodeProtocol, []string{"3 cut off by peer: REFUSED_STREAM", "5 cut off by peer: REFUSED_STREAM"}, []uint32{1}},
		{"none", []uint32{0}, oracle.ErrCodeEnhanceYourCalm, []string{"1 cut off by peer: REFUSED_STREAM", "3 cut off by peer: REFUSED_STREAM", "5 cut off by peer: REFUSED_STREAM", "idle"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := dial(t, l, http2.Limits{})
			for _, id := range c.last {
				_ = p.WriteGoAway(id, c.code, nil)
				c.want = append(c.want, "going away")
			}
			p.expect("the client has nothing to say")
			p.told("to them", c.want...)
			if x := p.e.open(); x != nil {
				t.Errorf("stream %d was begun", x.id)
			}
			var want []string
			for _, id := range c.left {
				p.message(id, true)
				want = append(want, fmt.Sprintf("%d 200 end", id))
			}
			p.fence()
			p.told("to those that were taken", want...)
			p.conn.Close()
			if err := p.e.ended(); !errors.Is(err, io.EOF) {
				t.Errorf("ended by %v", err)
			}
			for _, id := range c.left { // their requests have no end, so they are cut off
				if told := p.e.told(); id == c.left[0] && count(told, fmt.Sprintf("%d cut off by loss", id)) != 1 {
					t.Errorf("stream %d: told %q", id, told)
				}
			}
		})
	}
}

// TestClientsThatGoAway: they say so, and which streams of the server they took: none.
func TestClientsThatGoAway(t *testing.T) {
	p := dial(t, run(t), http2.Limits{})
	p.e.do(func() { p.e.conn.Drain(true) })
	p.message(1, true)
	p.expect("to the server", "goaway 0 NO_ERROR")
	p.told("of the response", "1 200 end")
}

// TestConnectionsEnd: orderly ones when all is said, and with Finish when the peer has heard it; others at once.
func TestConnectionsEnd(t *testing.T) {
	inBothRoles(t, func(t *testing.T, open func(http2.Limits, ...oracle.Setting) *peer) {
		t.Run("End", func(t *testing.T) {
			p := open(http2.Limits{})
			p.e.on(1, func(x *exchange) {
				x.Send([]byte("abc"), true)
				p.e.conn.End()
				if p.e.conn.Open(x) != nil || !p.e.conn.Closed() {
					t.Error("the connection goes on")
				}
			})
			if got := []string{p.next(), p.next()}; got[0] != `1 "abc" end` || got[1] != "end" {
				t.Errorf("got %q", got)
			}
			if err := p.e.ended(); !errors.Is(err, http2.NoError) {
				t.Errorf("ended by %v", err)
			}
			judgeLoss(t, p)
		})
		t.Run("Finish", func(t *testing.T) {
			p := open(http2.Limits{})
			p.e.on(1, func(x *exchange) {
				x.Send([]byte("abc"), true)
				p.e.conn.Finish()
			})
			if got := []string{p.next(), p.next()}; got[0] != `1 "abc" end` || got[1] != "end" {
				t.Errorf("got %q", got)
			}
			_ = p.WritePing(false, [8]byte{}) // which is read, and lost
			p.out.Write(make([]byte, 300<<10))
			p.send()
			p.e.do(func() {
				if len(p.e.over) > 0 {
					t.Error("the peer has not ended it")
				}
			})
			p.conn.Close()
			if err := p.e.ended(); !errors.Is(err, http2.NoError) {
				t.Errorf("ended by %v", err)
			}
			judgeLoss(t, p)
		})
		t.Run("Abort", func(t *testing.T) {
			p := open(http2.Limits{})
			p.e.do(p.e.conn.Abort)
			if err := p.e.ended(); err == nil || !p.e.conn.Lost() {
				t.Errorf("ended by %v", err)
			}
			judgeLoss(t, p)
		})
		t.Run("by the peer, within a frame", func(t *testing.T) {
			p := open(http2.Limits{})
			p.out.Write([]byte{0, 0, 8, 6, 0})
			p.send()
			p.conn.Close()
			if err := p.e.ended(); !errors.Is(err, io.EOF) {
				t.Errorf("ended by %v", err)
			}
			judgeLoss(t, p)
		})
		t.Run("by the peer, of one way", func(t *testing.T) {
			p := open(http2.Limits{})
			_ = p.conn.CloseWrite()
			if err := p.e.ended(); !errors.Is(err, io.EOF) {
				t.Errorf("ended by %v", err)
			}
			judgeLoss(t, p)
		})
	})
}

// TestConcurrentStreams (RFC 9113 section 5.1.2): a server refuses what is too much, so that it may be repeated, and takes as many
// again as it has given back; a client begins no more than the server takes, whatever it says in the course of time.
func TestConcurrentStreams(t *testing.T) {
	l := run(t)
	t.Run(server, func(t *testing.T) {
		p := answering(serve(t, l, http2.Limits{Streams: 3}))
		p.message(7, true)
		p.expect("the fourth", "7 reset REFUSED_STREAM")
		_ = p.WriteData(1, true, nil)
		p.content(1, "", true)
		p.message(9, true)
		p.expect("one is over, but its work is not", `1 "" end`, "9 reset REFUSED_STREAM")
		p.e.on(1, func(x *exchange) { x.close() })
		p.message(11, true)
		p.message(13, true)
		p.expect("now it is", "13 reset REFUSED_STREAM")
		_ = p.WriteRSTStream(3, oracle.ErrCodeCancel)
		p.message(15, true)
		p.expect("who is cut off makes room")
		p.told("all in all", "rejected", `1 "" end`, "rejected", "11 POST / end", "rejected", "3 cut off by peer: CANCEL", "15 POST / end")
	})
	t.Run(client, func(t *testing.T) {
		streams := func(n uint32) oracle.Setting {
			return oracle.Setting{ID: oracle.SettingMaxConcurrentStreams, Val: n}
		}
		p := dial(t, l, http2.Limits{Streams: 5}, streams(3))
		opens := func(what string, want int) {
			t.Helper()
			p.fence()
			got := 0
			for p.e.open() != nil {
				got++
			}
			if got != want {
				t.Errorf("%s: %d streams were begun, want %d", what, got, want)
			}
		}
		opens("three are open", 0)
		p.message(1, true)
		opens("one is answered, and not given back", 0)
		p.e.on(1, func(x *exchange) { x.close() })
		opens("one was given back", 1)
		_ = p.WriteSettings(streams(1))
		p.fence()
		p.e.on(3, func(x *exchange) { x.close() })
		opens("the server takes one, and has two", 0)
		_ = p.WriteSettings(streams(0))
		for _, id := range []uint32{5, 7} {
			p.e.on(id, func(x *exchange) { x.close() })
		}
		opens("it takes none, and has none", 0)
		_ = p.WriteSettings(streams(1000))
		opens("it takes more than we like", 5)
	})
}

// TestWhatWasReadBefore: a connection begins with what was read before it was known that this is HTTP/2, up to a whole buffer.
func TestWhatWasReadBefore(t *testing.T) {
	l := run(t)
	for _, early := range []int{1, 24, 25, 1000, loop.SharedSize - 1, loop.SharedSize} {
		t.Run(fmt.Sprint(early), func(t *testing.T) {
			fd, conn := pair(t, 0)
			e := newEnd(t, l, fd)
			p := newPeer(t, e, conn, true)
			p.out.WriteString(oracle.ClientPreface)
			_ = p.WriteSettings()
			p.message(1, false)
			const frames = 5 // of a stream's window
			for range frames {
				_ = p.WriteData(1, false, make([]byte, 10<<10))
			}
			for p.out.Len() < early+100 {
				_ = p.WriteRawFrame(77, 0, 0, make([]byte, 1<<10))
			}
			e.begin(true, http2.Limits{Noise: 1 << 20}, p.out.Next(early))
			p.fence()
			told := e.told()
			if len(told) < 1+frames || told[0] != "1 POST /" || count(told, `1 "`) != len(told)-1 {
				t.Errorf("told %q", told)
			}
			if strings.Contains(strings.Join(told, " "), "cut off") {
				t.Errorf("told %q", told)
			}
		})
	}
}

// TestAnswersBeforeAReset: a host answers while the request still comes, says that it goes away and closes the connection with bytes of
// the request unread, which resets it. The answer was whole, and is told before the end, though both come in the same turn.
func TestAnswersBeforeAReset(t *testing.T) {
	l := run(t)
	p := dial(t, l, http2.Limits{})
	p.e.on(1, func(x *exchange) { x.Send(make([]byte, 10<<10), false) }) // which is never read
	for _, id := range []uint32{1, 3} {
		p.message(id, false)
		_ = p.WriteData(id, id == 1, []byte("enough"))
	}
	_ = p.WriteGoAway(3, oracle.ErrCodeNo, nil)
	p.e.do(func() { // the loop sees neither before both are there
		p.send()
		_ = p.conn.Close()
	})
	_ = p.e.ended()
	told := p.e.told()
	for _, want := range []string{`1 "enough" end`, `3 "enough"`, "3 cut off by loss: INTERNAL_ERROR"} {
		if count(told, want) != 1 {
			t.Errorf("told %q, want %q in it", told, want)
		}
	}
}
