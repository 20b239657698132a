package loop_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

// secured is a Conn that says how its handshake ended.
type secured struct {
	loop.Conn
	l      *loop.Loop
	ended  chan error
	events chan loop.Event
}

func (s *secured) Secured(err error)    { s.ended <- err }
func (s *secured) Ready(e loop.Event)   { s.events <- e }
func (s *secured) close(t testing.TB)   { t.Helper(); do(t, s.l, s.Close) }
func (s *secured) abort(t testing.TB)   { t.Helper(); do(t, s.l, func() { s.ResetOnClose(); s.Close() }) }
func (s *secured) write(p string) error { _, err := s.Write([]byte(p)); return err }

// secure opens fd and begins a handshake.
func secure(t testing.TB, l *loop.Loop, fd int, cfg *tls.Config, server bool) *secured {
	t.Helper()
	s := &secured{l: l, ended: make(chan error, 1), events: make(chan loop.Event, 1000)}
	do(t, l, func() {
		if err := s.Open(l, fd, s); err != nil {
			t.Error(err)
		}
		s.Secure(cfg, server, s)
	})
	return s
}

// readAll reads on the loop until the end, and says what that was.
func (s *secured) readAll(t testing.TB, size int) (string, error) {
	t.Helper()
	var got strings.Builder
	var end error
	var hup bool
	for end == nil {
		select {
		case e := <-s.events:
			hup = hup || e&(loop.Hup|loop.Err) != 0
			if e&(loop.In|loop.Hup|loop.Err) == 0 {
				continue
			}
		case <-time.After(deadline):
			t.Fatalf("no event came after %q", got.String())
		}
		do(t, s.l, func() {
			p := s.l.Shared()[:size]
			for {
				n, err := s.Read(p)
				got.Write(p[:n])
				if err != nil {
					if !errors.Is(err, syscall.EAGAIN) {
						end = err
					}
					return
				}
				if n < len(p) && !hup {
					return // more, or an error, is told by an event
				}
			}
		})
	}
	return got.String(), end
}

