package http2

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// end is one end of a pair: it sends bodies as far as windows let it, and counts what comes.
type end struct {
	conn    Conn
	out, in []byte
	answer  *message.Head // of a server
	content []byte
	edit    *message.Edit
	got     int
	ended   int
	resets  int
	stalled uint32 // content of this stream is not consumed
	stall   *Stream
	left    *[]byte // for streams one after the other, so that the test itself allocates nothing
}

func (e *end) Headers(s *Stream, _ *message.Head, end bool) {
	if end {
		e.over(s)
	}
}

func (e *end) Data(s *Stream, p []byte, end bool) {
	e.got += len(p)
	if s.ID() == e.stalled {
		e.stall = s
	} else {
		e.conn.Consumed(s, len(p))
	}
	if end {
		e.over(s)
	}
}

func (e *end) over(s *Stream) {
	e.ended++
	if e.answer == nil {
		e.conn.Release(s)
		return
	}
	e.out = e.conn.AppendHeaders(e.out, s, e.answer, e.edit, false)
	e.body(s, e.content)
}

// body keeps how much is left in a field of the test's own.
func (e *end) body(s *Stream, p []byte) {
	left, _ := s.User.(*[]byte)
	if left == nil {
		left = e.left
		if left == nil {
			left = new([]byte)
		}
		s.User = left
	}
	*left = p
	e.Writable(s)
}

func (e *end) Writable(s *Stream) {
	left := s.User.(*[]byte)
	e.out = e.conn.AppendControl(e.out)
	for {
		h, n := e.conn.DataHeader(s, len(*left), true)
		if n == 0 && len(*left) > 0 {
			return
		}
		e.out = append(append(e.out, h[:]...), (*left)[:n]...)
		if *left = (*left)[n:]; len(*left) == 0 {
			break
		}
	}
	if e.answer != nil {
		e.conn.Release(s)
	}
}
func (e *end) Trailers(s *Stream, _ *message.Fields) { e.over(s) }
func (e *end) Reset(s *Stream, _ ErrCode, _ bool)    { e.resets++; e.conn.Release(s) }
func (e *end) Event(Event)                           {}

// carry moves what e has to send to the other end, at most limit bytes.
func (e *end) carry(t testing.TB, to *end, limit int) bool {
	e.out = e.conn.AppendControl(e.out)
	n := min(len(e.out), limit)
	to.in = append(to.in, e.out[:n]...)
	e.out = e.out[:copy(e.out, e.out[n:])]
	used, err := to.conn.Feed(to.in, to)
	if err != nil {
		t.Fatal(err)
	}
	to.in = to.in[:copy(to.in, to.in[used:])]
	return n > 0
}

func newPair(l Limits) (client, server *end) {
	client, server = new(end), new(end)
	a := new(Arena)
	client.conn.InitClient(l, a)
	server.conn.InitServer(l, a)
	server.answer = new(message.Head)
	server.answer.Reset()
	server.answer.Status = 200
	server.answer.AddField("content-type", "application/grpc")
	server.answer.AddField("server", "mesh")
	return client, server
}

func requestHead() *message.Head {
	h := new(message.Head)
	h.Reset()
	h.MethodText, h.Method = h.Put("POST"), message.MethodPost
	h.Scheme, h.Authority = h.Put("http"), h.Put("web.default.mesh.internal")
	h.SetPath(h.Put("/pkg.Service/Method?x=y"))
	h.AddField("content-type", "application/grpc")
	h.AddField("te", "trailers")
	h.AddField("x-request-id", "4be5c3ac-4d4e-4b0c-9f02-7a5a2d6e0c11")
	h.AddField("authorization", "Bearer secret")
	h.AddField("cookie", "a=b")
	return h
}

func settle(t testing.TB, client, server *end) {
	for client.carry(t, server, 1<<20) || server.carry(t, client, 1<<20) {
	}
}

// Whatever the windows and the pieces, all content arrives, and all windows are whole again afterwards.
func TestPairMovesEverything(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for round := range 40 {
		l := Limits{Window: 32 + rnd.IntN(1<<uint(1+rnd.IntN(17))), ConnWindow: 1 + rnd.IntN(1<<18), Streams: 1 + rnd.IntN(20), Noise: 1 << 30}
		client, server := newPair(l)
		server.content = make([]byte, rnd.IntN(20_000))
		body, begun := make([]byte, rnd.IntN(20_000)), 0
		for moved := true; moved || begun < 40; {
			if s := client.conn.Open(); s != nil && begun < 40 {
				begun++
				client.out = client.conn.AppendHeaders(client.out, s, requestHead(), nil, len(body) == 0)
				if len(body) > 0 {
					client.body(s, body)
				}
			} else if s != nil {
				client.conn.Release(s)
			}
			moved = client.carry(t, server, 1+rnd.IntN(50_000))
			moved = server.carry(t, client, 1+rnd.IntN(50_000)) || moved
			if rnd.IntN(2) == 0 {
				client.conn.Rest()
				server.conn.Rest()
			}
		}
		if server.got != 40*len(body) || client.got != 40*len(server.content) || client.ended != 40 || client.resets+server.resets != 0 {
			t.Fatalf("round %d, %+v: %d of %d, %d of %d, %d ended", round, l, server.got, 40*len(body), client.got, 40*len(server.content), client.ended)
		}
		for _, ends := range [][2]*end{{client, server}, {server, client}} {
			c := &ends[0].conn
			if c.rouse(); c.active != 0 || c.table.count != 0 || c.blocked.count != 0 {
				t.Fatalf("round %d: %d active, %d streams, %d blocked", round, c.active, c.table.count, c.blocked.count)
			}
			wholeWindow(t, ends[0], ends[1])
		}
	}
}

