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
			c := tls.Client(conn, client)
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			if err := wait(t, "handshake", s.ended); err != nil {
				t.Fatal(err)
			}
			do(t, l, func() { tt.do(s) })
			_ = c.SetReadDeadline(time.Now().Add(deadline))
			if _, err := io.Copy(io.Discard, &strict{c, conn}); !tt.want(err) {
				t.Errorf("the peer read to %v", err)
			}
		})
	}
}

// strict reads from a connection of crypto/tls, which takes an end between two records for one in good order.
type strict struct {
	*tls.Conn
	under net.Conn
}

func (s *strict) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		// After close_notify the end itself has not been read yet.
		if m, err := s.under.Read(make([]byte, 1)); m == 0 && errors.Is(err, io.EOF) {
			return n, io.EOF
		}
	}
	return n, err
}

func TestHandshakesThatFail(t *testing.T) {
	server, client := configs(t)
	l := run(t)
	old := client.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	renegotiating := server.Clone()
	renegotiating.Renegotiation = tls.RenegotiateFreelyAsClient
	for _, tt := range []struct {
		name string
		cfg  *tls.Config
		peer func(*net.TCPConn) error // what the peer does, and sees
		want string
		seen string
	}{
		{"garbage", server, func(c *net.TCPConn) error { _, err := c.Write([]byte("GET / HTTP/1.1\r\n\r\n")); return err }, "does not look like a TLS handshake", ""},
		{"end", server, func(c *net.TCPConn) error { return c.CloseWrite() }, "EOF", ""},
		{"end within", server, func(c *net.TCPConn) error { _, _ = c.Write([]byte{22, 3, 1}); return c.CloseWrite() }, "unexpected EOF", ""},
		{"reset", server, func(c *net.TCPConn) error {
			_, _ = c.Write([]byte{22, 3, 1})
			time.Sleep(10 * time.Millisecond)
			_ = c.SetLinger(0)
			return c.Close()
		}, "connection reset", ""},
		{"old version", server, func(c *net.TCPConn) error { return tls.Client(c, old).Handshake() }, "unsupported versions", "protocol version not supported"},
		{"renegotiation allowed", renegotiating, func(*net.TCPConn) error { return nil }, "allows renegotiation", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fd, conn := tcpPair(t, 0)
			s := secure(t, l, fd, tt.cfg, true)
			err := tt.peer(conn.(*net.TCPConn))
			if tt.seen != "" && (err == nil || !strings.Contains(err.Error(), tt.seen)) {
				t.Errorf("the peer sees %v, want %q", err, tt.seen)
			}
			if err := wait(t, "handshake", s.ended); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Secured(%v), want %q", err, tt.want)
			}
			do(t, l, func() {
				if _, err := s.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.EAGAIN) || s.TLS() != nil {
					t.Errorf("Read after a failed handshake: %v", err)
				}
				if err := s.write("x"); err == nil || errors.Is(err, syscall.EAGAIN) || s.Pending() {
					t.Errorf("Write after a failed handshake: %v", err)
				}
			})
			s.close(t)
			if len(s.events) > 0 {
				t.Errorf("the handler was told %x", <-s.events)
			}
		})
	}
}

// TestCVEClass16_StalledHandshakesHoldNobodyBack: with room for one handshake and many that wait for their peer, another gets
// through; the stalled ones end when they are closed, with their descriptors.
func TestCVEClass16_StalledHandshakesHoldNobodyBack(t *testing.T) {
	server, client := configs(t)
	l := run(t)
	do(t, l, func() { l.LimitHandshakes(loop.NewHandshakes(1)) })
	var stalled []*secured
	var peers []net.Conn
	for i := range 60 {
		fd, conn := tcpPair(t, 0)
		stalled, peers = append(stalled, secure(t, l, fd, server, true)), append(peers, conn)
		switch i % 3 {
		case 0: // says nothing
		case 1: // within the client's hello
			_, _ = conn.Write([]byte{22, 3, 1, 1, 0, 1})
		case 2: // before the client's last word
			go func() { _ = tls.Client(&mute{Conn: conn}, client).Handshake() }()
		}
	}
	for range 3 {
		fd, conn := tcpPair(t, 0)
		s := secure(t, l, fd, server, true)
		if err := tls.Client(conn, client).Handshake(); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, "a handshake beside stalled ones", s.ended); err != nil {
			t.Fatal(err)
		}
		s.close(t)
	}
	for i, s := range stalled {
		if i%2 == 0 {
			s.close(t)
		} else {
			s.abort(t)
		}
		_ = peers[i].SetReadDeadline(time.Now().Add(deadline))
		if _, err := io.Copy(io.Discard, peers[i]); errors.Is(err, syscall.ETIMEDOUT) || err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("stalled handshake %d: the peer sees %v after the connection was closed", i, err)
		}
		if len(s.ended) > 0 {
			t.Errorf("stalled handshake %d: Secured(%v)", i, <-s.ended)
		}
	}
}

// mute is a connection whose second write never arrives.
type mute struct {
	net.Conn
	writes int
}

