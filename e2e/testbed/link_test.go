package testbed_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// shortly is how long a test watches that nothing comes; arrival is what it grants to what must come.
const (
	shortly = 100 * time.Millisecond
	arrival = 10 * time.Second
)

// echoServer is a TCP server that answers with what it is sent.
type echoServer struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func startEcho(t *testing.T) *echoServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &echoServer{Listener: listener}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	t.Cleanup(s.end)
	return s
}

// end closes the server and all its connections.
func (s *echoServer) end() {
	_ = s.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
}

func (s *echoServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, arrival)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, conn net.Conn, n int) string {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(arrival))
	buf := make([]byte, n)
	if _, err := io.ReadFull(conn, buf); err != nil {
		t.Fatalf("receive %d bytes: %v", n, err)
	}
	return string(buf)
}

func wantEcho(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	send(t, conn, text)
	if got := receive(t, conn, len(text)); got != text {
		t.Fatalf("got %q, want %q", got, text)
	}
}

func wantSilence(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(shortly))
	n, err := conn.Read(make([]byte, 1))
	if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %d bytes, %v, want silence", n, err)
	}
}

// wantEnd reads until the connection ends, and returns what came before.
func wantEnd(t *testing.T, conn net.Conn, want error) string {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(arrival))
	var got bytes.Buffer
	if _, err := io.Copy(&got, conn); !errors.Is(err, want) {
		t.Fatalf("the connection ended with %v, want %v", err, want)
	}
	return got.String()
}

func TestLinkForwards(t *testing.T) {
	t.Parallel()
	link := testbed.NewLink(t, startEcho(t).Addr().String())
	conn := dial(t, link.Address)
	wantEcho(t, conn, "hello")
	big := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB, far more than a chunk
	go func() {
		_, _ = io.WriteString(conn, big)
		_ = conn.CloseWrite()
	}()
	if got := wantEnd(t, conn, nil); got != big {
		t.Fatalf("1 MiB came back damaged, %d bytes", len(got))
	}
}

func TestLinkCutRefusesAndHealServesAtOnceOnTheSamePort(t *testing.T) {
	t.Parallel()
	link := testbed.NewLink(t, startEcho(t).Addr().String())
	for range 20 {
		conn := dial(t, link.Address)
		wantEcho(t, conn, "before")
		link.Cut()
		wantEnd(t, conn, syscall.ECONNRESET)
		if _, err := net.Dial("tcp", link.Address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial while cut: got %v, want refused", err)
		}
		if other, err := net.Listen("tcp", link.Address); err == nil {
			_ = other.Close()
			t.Fatal("somebody else could take the link's port while it was cut")
		}
		link.Heal()
		wantEcho(t, dial(t, link.Address), "after")
	}
}

func TestLinkHoldSwallowsAndHealDelivers(t *testing.T) {
	t.Parallel()
	server := startEcho(t)
	link := testbed.NewLink(t, server.Addr().String())
	old := dial(t, link.Address)
	wantEcho(t, old, "before")
	link.Hold()
	fresh := dial(t, link.Address)
	send(t, old, "held on the old one")
	send(t, fresh, "held on the new one")
	wantSilence(t, old)
	wantSilence(t, fresh)
	if got := server.count(); got != 1 {
		t.Fatalf("the server has seen %d connections while held, want the old one only", got)
	}
	link.Heal()
	for _, c := range []net.Conn{old, fresh} {
		if got := receive(t, c, 19); !strings.HasPrefix(got, "held on the ") {
			t.Fatalf("after Heal: got %q", got)
		}
		wantEcho(t, c, "after")
	}
}

func TestLinkHoldHidesTheServersEndUntilHeal(t *testing.T) {
	t.Parallel()
	server := startEcho(t)
	link := testbed.NewLink(t, server.Addr().String())
	conn := dial(t, link.Address)
	wantEcho(t, conn, "before")
	link.Hold()
	late := dial(t, link.Address)
	server.end()
	wantSilence(t, conn)
	wantSilence(t, late)
	link.Heal()
	wantEnd(t, conn, nil) // the server closed it in order
	wantEnd(t, late, syscall.ECONNRESET)
}

