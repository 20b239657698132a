package takeover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// ends returns both ends of a conversation.
func ends(t testing.TB) (conn, conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var both [2]conn
	for i, fd := range pair {
		if both[i], err = newConn(fd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { both[i].Close() })
	}
	return both[0], both[1]
}

// pipes makes n descriptors, of which each can be told from the others.
func pipes(t *testing.T, n int) (ours []*os.File, theirs []int) {
	t.Helper()
	for range n {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs = append(ours, r), append(theirs, fd)
	}
	return ours, theirs
}

// recorder is an heir that remembers.
type recorder struct {
	main, left bool
	draining   []int
	adopted    []Connection
}

func (r *recorder) IsMain()                { r.main = true }
func (r *recorder) Left()                  { r.left = true }
func (r *recorder) Draining(n int)         { r.draining = append(r.draining, n) }
func (r *recorder) Adopt(all []Connection) { r.adopted = append(r.adopted, all...) }

// TestConversation: everything arrives, in its order and with its own descriptor, also when it takes several messages.
func TestConversation(t *testing.T) {
	const sockets, moved = 150, 130
	old, next := ends(t)
	_, given := pipes(t, sockets)
	readers, connections := pipes(t, moved)
	s := &Successor{PID: 1, conn: old}
	offer := Offer{Program: "one", State: State{Epoch: 3, Counters: map[string]uint64{"failures": 2}}}
	for i, fd := range given {
		offer.Sockets = append(offer.Sockets, Socket{FD: fd, Unit: i%3 == 0})
	}
	var want []Connection
	for i := range moved {
		c := Connection{Listener: "127.0.0.1:80", Peer: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.1:%d", i+1))}
		if i%2 == 0 {
			c.Direct, c.Local = netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("[2001:db8::1]:443")
		}
		want = append(want, c)
	}
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			if err := s.converse(t.Context(), &offer); err != nil {
				return err
			}
			all := append([]Connection(nil), want...)
			for i := range all {
				all[i].FD = connections[i]
			}
			defer s.Close()
			return errors.Join(s.IsMain(), s.Move(all), s.Left(), s.Draining(7))
		}()
	}()
	p := &Predecessor{conn: next}
	if err := p.hear("two"); err != nil {
		t.Fatal(err)
	}
	if len(p.Sockets) != sockets || !p.Sockets[3].Unit || p.Sockets[4].Unit || p.Program != "one" || p.State.Epoch != 3 || p.State.Counters["failures"] != 2 {
		t.Errorf("got %d sockets, program %q, state %+v", len(p.Sockets), p.Program, p.State)
	}
	if err := p.Ready(t.Context(), []string{"127.0.0.1:80"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Serving(); err != nil {
		t.Fatal(err)
	}
	var r recorder
	if err := p.Follow(t.Context(), &r); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if s.Program != "two" || len(s.Addresses) != 1 || !r.main || !r.left || !cmp.Equal(r.draining, []int{7, 0}) {
		t.Errorf("got program %q, addresses %q, %+v", s.Program, s.Addresses, r)
	}
	for i := range r.adopted {
		// What is written to the descriptor comes out of the pipe of the same number.
		text := fmt.Sprint(i)
		if _, err := unix.Write(r.adopted[i].FD, []byte(text)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 8)
		if n, err := readers[i].Read(buf); err != nil || string(buf[:n]) != text {
			t.Fatalf("connection %d leads to another: %q, %v", i, buf[:n], err)
		}
		unix.Close(r.adopted[i].FD)
		r.adopted[i].FD = 0
	}
	if diff := cmp.Diff(want, r.adopted, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("adopted (-want +got):\n%s", diff)
	}
}

// TestAnotherVersionIsRefused by both ends, which can tell why.
func TestAnotherVersionIsRefused(t *testing.T) {
	old, next := ends(t)
	foreign := &message{Kind: kindHello, Protocol: Version + 1, Program: "next"}
	if err := next.send(foreign); err != nil {
		t.Fatal(err)
	}
	err := (&Successor{conn: old}).offer(&Offer{Program: "one"})
	if want := `the other process ("next") hands over by version 2 of the protocol, want 1`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("the old process: got %v, want %s", err, want)
	}
	old, next = ends(t)
	if err := old.send(foreign); err != nil {
		t.Fatal(err)
	}
	if err := (&Predecessor{conn: next}).hear("one"); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("the new process: got %v", err)
	}
	if m, _, err := old.receive(); err != nil || m.Protocol != Version {
		t.Errorf("the old process does not hear which version the new one has: %+v, %v", m, err)
	}
}

