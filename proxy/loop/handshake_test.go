package loop_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

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

// TestAlertArrives: a peer is told why it is refused, and is not reset, even if it sent more than anybody wanted and the connection
// is closed at once.
func TestAlertArrives(t *testing.T) {
	server, client := configs(t)
	client.MinVersion, client.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	l := run(t)
	fd, conn := tcpPair(t, 0)
	s := secure(t, l, fd, server, true)
	peer := &eager{Conn: conn, closed: make(chan struct{})}
	refused := make(chan error, 1)
	go func() { refused <- tls.Client(peer, client).Handshake() }()
	if err := wait(t, "handshake", s.ended); err == nil {
		t.Error("the handshake did not fail")
	}
	s.close(t)
	close(peer.closed)
	if err := wait(t, "the peer", refused); err == nil || !strings.Contains(err.Error(), "protocol version not supported") {
		t.Errorf("the peer sees %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("behind the alert the peer sees %v, want the end", err)
	}
}

// eager is a connection that sends more than it is asked to, and reads when the other end was closed.
type eager struct {
	net.Conn
	closed chan struct{}
}

func (e *eager) Write(p []byte) (int, error) {
	if _, err := e.Conn.Write(append(p[:len(p):len(p)], make([]byte, 20_000)...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (e *eager) Read(p []byte) (int, error) {
	<-e.closed
	return e.Conn.Read(p)
}