func TestTLSState(t *testing.T) {
	server, client := configs(t)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	l := run(t)
	for i, version := range []uint16{tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS13, tls.VersionTLS13} {
		client.MinVersion, client.MaxVersion = version, version
		if i == 2 {
			client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
		idle := make(chan error, 2)
		s, c := pongs(t, l, server, client, make([]byte, 100), 2, idle)
		if err := wait(t, "requests", idle); err != nil {
			t.Fatal(err)
		}
		do(t, l, func() {
			for _, p := range []*pong{s, c} {
				st := p.TLS()
				if p.Plain() || st == nil || st.ALPN != "h2" || st.SNI != "web.mesh.internal" || st.Version != version || st.Cipher == 0 ||
					st.Resumed != (i%2 == 1) || len(st.Peer) != 1 || len(st.Chains) != 1 {
					t.Errorf("handshake %d: %+v", i, st)
				}
				p.Close()
				if p.TLS() != nil {
					t.Error("a closed connection has a state of TLS")
				}
			}
		})
	}
}

// TestTLSEnds: what the peer does at its end is told as what it is, behind all bytes before it.
func TestTLSEnds(t *testing.T) {
	server, client := configs(t)
	l := run(t)
	for _, tt := range []struct {
		name string
		end  func(*tls.Conn, *net.TCPConn)
		want error
	}{
		{"close_notify", func(c *tls.Conn, _ *net.TCPConn) { _ = c.CloseWrite() }, io.EOF},
		{"close_notify and end", func(c *tls.Conn, _ *net.TCPConn) { c.Close() }, io.EOF},
		{"end without close_notify", func(_ *tls.Conn, c *net.TCPConn) { _ = c.CloseWrite() }, io.ErrUnexpectedEOF},
		{"end within a record", func(_ *tls.Conn, c *net.TCPConn) { _, _ = c.Write([]byte{23, 3, 3}); _ = c.CloseWrite() }, io.ErrUnexpectedEOF},
		{"reset", func(_ *tls.Conn, c *net.TCPConn) { time.Sleep(10 * time.Millisecond); _ = c.SetLinger(0); c.Close() }, syscall.ECONNRESET},
		{"garbage", func(_ *tls.Conn, c *net.TCPConn) { _, _ = c.Write(make([]byte, 100)) }, tls.RecordHeaderError{}},
	} {
		for _, size := range []int{3, 1000} {
			t.Run(fmt.Sprintf("%s, read by %d bytes", tt.name, size), func(t *testing.T) {
				fd, conn := tcpPair(t, 0)
				s := secure(t, l, fd, server, true)
				defer s.close(t)
				c := tls.Client(conn, client)
				if err := c.Handshake(); err != nil {
					t.Fatal(err)
				}
				if err := wait(t, "handshake", s.ended); err != nil {
					t.Fatal(err)
				}
				for _, part := range []string{"hello", " ", "world"} {
					_, _ = io.WriteString(c, part)
				}
				tt.end(c, conn.(*net.TCPConn))
				got, err := s.readAll(t, size)
				var header tls.RecordHeaderError
				if _, garbage := tt.want.(tls.RecordHeaderError); garbage {
					if !errors.As(err, &header) {
						t.Errorf("the end is %v, want an error of the record's header", err)
					}
				} else if !errors.Is(err, tt.want) {
					t.Errorf("the end is %v, want %v", err, tt.want)
				}
				if got != "hello world" && !(tt.name == "reset" && strings.HasPrefix("hello world", got)) {
					t.Errorf("%q came before the end", got)
				}
				do(t, l, func() {
					if n, again := s.Read(l.Shared()); n != 0 || !errors.Is(again, err) {
						t.Errorf("another read: %d, %v", n, again)
					}
				})
			})
		}
	}
}

// TestTLSClose: how a connection on the loop was closed is told to the peer.
func TestTLSClose(t *testing.T) {
	server, client := configs(t)
	l := run(t)
	big := strings.Repeat("x", 8<<20)
	for _, tt := range []struct {
		name string
		do   func(*secured)
		want func(error) bool
	}{
		{"Close", func(s *secured) { s.Close(); s.Close() }, func(err error) bool { return err == nil }},
		{"CloseWrite", func(s *secured) { s.CloseWrite(); s.CloseWrite() }, func(err error) bool { return err == nil }},
		{"CloseWrite while something is pending", func(s *secured) {
			if err := s.write(big); !errors.Is(err, syscall.EAGAIN) || !s.Pending() {
				t.Errorf("write of 8 MiB to a peer that does not read: %v, pending: %v", err, s.Pending())
			}
			s.CloseWrite()
		}, func(err error) bool { return err == nil }},
		{"ResetOnClose", func(s *secured) { s.ResetOnClose(); s.Close() }, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
		{"Close while something is pending", func(s *secured) {
			if err := s.write(big); !errors.Is(err, syscall.EAGAIN) || !s.Pending() {
				t.Errorf("write of 8 MiB to a peer that does not read: %v, pending: %v", err, s.Pending())
			}
			s.Close()
		}, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd, conn := tcpPair(t, 0)
			s := secure(t, l, fd, server, true)
			defer s.close(t)
			under := &watched{Conn: conn}
			c := tls.Client(under, client)
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			if err := wait(t, "handshake", s.ended); err != nil {
				t.Fatal(err)
			}
			do(t, l, func() { tt.do(s) })
			_ = c.SetReadDeadline(time.Now().Add(deadline))
			_, err := io.Copy(io.Discard, c)
			if !tt.want(err) {
				t.Errorf("the peer read to %v", err)
			}
			if err != nil {
				return
			}
			if under.ended {
				t.Error("the end came without close_notify")
			}
			if _, err := under.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("behind close_notify came %v, want the end", err)
			}
		})
	}
}

// watched is a connection that notes whether its end was read.
type watched struct {
	net.Conn
	ended bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.ended = w.ended || errors.Is(err, io.EOF)
	return n, err
}

// TestTake: a connection goes over to who speaks its protocol, with all that came meanwhile, also what TLS has buffered.
func TestTake(t *testing.T) {
	server, client := configs(t)
	l := run(t)
	for _, tt := range []struct {
		name string
		cfg  *tls.Config
		late bool // it goes over when a byte was read, not when it is secured
	}{
		{"plain", nil, true},
		{"TLS, at once", server, false},
		{"TLS, later", server, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 20 {
				testTake(t, l, tt.cfg, client, tt.late)
			}
		})
	}
}