// TestWhatIsOutOfPlaceEndsTheConversation with an error that says what it was.
func TestWhatIsOutOfPlaceEndsTheConversation(t *testing.T) {
	t.Run("kind", func(t *testing.T) {
		old, next := ends(t)
		_ = next.send(hello("two"))
		_ = next.send(&message{Kind: kindServing})
		if err := (&Successor{conn: old}).offer(&Offer{}); err == nil || !strings.Contains(err.Error(), `got message "serving", want ["ready"]`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("number of descriptors", func(t *testing.T) {
		old, next := ends(t)
		_ = old.send(hello("one"))
		_ = old.send(&message{Kind: kindSockets, Sockets: []socket{{}, {}}})
		if err := (&Predecessor{conn: next}).hear("two"); !errors.Is(err, errMismatch) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("end", func(t *testing.T) {
		old, next := ends(t)
		_ = old.send(hello("one"))
		old.Close()
		if err := (&Predecessor{conn: next}).hear("two"); !errors.Is(err, io.EOF) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("time", func(t *testing.T) {
		_, next := ends(t)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if err := (&Predecessor{conn: next}).Ready(ctx, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no successor takes a connection", func(t *testing.T) {
		old, next := ends(t)
		next.Close()
		_, fds := pipes(t, 1)
		if err := (&Successor{conn: old}).Move([]Connection{{FD: fds[0]}}); err == nil {
			t.Error("got no error")
		}
		if _, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
			t.Error("the descriptor is still open")
		}
	})
}

func TestInheritNothing(t *testing.T) {
	if p, err := Inherit(t.Context(), "two"); p != nil || err != nil {
		t.Errorf("got %v, %v without a predecessor", p, err)
	}
	t.Setenv(variable, "x")
	if _, err := Inherit(t.Context(), "two"); err == nil || !strings.Contains(err.Error(), `got MESH_PROXY_TAKEOVER="x", want a descriptor`) {
		t.Errorf("got %v", err)
	}
	if _, set := os.LookupEnv(variable); set {
		t.Error("a child would take over as well")
	}
}

// FuzzMessage: no message breaks who reads it, and none is taken with another number of descriptors than it speaks of.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"kind":"hello","protocol":1,"program":"v1","pid":7}`), 0)
	f.Add([]byte(`{"kind":"sockets","sockets":[{},{"unit":true}]}`), 2)
	f.Add([]byte(`{"kind":"moved","moved":[{"listener":"127.0.0.1:80","peer":"192.0.2.1:1"}]}`), 1)
	f.Add([]byte(`{"kind":"moved","moved":[{"peer":"nonsense"}]}`), 1)
	f.Add([]byte(`{"kind":"prepare","state":{"epoch":1,"started":"2026-01-02T03:04:05Z","counters":{"a":1}}}`), 0)
	f.Fuzz(func(t *testing.T, data []byte, fds int) {
		m, err := decode(data, fds)
		if err != nil {
			return
		}
		if m.Kind == kindSockets && len(m.Sockets) != fds || m.Kind == kindMoved && len(m.Moved) != fds {
			t.Errorf("took %q with %d descriptors", data, fds)
		}
	})
}
