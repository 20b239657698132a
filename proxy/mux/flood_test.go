package mux_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	oracle "golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// floods are frames that make work and move nothing, the i-th of many (CVE-2019-9512, 9513, 9515, 9517 and 9518, CVE-2023-39325,
// CVE-2023-45288, CVE-2025-8671).
var floods = []struct {
	name  string
	to    string
	write func(p *peer, i int)
}{
	{"requests that are taken back", server, func(p *peer, i int) {
		p.message(uint32(2*i+1), true)
		_ = p.WriteRSTStream(uint32(2*i+1), oracle.ErrCodeCancel)
	}},
	{"requests that have us reset them", server, func(p *peer, i int) { p.message(uint32(2*i+1), true); _ = p.WriteWindowUpdate(uint32(2*i+1), 0) }},
	{"requests that are malformed", server, func(p *peer, i int) { p.message(uint32(2*i+1), true, "x-a", "\n") }},
	{"requests that are too many", server, func(p *peer, i int) { p.message(uint32(2*i+1), true) }},
	{"informational responses", client, func(p *peer, _ int) { p.headers(1, false, ":status", "103") }},
	{"resets of streams that are reset", both, func(p *peer, i int) { begun(p, i); _ = p.WriteRSTStream(1, oracle.ErrCodeCancel) }},
	{"settings", both, func(p *peer, i int) { _ = p.WriteSettings(window(uint32(i))) }},
	{"settings acknowledged", both, func(p *peer, _ int) { _ = p.WriteSettingsAck() }},
	{"pings", both, func(p *peer, _ int) { _ = p.WritePing(false, [8]byte{}) }},
	{"pings answered", both, func(p *peer, _ int) { _ = p.WritePing(true, [8]byte{}) }},
	{"ends", both, func(p *peer, _ int) { _ = p.WriteGoAway(1, oracle.ErrCodeNo, nil) }},
	{"priorities", both, func(p *peer, i int) { _ = p.WritePriority(uint32(2*i+1), oracle.PriorityParam{}) }},
	{"windows of the connection", both, func(p *peer, _ int) { _ = p.WriteWindowUpdate(0, 1) }},
	{"windows of a stream", both, func(p *peer, i int) { begun(p, i); _ = p.WriteWindowUpdate(1, 1) }},
	{"frames of no known type", both, func(p *peer, _ int) { p.raw(77, 0, 0) }},
	{"empty content", both, func(p *peer, i int) { begun(p, i); _ = p.WriteData(1, false, nil) }},
	{"padding", both, func(p *peer, i int) { begun(p, i); _ = p.WriteDataPadded(1, false, nil, make([]byte, 3)) }},
	{"empty pieces of a section", both, func(p *peer, i int) {
		if i == 0 {
			_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 1})
		}
		_ = p.WriteContinuation(1, false, nil)
	}},
	{"pieces of a section", both, func(p *peer, i int) {
		if i == 0 {
			_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 1})
		}
		_ = p.WriteContinuation(1, false, make([]byte, 16<<10))
	}},
}

// begun has stream 1 begin before the first frame of a flood.
func begun(p *peer, i int) {
	if i == 0 {
		p.message(1, false)
	}
}

// TestCVEClass15_FloodsEndConnectionsOfBothRoles: the peer is told to calm down, memory stays bounded and every stream is told of the
// end, whether the peer reads what it is told or not.
func TestCVEClass15_FloodsEndConnectionsOfBothRoles(t *testing.T) {
	l := run(t)
	for _, f := range floods {
		for _, to := range []string{server, client} {
			if f.to != both && f.to != to {
				continue
			}
			for _, reads := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s to %s that reads: %v", f.name, to, reads), func(t *testing.T) {
					buffers := 0
					if !reads {
						buffers = 4 << 10
					}
					p := begin(t, l, http2.Limits{}, to == server, buffers, nil)
					if to == client {
						for range 3 {
							p.e.open()
						}
						p.fence()
					}
					most, seen := 0, 0
					for i := 0; i < 3000; i++ {
						f.write(p, i)
						if p.out.Len() > 8<<10 || i == 2999 {
							p.send()
							p.e.do(func() {
								most = max(most, p.e.conn.Held())
								seen = len(p.e.streams)
							})
							if reads {
								continue
							}
						}
					}
					var code http2.ErrCode
					if err := p.e.ended(); !errors.As(err, &code) || code != http2.EnhanceYourCalm {
						t.Errorf("ended by %v", err)
					}
					if limit := 200 << 10; most > limit || seen > 300 {
						t.Errorf("%d bytes were held and %d streams told, want %d and 300 at most", most, seen, limit)
					}
					judgeLoss(t, p)
					if !reads {
						return
					}
					all := p.fence()
					if n := len(all); n < 2 || !strings.HasPrefix(all[n-2], "goaway ") || !strings.HasSuffix(all[n-2], " ENHANCE_YOUR_CALM") {
						t.Errorf("the last that was said is %q", all[max(0, n-3):])
					}
				})
			}
		}
	}
}

