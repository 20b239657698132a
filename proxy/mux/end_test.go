package mux_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	oracle "golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/mux"
)

const deadline = 60 * time.Second // for what should take milliseconds

// end is a connection on a loop and what it told. All but the channel belongs to the loop's goroutine.
type end struct {
	conn   mux.Conn
	socket loop.Conn
	arena  mux.Arena
	l      *loop.Loop
	fd     int
	t      testing.TB

	received, sent uint64
	streams        map[uint32]*exchange
	lines          []string
	patience       time.Duration
	full           bool // content is to wait until it is pulled
	over           chan error
}

// exchange is a stream of an end.
type exchange struct {
	*mux.Stream
	e        *end
	id       uint32
	writable int // how often it was told
	closed   bool
}

// note keeps a line of what was told.
func (e *end) note(format string, args ...any) {
	e.lines = append(e.lines, fmt.Sprintf(format, args...))
}

func (e *end) Told() {}

func (e *end) Opened(s *mux.Stream, h *message.Head, last bool) {
	x := &exchange{Stream: s, e: e, id: s.ID()}
	s.Use(x)
	e.streams[x.id] = x
	e.note("%d %s %s%s", x.id, h.Bytes(h.MethodText), h.Bytes(h.Path), ending(last))
}

func (e *end) Event(v http2.Event) {
	if v == http2.EventSettings {
		return // each test begins with some
	}
	e.note("%s", map[http2.Event]string{http2.EventGoAway: "going away", http2.EventPingAck: "ping answered", http2.EventRejected: "rejected"}[v])
}

func (e *end) Idle() { e.note("idle") }

func (e *end) Ended(err error) {
	e.note("over: %v", err)
	e.over <- err
}

func ending(last bool) string {
	if last {
		return " end"
	}
	return ""
}

func (x *exchange) Head(h *message.Head, last bool) {
	x.e.note("%d %d%s", x.id, h.Status, ending(last))
}

func (x *exchange) Content(p loop.Piece, last bool) (more bool) {
	x.e.note("%d %q%s", x.id, brief(p.Bytes()), ending(last))
	return !x.e.full
}

func (x *exchange) Trailers(f *message.Fields) { x.e.note("%d trailers%s", x.id, fields(f)) }

func (x *exchange) Writable() { x.writable++ }

func (x *exchange) Reset(code http2.ErrCode, remote bool) {
	by := "us"
	switch {
	case x.e.conn.Lost():
		by = "loss"
	case remote:
		by = "peer"
	}
	x.e.note("%d cut off by %s: %s", x.id, by, oracle.ErrCode(code))
	x.close()
}

func (x *exchange) close() {
	if !x.closed {
		x.closed = true
		x.Close()
	}
}

func fields(f *message.Fields) string {
	var b strings.Builder
	for i := range f.Len() {
		fmt.Fprintf(&b, " %s=%s", f.Bytes(f.Field(i).Name), f.Bytes(f.Field(i).Value))
	}
	return b.String()
}

// brief makes long content comparable.
func brief(p []byte) string {
	if len(p) > 40 {
		return fmt.Sprintf("%d bytes", len(p))
	}
	return string(p)
}

// do runs f on the loop.
func (e *end) do(f func()) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := e.l.Do(ctx, f); err != nil {
		e.t.Fatal(err)
	}
}

// told takes what was told so far. Content that came in several pieces is one line each, so tests send little.
func (e *end) told() (lines []string) {
	e.t.Helper()
	e.do(func() { lines, e.lines = e.lines, nil })
	return lines
}

// ended waits for the end of the connection.
func (e *end) ended() error {
	e.t.Helper()
	select {
	case err := <-e.over:
		return err
	case <-time.After(deadline):
		e.t.Fatal("the connection goes on")
		return nil
	}
}

// run runs a loop until the test ends.
func run(t testing.TB) *loop.Loop {
	t.Helper()
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return l
}

// pair connects a descriptor for a loop with a peer. Buffers of 0 bytes are the kernel's default.
func pair(t testing.TB, buffers int) (int, *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if buffers > 0 {
		_ = unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, buffers)
	}
	f := os.NewFile(uintptr(fds[1]), "pair")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(deadline))
	return fds[0], conn.(*net.UnixConn)
}

// begin begins a server's connection, of which early was read, or a client's.
func (e *end) begin(server bool, limits http2.Limits, early []byte) {
	e.t.Helper()
	counts := mux.Counts{Received: &e.received, Sent: &e.sent}
	e.do(func() {
		if err := e.socket.Open(e.l, e.fd, &e.conn); err != nil {
			e.t.Error(err)
		}
		if server {
			e.conn.Serve(e.l, &e.socket, limits, &e.arena, e, counts, e.patience, early)
		} else {
			e.conn.Dial(e.l, &e.socket, limits, &e.arena, e, counts)
		}
	})
}

// newEnd makes an end that begin begins with a descriptor.
func newEnd(t testing.TB, l *loop.Loop, fd int) *end {
	t.Helper()
	e := &end{l: l, fd: fd, t: t, streams: map[uint32]*exchange{}, over: make(chan error, 2)}
	t.Cleanup(func() {
		e.do(e.conn.Abort)
		e.do(func() { // nobody is forgotten, and nobody told twice
			if n := e.conn.Active(); n != 0 {
				for _, x := range e.streams {
					x.close()
				}
				if n = e.conn.Active(); n != 0 {
					t.Errorf("%d streams are not given back", n)
				}
			}
			if len(e.over) > 1 {
				t.Error("the end of the connection was told twice")
			}
		})
	})
	return e
}

// open begins a stream of a client with a request.
func (e *end) open() (x *exchange) {
	e.t.Helper()
	e.do(func() {
		next := &exchange{e: e}
		if next.Stream = e.conn.Open(next); next.Stream == nil {
			return
		}
		x = next
		x.SendHead(request(), nil, false)
		x.id = x.ID()
		e.streams[x.id] = x
	})
	return x
}

func request() *message.Head {
	h := new(message.Head)
	h.Reset()
	h.MethodText, h.Method = h.Put("GET"), message.MethodGet
	h.Scheme, h.Authority = h.Put("http"), h.Put("web")
	h.SetPath(h.Put("/"))
	return h
}

func response(status int) *message.Head {
	h := new(message.Head)
	h.Reset()
	h.Status = status
	return h
}

// on runs f with a stream on the loop.
func (e *end) on(id uint32, f func(x *exchange)) {
	e.t.Helper()
	e.do(func() {
		x := e.streams[id]
		if x == nil || x.closed {
			e.t.Errorf("stream %d is not open", id)
			return
		}
		f(x)
	})
}