func TestLinkCutEndsWhatIsHeld(t *testing.T) {
	t.Parallel()
	link := testbed.NewLink(t, startEcho(t).Addr().String())
	conn := dial(t, link.Address)
	wantEcho(t, conn, "before")
	link.Hold()
	send(t, conn, "lost")
	link.Cut()
	wantEnd(t, conn, syscall.ECONNRESET)
	link.Heal()
	wantEcho(t, dial(t, link.Address), "after")
}

func TestLinkSlowKeepsOrderAndRate(t *testing.T) {
	t.Parallel()
	link := testbed.NewLink(t, startEcho(t).Addr().String())
	conn := dial(t, link.Address)
	wantEcho(t, conn, "before")
	link.Slow(200 * time.Millisecond)
	began := time.Now()
	for _, text := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		send(t, conn, text)
		time.Sleep(5 * time.Millisecond) // chunks of their own
	}
	if got := receive(t, conn, 8); got != "abcdefgh" {
		t.Fatalf("got %q, want it in order", got)
	}
	// Eight chunks one after the other would be 1.6 s late; the lower bound is what Slow promises.
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Fatalf("it took %s, want at least 200ms", took)
	}
	link.Slow(time.Hour)
	send(t, conn, "released")
	wantSilence(t, conn)
	link.Heal()
	if got := receive(t, conn, 8); got != "released" {
		t.Fatalf("after Heal: got %q", got)
	}
}

func TestLinkTruncateClosesAfterExactlySoManyBytes(t *testing.T) {
	t.Parallel()
	link := testbed.NewLink(t, startEcho(t).Addr().String())
	old := dial(t, link.Address)
	wantEcho(t, old, "before")
	link.Truncate(5)
	for range 2 {
		fresh := dial(t, link.Address)
		send(t, fresh, "123")
		if got := receive(t, fresh, 3); got != "123" {
			t.Fatalf("got %q, want 123", got)
		}
		send(t, fresh, "45678")
		if got := wantEnd(t, fresh, nil); got != "45" {
			t.Fatalf("got %q before the end, want 45", got)
		}
	}
	send(t, old, "12345678")
	if got := wantEnd(t, old, nil); got != "12345" {
		t.Fatalf("got %q on the existing connection, want 12345", got)
	}
	link.Truncate(0)
	wantEnd(t, dial(t, link.Address), nil)
	link.Heal()
	wantEcho(t, dial(t, link.Address), strings.Repeat("whole", 100))
}

func TestLinkGarbleDamagesAndHealResetsWhatWasDamaged(t *testing.T) {
	t.Parallel()
	link := testbed.NewLink(t, startEcho(t).Addr().String())
	old, idle := dial(t, link.Address), dial(t, link.Address)
	wantEcho(t, old, "before")
	wantEcho(t, idle, "before")
	link.Garble()
	fresh := dial(t, link.Address)
	for _, c := range []net.Conn{old, fresh} {
		text := strings.Repeat("x", 1000)
		send(t, c, text)
		got := receive(t, c, len(text))
		if damaged := slices.ContainsFunc([]byte(got), func(b byte) bool { return b != 'x' }); !damaged {
			t.Fatal("1000 bytes came through undamaged")
		}
	}
	link.Heal()
	wantEnd(t, old, syscall.ECONNRESET)
	wantEnd(t, fresh, syscall.ECONNRESET)
	wantEcho(t, idle, "whole")
	wantEcho(t, dial(t, link.Address), "after")
}

func TestLinkResetsWhenTheServerIsAway(t *testing.T) {
	t.Parallel()
	server := startEcho(t)
	link := testbed.NewLink(t, server.Addr().String())
	server.end()
	conn, err := net.Dial("tcp", link.Address)
	if err != nil { // the reset may come before the dial returns
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
		return
	}
	defer conn.Close()
	wantEnd(t, conn, syscall.ECONNRESET)
}

func TestLinkEndsItsConnectionsWithTheTest(t *testing.T) {
	t.Parallel()
	server := startEcho(t)
	var conn *net.TCPConn
	t.Run("inner", func(t *testing.T) {
		link := testbed.NewLink(t, server.Addr().String())
		var err error
		if conn, err = net.DialTCP("tcp", nil, addrOf(t, link.Address)); err != nil {
			t.Fatal(err)
		}
		wantEcho(t, conn, "alive")
		link.Hold()
	})
	wantEnd(t, conn, syscall.ECONNRESET)
	_ = conn.Close()
}

func addrOf(t *testing.T, address string) *net.TCPAddr {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