// TestOrdinaryPeersAreNoFlood: window updates for what was sent, and pings and resets now and then, cost nothing that is not paid for
// by content and by streams that are finished.
func TestOrdinaryPeersAreNoFlood(t *testing.T) {
	l := run(t)
	limits := http2.Limits{Noise: 50, Resets: 10}
	p := serve(t, l, limits)
	for i := range 500 {
		id := uint32(2*i + 1)
		p.message(id, false)
		_ = p.WriteData(id, true, []byte("abc"))
		p.fence() // a ping
		p.e.on(id, func(x *exchange) { x.SendHead(response(200), nil, false); x.Send([]byte("abcdefgh"), true) })
		for range 5 {
			_ = p.WriteWindowUpdate(0, 1)
		}
		if got := p.fence(); len(got) != 2 {
			t.Fatalf("after %d: %q", i, got)
		}
		p.e.on(id, func(x *exchange) { x.close() })
	}
}

// TestCVEClass15_WhoFloodsWaits: a client that floods reads why, nothing more is read of what it sends, and for a while it
// keeps the connection, whose end it does not see before: it cannot begin anew as fast as it can write. It may also leave.
func TestCVEClass15_WhoFloodsWaits(t *testing.T) {
	for _, leaves := range []bool{false, true} {
		t.Run(fmt.Sprintf("leaves: %v", leaves), func(t *testing.T) {
			l := run(t)
			fd, conn := pair(t, 0)
			e := newEnd(t, l, fd)
			e.patience = 1500 * time.Millisecond
			e.begin(true, http2.Limits{}, nil)
			p := newPeer(t, e, conn, true)
			p.out.WriteString(oracle.ClientPreface)
			_ = p.WriteSettings()
			p.message(1, false)
			for range 3000 {
				_ = p.WritePriority(1, oracle.PriorityParam{})
			}
			began := time.Now()
			p.send()
			for line := p.next(); !strings.HasSuffix(line, " ENHANCE_YOUR_CALM"); line = p.next() {
				if line == "end" {
					t.Fatal("it was not told why")
				}
			}
			before := uint64(0)
			p.e.do(func() {
				before = p.e.received
				if p.e.conn.Active() != 0 || !p.e.conn.Closed() {
					t.Error("its streams are still open")
				}
			})
			_, _ = p.conn.Write(make([]byte, 1000))
			if leaves {
				_ = p.conn.Close()
			}
			var code http2.ErrCode
			if err := p.e.ended(); !errors.As(err, &code) || code != http2.EnhanceYourCalm {
				t.Errorf("ended by %v", err)
			}
			if took := time.Since(began); !leaves && took < time.Second {
				t.Errorf("it was let go after %s", took)
			}
			if !leaves {
				if line := p.next(); line != "end" {
					t.Errorf("then it was told %q", line)
				}
			}
			p.e.do(func() {
				if p.e.received != before {
					t.Errorf("%d bytes were read of it", p.e.received-before)
				}
			})
		})
	}
}

// TestManyCancelledAtOnce: thousands of streams that this side gives up in one turn, as when the deadline of all calls is over, are told
// to the peer one and all. They are not what the peer asked for, and end no connection, whatever comes of it in that turn.
func TestManyCancelledAtOnce(t *testing.T) {
	const many = 2000
	for _, server := range []bool{false, true} {
		t.Run(map[bool]string{true: "server", false: "client"}[server], func(t *testing.T) {
			l := run(t)
			p := begin(t, l, http2.Limits{Streams: many + 1}, server, 0, []oracle.Setting{{ID: oracle.SettingMaxConcurrentStreams, Val: many + 1}})
			for i := range many {
				if server {
					p.message(uint32(2*i+1), false)
				} else if p.e.open() == nil {
					t.Fatal("no stream")
				}
				if i%100 == 0 {
					p.fence()
				}
			}
			p.fence()
			p.e.do(func() {
				for _, x := range p.e.streams {
					x.close()
				}
				_ = p.WritePing(false, [8]byte{'h', 'i'})
				_, _ = p.conn.Write(p.out.Bytes())
				p.out.Reset()
				p.e.conn.Ready(loop.In)
			})
			resets := 0
			for _, line := range p.fence() {
				if strings.Contains(line, "reset CANCEL") {
					resets++
				} else if line != "pong hi" {
					t.Errorf("got %s", line)
				}
			}
			if resets != many {
				t.Errorf("%d streams are reset, want %d", resets, many)
			}
		})
	}
}