func testTake(t *testing.T, l *loop.Loop, server, client *tls.Config, late bool) {
	fd, conn := tcpPair(t, 0)
	second := &secured{l: l, events: make(chan loop.Event, 1000)}
	first := &taken{secured: secured{l: l, ended: make(chan error, 1), events: make(chan loop.Event, 1000)}}
	if !late {
		first.second = second
	}
	do(t, l, func() {
		if err := first.Open(l, fd, first); err != nil {
			t.Error(err)
		}
		if server != nil {
			first.Secure(server, true, first)
		}
	})
	c := conn.(halfCloser)
	if server != nil {
		c = tls.Client(conn, client)
	}
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	var got string
	for late && got == "" {
		first.in(t)
		do(t, l, func() {
			p := make([]byte, 1)
			n, _ := first.Read(p)
			if got = string(p[:n]); n > 0 {
				second.Take(&first.Conn, second)
			}
		})
	}
	second.in(t)
	second.events <- loop.In
	_ = c.CloseWrite()
	rest, err := second.readAll(t, 1000)
	if got += rest; got != "hello" || !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", got, err)
	}
	do(t, l, func() {
		if first.IsOpen() || !second.IsOpen() || second.Plain() != (server == nil) {
			t.Error("the connection did not go over")
		}
		first.Close()
		_ = second.write("bye")
		second.Close()
	})
	if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
		t.Errorf("the peer got %q, %v", got, err)
	}
}

// in waits until something to read is told.
func (s *secured) in(t *testing.T) {
	t.Helper()
	for {
		select {
		case e := <-s.events:
			if e&loop.In != 0 {
				return
			}
		case <-time.After(deadline):
			t.Fatal("nothing to read was told")
		}
	}
}

// taken is taken by another when it is secured, if there is one.
type taken struct {
	secured
	second *secured
}

func (s *taken) Secured(err error) {
	if err == nil && s.second != nil {
		s.second.Take(&s.Conn, s.second)
	}
}

// TestTLSQuiet: messages of TLS itself are no bytes; what was found is told and read.
func TestTLSQuiet(t *testing.T) {
	server, client := configs(t)
	cache := tls.NewLRUClientSessionCache(1)
	client.ClientSessionCache = cache
	l := run(t)
	fd, conn := tcpPair(t, 0)
	c := secure(t, l, fd, client, false)
	defer c.close(t)
	peer := tls.Server(conn, server)
	if err := peer.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, "handshake", c.ended); err != nil {
		t.Fatal(err)
	}
	quiet := func() (is bool) {
		t.Helper()
		do(t, l, func() { is = c.Quiet() })
		return is
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for end := time.Now().Add(deadline); !f(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never came: %s", what)
			}
		}
	}
	until("a session ticket", func() bool {
		if !quiet() {
			t.Fatal("a session ticket was taken for bytes")
		}
		_, found := cache.Get("web.mesh.internal")
		return found
	})
	do(t, l, func() {
		for len(c.events) > 0 {
			<-c.events
		}
		// The loop sees nothing of this but by Quiet, which takes it from the socket.
		_, _ = io.WriteString(peer, "hello")
		for end := time.Now().Add(deadline); c.Quiet(); {
			if time.Now().After(end) {
				t.Error("bytes never came")
				return
			}
		}
		if c.Quiet() {
			t.Error("bytes are there only once")
		}
	})
	select {
	case e := <-c.events:
		if e&loop.In == 0 {
			t.Errorf("told %x of bytes that Quiet has found", e)
		}
		c.events <- e
	case <-time.After(deadline):
		t.Fatal("what Quiet has found was not told")
	}
	_ = peer.CloseWrite()
	if got, err := c.readAll(t, 1000); got != "hello" || !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", got, err)
	}
	if quiet() {
		t.Error("the end is taken for nothing")
	}
}

func TestSpliceIsForPlainConnections(t *testing.T) {
	server, _ := configs(t)
	l := run(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	s := secure(t, l, fds[0], server, true)
	do(t, l, func() {
		var splice loop.Splice
		if err := splice.Open(); err != nil {
			t.Fatal(err)
		}
		defer splice.Close()
		if _, err := splice.Fill(&s.Socket); err == nil || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("Fill from a connection that is TLS: %v", err)
		}
		var plain loop.Conn
		a, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(a[1])
		if err := plain.Open(l, a[0], s); err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		_, _ = unix.Write(a[1], []byte("hello"))
		if n, err := splice.Fill(&plain.Socket); n != 5 || err != nil {
			t.Errorf("Fill from a plain connection: %d, %v", n, err)
		}
		if err := splice.Drain(&s.Socket); err == nil || !strings.Contains(err.Error(), "TLS") {
			t.Errorf("Drain to a connection that is TLS: %v", err)
		}
	})
	s.close(t)
}
