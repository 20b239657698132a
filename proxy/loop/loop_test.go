package loop_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

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
		if l.Post(func() {}) {
			t.Error("Post to a loop that has ended reports that it will be called")
		}
	})
	return l
}

func do(t testing.TB, l *loop.Loop, f func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := l.Do(ctx, f); err != nil {
		t.Fatal(err)
	}
}

func TestTasksRunInOrder(t *testing.T) {
	l := run(t)
	var got []int
	for i := range 1000 {
		l.Post(func() { got = append(got, i) })
	}
	do(t, l, func() {})
	if len(got) != 1000 || !slices.IsSorted(got) {
		t.Errorf("%d tasks ran, in order: %v", len(got), slices.IsSorted(got))
	}
}

func TestRunEndsWithTheTasksPostedBefore(t *testing.T) {
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ran := false
	l.Post(func() { ran = true })
	if err := l.Run(ctx); err != nil || !ran {
		t.Errorf("Run: %v, task ran: %v", err, ran)
	}
	if err := l.Do(context.Background(), func() {}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Do on an ended loop: %v", err)
	}
}

type expirer func(*loop.Timer)

func (f expirer) Expired(t *loop.Timer) { f(t) }

func TestTimers(t *testing.T) {
	l := run(t)
	began := time.Now()
	type event struct {
		name  string
		after time.Duration
	}
	events := make(chan event, 10)
	note := func(name string) expirer {
		return func(*loop.Timer) { events <- event{name, time.Since(began)} }
	}
	var a, b, c, stopped, restarted loop.Timer
	do(t, l, func() {
		l.Start(&stopped, 10*time.Millisecond, note("stopped"))
		l.Start(&a, 60*time.Millisecond, note("60"))
		l.Start(&b, 30*time.Millisecond, note("30"))
		l.Start(&c, 60*time.Millisecond, note("60 again"))
		l.Start(&restarted, 30*time.Millisecond, note("too early"))
		l.Start(&restarted, 90*time.Millisecond, note("90"))
		stopped.Stop()
		stopped.Stop()
		l.Start(&stopped, 0, note("never"))
		if stopped.Running() || !a.Running() {
			t.Error("Running is wrong")
		}
	})
	// A loop that was held up may run several at once, those of one length in their order.
	earliest := map[string]time.Duration{"30": 30, "60": 60, "60 again": 60, "90": 90}
	for len(earliest) > 0 {
		select {
		case got := <-events:
			at, waited := earliest[got.name]
			if !waited || got.after < at*time.Millisecond {
				t.Errorf("%s after %v, want one of %v", got.name, got.after, earliest)
			}
			if _, first := earliest["60"]; got.name == "60 again" && first {
				t.Error("60 again before 60")
			}
			delete(earliest, got.name)
		case <-time.After(5 * time.Second):
			t.Fatalf("%v never ran out", earliest)
		}
	}
}

// TestIdleLoopSleeps: a loop without work takes no CPU, although its timers were started and stopped many times.
func TestIdleLoopSleeps(t *testing.T) {
	l := run(t)
	var timer loop.Timer
	do(t, l, func() {
		for range 1000 {
			l.Start(&timer, 50*time.Millisecond, expirer(func(*loop.Timer) { t.Error("a stopped timer ran out") }))
			timer.Stop()
		}
	})
	var before, after unix.Rusage
	time.Sleep(100 * time.Millisecond)
	_ = unix.Getrusage(unix.RUSAGE_SELF, &before)
	time.Sleep(300 * time.Millisecond)
	_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
	if cpu := time.Duration(after.Utime.Nano() - before.Utime.Nano() + after.Stime.Nano() - before.Stime.Nano()); cpu > 100*time.Millisecond {
		t.Errorf("an idle loop took %v of CPU in 300 ms", cpu)
	}
}

// echo is a connection that gets back what it sends.
type echo struct {
	loop.Socket
	l    *loop.Loop
	open *atomic.Int32
}

func (e *echo) Ready(loop.Event) {
	buf := e.l.Shared()
	for range 4 {
		n, err := e.Read(buf)
		if errors.Is(err, syscall.EAGAIN) {
			return
		}
		if err != nil {
			e.open.Add(-1)
			e.Close()
			return
		}
		if _, err := e.Write(buf[:n]); err != nil {
			e.open.Add(-1)
			e.Close()
			return
		}
	}
	e.Again()
}