func (m *mute) Write(p []byte) (int, error) {
	if m.writes++; m.writes > 1 {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// TestConnectionsClosedDuringHandshakes closes connections at any moment of their handshake while others, which get the
// numbers of their descriptors, pass on bytes.
func TestConnectionsClosedDuringHandshakes(t *testing.T) {
	server, client := configs(t)
	l := run(t)
	do(t, l, func() { l.LimitHandshakes(loop.NewHandshakes(2)) })
	stop, stopped := make(chan struct{}), make(chan int, 1)
	go func() {
		n := 0
		defer func() { stopped <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			fd, conn := tcpPair(t, 0)
			s := secure(t, l, fd, server, true)
			go func() { _ = tls.Client(conn, client).Handshake(); conn.Close() }()
			time.Sleep(time.Duration(n%20) * 100 * time.Microsecond)
			s.close(t)
		}
	}()
	for i := range byte(40) {
		fd, conn := unixPair(t, 0)
		a := newAgent(l, uint64(i), newStream(i, 100_000), newStream(i+100, 100_000))
		a.start(t, fd, server, true)
		if err := exchange(tls.Client(conn, client), uint64(i), newStream(i+100, 100_000), newStream(i, 100_000)); err != nil {
			t.Errorf("exchange %d: %v", i, err)
		}
		if err := wait(t, "the loop's end", a.done); err != nil {
			t.Errorf("exchange %d on the loop: %v", i, err)
		}
	}
	close(stop)
	t.Logf("%d connections were closed", <-stopped)
}

// FuzzHandshake gives a server or a client whatever a peer may say, in pieces. The handshake fails, and says so once.
func FuzzHandshake(f *testing.F) {
	server, client := configs(f)
	l := run(f)
	do(f, l, func() { l.LimitHandshakes(loop.NewHandshakes(1)) })
	f.Add(true, 5, []byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(true, 1, []byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0})
	f.Add(false, 3, []byte{21, 3, 3, 0, 2, 2, 40})
	f.Add(false, 100, append([]byte{22, 3, 3, 0, 44, 2, 0, 0, 40, 3, 3}, make([]byte, 38)...))
	f.Fuzz(func(t *testing.T, asServer bool, cut int, data []byte) {
		cfg := client
		if asServer {
			cfg = server
		}
		fd, conn := unixPair(t, 0)
		s := secure(t, l, fd, cfg, asServer)
		go func() { // a handshake that failed reads no more
			for cut, data := max(cut, 1), data; len(data) > 0; data = data[min(cut, len(data)):] {
				if _, err := conn.Write(data[:min(cut, len(data))]); err != nil {
					return
				}
			}
			_ = conn.(*net.UnixConn).CloseWrite()
		}()
		if err := wait(t, "handshake", s.ended); err == nil {
			t.Error("a peer without keys got through")
		}
		s.close(t)
		if len(s.ended)+len(s.events) > 0 {
			t.Error("something was told behind the end of the handshake")
		}
	})
}

// TestTakeByALPN: a connection goes over to who speaks its protocol, with all that came meanwhile.
func TestTakeByALPN(t *testing.T) {
	server, client := configs(t)
	l := run(t)
	for _, tlsToo := range []bool{false, true} {
		for range 20 {
			fd, conn := tcpPair(t, 0)
			first := &taken{secured: secured{l: l, ended: make(chan error, 1), events: make(chan loop.Event, 1000)}}
			first.second = &secured{l: l, events: make(chan loop.Event, 1000)}
			do(t, l, func() {
				if err := first.Open(l, fd, first); err != nil {
					t.Error(err)
				}
				if tlsToo {
					first.Secure(server, true, first)
				}
			})
			c := conn.(halfCloser)
			if tlsToo {
				c = tls.Client(conn, client)
			}
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			_ = c.CloseWrite()
			if !tlsToo {
				<-first.events
				do(t, l, func() { first.second.Take(&first.Conn, first.second) })
			}
			if got, err := first.second.readAll(t, 1000); got != "hello" || !errors.Is(err, io.EOF) {
				t.Errorf("TLS %v: %q, %v", tlsToo, got, err)
			}
			do(t, l, func() {
				if first.IsOpen() || !first.second.IsOpen() || first.second.Plain() == tlsToo {
					t.Error("the connection did not go over")
				}
				first.Close()
				_ = first.second.write("bye")
				first.second.Close()
			})
			if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
				t.Errorf("TLS %v: the peer got %q, %v", tlsToo, got, err)
			}
		}
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
	_, _ = io.WriteString(peer, "hello")
	until("bytes", func() bool { return !quiet() })
	if quiet() {
		t.Error("bytes are there only once")
	}
	_ = peer.CloseWrite()
	if got, err := c.readAll(t, 1000); got != "hello" || !errors.Is(err, io.EOF) {
		t.Errorf("%q, %v", got, err)
	}
	if quiet() {
		t.Error("the end is taken for nothing")
	}
}

type taken struct {
	secured
	second *secured
}

func (s *taken) Secured(err error) {
	if err == nil {
		s.second.Take(&s.Conn, s.second)
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