// wholeWindow checks that all of the connection's window of an end is with its peer, or will be.
func wholeWindow(t *testing.T, e, peer *end) {
	t.Helper()
	if room, c := peer.conn.room, &e.conn; room+int(c.credit) != c.limits.ConnWindow {
		t.Errorf("the peer has a window of %d, %d are to be given back, want %d in all", room, c.credit, c.limits.ConnWindow)
	}
}

// A stream whose content nobody takes holds its window and no more; the others go on.
func TestCVEClass15_AStalledStreamHoldsItsWindowOnly(t *testing.T) {
	client, server := newPair(Limits{})
	server.stalled = 1
	head, body := requestHead(), make([]byte, 500_000)
	for range 5 {
		s := client.conn.Open()
		client.out = client.conn.AppendHeaders(client.out, s, head, nil, false)
		client.body(s, body)
		settle(t, client, server)
	}
	if server.ended != 4 || server.stall.held != 64<<10 {
		t.Fatalf("%d ended, %d held", server.ended, server.stall.held)
	}
	wholeWindow(t, server, client)
	server.conn.Cancel(server.stall, Cancel)
	server.conn.Release(server.stall)
	settle(t, client, server)
	if client.resets != 1 {
		t.Errorf("%d resets", client.resets)
	}
	wholeWindow(t, server, client)
}

// Zero windows hold content back, and nothing grows.
func TestCVEClass15_ZeroWindow(t *testing.T) {
	r, p := serverOf(Limits{}), newPeer()
	_, _ = p.out.Write(appendSettingsOf(settingWindow, 0))
	p.request(1, true)
	r.run(t, p.out.Bytes())
	s, h := r.streams[0], new(message.Head)
	h.Reset()
	h.Status = 200
	r.conn.AppendHeaders(nil, s, h, nil, false)
	for range 3 {
		if _, n := r.conn.DataHeader(s, 10, true); n != 0 || r.conn.blocked.count != 1 {
			t.Fatalf("took %d, %d wait", n, r.conn.blocked.count)
		}
	}
	p.out.Reset()
	_ = p.WriteWindowUpdate(1, 4)
	if got := r.run(t, p.out.Bytes()); !slices.Contains(got, "1 writable") {
		t.Errorf("%q", got)
	}
	if header, n := r.conn.DataHeader(s, 10, true); n != 4 || header[4] != 0 {
		t.Errorf("took %d with flags %x", n, header[4])
	}
	r.conn.Release(s)
	if got := control(t, r.conn.AppendControl(nil)); !slices.Equal(got, []string{"rst 1 8"}) || r.conn.blocked.count != 0 {
		t.Errorf("%q", got)
	}
}

func appendSettingsOf(id byte, value byte) []byte {
	return append(frame{6, frameSettings, 0, 0}.append(nil), 0, id, 0, 0, 0, value)
}

// An answer that is complete before the request is: the rest is refused without an error (RFC 9113 section 8.1).
func TestAnEarlyAnswerStands(t *testing.T) {
	r, p := serverOf(Limits{}), newPeer()
	p.request(1, false)
	r.run(t, p.out.Bytes())
	h := new(message.Head)
	h.Reset()
	h.Status = 413
	r.conn.AppendHeaders(nil, r.streams[0], h, nil, true)
	r.conn.Release(r.streams[0])
	p.out.Reset()
	_ = p.WriteData(1, true, []byte("late"))
	if got := r.run(t, p.out.Bytes()); len(got) != 3 || got[2] != "rst 1 0" { // settings, the request, and nothing of what came late
		t.Errorf("%q", got)
	}
}

func TestShutdownLosesNoStream(t *testing.T) {
	client, server := newPair(Limits{})
	settle(t, client, server)
	open := func() *Stream {
		s := client.conn.Open()
		if s != nil {
			client.out = client.conn.AppendHeaders(client.out, s, requestHead(), nil, false)
		}
		return s
	}
	first := open()
	server.conn.Shutdown(false)
	second := open() // is on its way
	client.carry(t, server, 1<<20)
	server.conn.Shutdown(true)
	third := open() // comes too late
	client.carry(t, server, 1<<20)
	server.carry(t, client, 1<<20)
	if client.resets != 1 || third.ID() != 0 || client.conn.Open() != nil {
		t.Errorf("%d resets, want one; stream %d", client.resets, third.ID())
	}
	client.body(first, []byte("a"))
	client.body(second, []byte("b"))
	settle(t, client, server)
	if client.ended != 2 || server.got != 2 {
		t.Errorf("%d answers, %d bytes", client.ended, server.got)
	}
}

// Heads that come and go, content both ways, over connections that are warm: nothing is allocated.
func TestNothingIsAllocated(t *testing.T) {
	client, server := newPair(Limits{})
	head := requestHead()
	body := bytes.Repeat([]byte("b"), 128)
	client.left, server.left = new([]byte), new([]byte)
	edit := &message.Edit{Drop: message.Names(message.Server), Set: []message.Set{{Known: message.Date, Value: []byte("Mon, 21 Oct 2013 20:13:21 GMT")}}}
	server.edit, server.content = edit, body
	do := func() {
		s := client.conn.Open()
		client.out = client.conn.AppendHeaders(client.out, s, head, edit, false)
		client.body(s, body)
		client.carry(t, server, 1<<20)
		server.carry(t, client, 1<<20)
	}
	for range 2000 {
		do()
	}
	if n := testing.AllocsPerRun(2000, do); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	if client.ended < 4000 || client.resets != 0 {
		t.Errorf("%d answers, %d resets", client.ended, client.resets)
	}
}