type echoServer struct {
	loop.Socket
	l    *loop.Loop
	open atomic.Int32
}

func (s *echoServer) Ready(loop.Event) {
	for {
		fd, _, err := s.Accept()
		if err != nil {
			return
		}
		e := &echo{l: s.l, open: &s.open}
		if e.Open(s.l, fd, e) == nil {
			s.open.Add(1)
		}
	}
}

func listen(t testing.TB, addr string, l *loop.Loop) (netip.AddrPort, *echoServer) {
	t.Helper()
	fds, err := loop.Listen(netip.MustParseAddrPort(addr), 1)
	if err != nil {
		t.Fatal(err)
	}
	s := &echoServer{l: l}
	var at netip.AddrPort
	do(t, l, func() {
		if err := s.Open(l, fds[0], s); err != nil {
			t.Error(err)
		}
		at = s.LocalAddr()
	})
	t.Cleanup(func() { do(t, l, func() { s.Close(); s.Close() }) })
	return at, s
}

func TestSockets(t *testing.T) {
	l := run(t)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		at, s := listen(t, addr, l)
		for range 50 {
			conn, err := net.Dial("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				_, _ = io.WriteString(conn, "hello")
				var buf [5]byte
				if _, err := io.ReadFull(conn, buf[:]); err != nil || string(buf[:]) != "hello" {
					t.Fatalf("%q %v", buf, err)
				}
			}
			conn.Close()
		}
		for i := 0; s.open.Load() > 0; i++ {
			if i > 500 {
				t.Fatalf("%d connections were not seen to end", s.open.Load())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestNoAllocation: a round trip through a real loop, which parks in between, allocates nothing.
func TestNoAllocation(t *testing.T) {
	l := run(t)
	at, _ := listen(t, "127.0.0.1:0", l)
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buf := make([]byte, 16)
	round := func() {
		_, _ = conn.Write(buf)
		_, _ = io.ReadFull(conn, buf)
	}
	round()
	if n := testing.AllocsPerRun(2000, round); n > 0 {
		t.Errorf("%v allocations a round trip", n)
	}
}

func TestBuffers(t *testing.T) {
	l := run(t)
	do(t, l, func() {
		b := append(l.Buffer(10), "hello"...)
		for n := 1; n < 200_000; n *= 3 {
			b = l.Grow(b, n)
			if cap(b)-len(b) < n || string(b[:5]) != "hello" {
				t.Fatalf("Grow(%d): cap %d, %q", n, cap(b), b[:5])
			}
			b = b[:len(b)+n]
		}
		l.Release(b)
		l.Release(nil)
		small := l.Buffer(100)
		l.Release(small)
		if n := testing.AllocsPerRun(100, func() { l.Release(l.Buffer(100)) }); n > 0 {
			t.Errorf("%v allocations for a buffer that was released before", n)
		}
	})
}

func TestListenRefusesAnAddressInUse(t *testing.T) {
	fds, err := loop.Listen(netip.MustParseAddrPort("127.0.0.1:0"), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	sa, err := unix.Getsockname(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	if _, err := loop.Listen(addr, 1); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr.String()) {
		t.Errorf("a second Listen on %s: %v, want EADDRINUSE", addr, err)
	}
}

// TestStopSYN: with new connections held off, those in the queue are whole, and nobody gets into it.
func TestStopSYN(t *testing.T) {
	fds, err := loop.Listen(netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	sa, _ := unix.Getsockname(fds[0])
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port)).String()
	queued, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer queued.Close()
	if err := loop.StopSYN(fds[0]); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp", addr, 100*time.Millisecond); err == nil {
		conn.Close()
		t.Error("a connection came through")
	}
	l := run(t)
	s := &echoServer{l: l}
	do(t, l, func() {
		if err := s.Open(l, fds[0], s); err != nil {
			t.Fatal(err)
		}
		s.Ready(loop.In)
		s.Close()
	})
	if s.open.Load() != 1 {
		t.Fatalf("%d connections in the queue, want 1", s.open.Load())
	}
	_, _ = io.WriteString(queued, "x")
	var b [1]byte
	if _, err := io.ReadFull(queued, b[:]); err != nil {
		t.Errorf("the queued connection: %v", err)
	}
	runtime.KeepAlive(l)
}
