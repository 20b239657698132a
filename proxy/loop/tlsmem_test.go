package loop_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

// pong is one end of a connection over which messages of one size go back and forth: the server answers each, the client
// sends the next one as long as it is to.
type pong struct {
	loop.Conn
	l      *loop.Loop
	server bool
	msg    []byte
	got    int
	rounds int
	idle   chan error // the client is told so after its last round
}

func (p *pong) Secured(err error) {
	switch {
	case err != nil:
		p.idle <- err
	case !p.server:
		p.send()
	}
}

func (p *pong) send() {
	if n, err := p.Write(p.msg); err != nil || n < len(p.msg) {
		p.idle <- fmt.Errorf("write: %d bytes, %w", n, err)
	}
}

func (p *pong) Ready(loop.Event) {
	for {
		n, err := p.Read(p.l.Shared())
		if errors.Is(err, syscall.EAGAIN) {
			return
		}
		if err != nil {
			p.idle <- err
			return
		}
		if p.got += n; p.got < len(p.msg) {
			continue
		}
		p.got = 0
		if p.server {
			p.send()
		} else if p.rounds--; p.rounds > 0 {
			p.send()
		} else {
			p.idle <- nil
		}
	}
}

// pongs connects two ends on one loop by TLS.
func pongs(t testing.TB, l *loop.Loop, server, client *tls.Config, msg []byte, rounds int, idle chan error) (s, c *pong) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s = &pong{l: l, server: true, msg: msg, idle: idle}
	c = &pong{l: l, msg: msg, rounds: rounds, idle: idle}
	do(t, l, func() {
		for i, p := range []*pong{s, c} {
			if err := p.Open(l, fds[i], p); err != nil {
				t.Error(err)
			}
		}
		s.Secure(server, true, s)
		c.Secure(client, false, c)
	})
	return s, c
}

func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// TestIdleTLSConnectionIsSmall bounds what an idle connection has, in the mean of servers' and clients'.
func TestIdleTLSConnectionIsSmall(t *testing.T) {
	server, client := configs(t)
	mutual := server.Clone()
	mutual.ClientAuth = tls.RequireAndVerifyClientCert
	noCert := client.Clone()
	noCert.Certificates = nil
	for _, tt := range []struct {
		name           string
		server, client *tls.Config
		size           int
		limit          uint64
	}{
		{"small requests", server, noCert, 300, 12 << 10},
		{"small requests, mTLS", mutual, client, 300, 12 << 10},
		{"16 KiB", server, noCert, 16 << 10, 12 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const conns = 250 // of two ends each
			l := run(t)
			idle := make(chan error, 2*conns)
			held := make([]*pong, 0, 2*conns)
			msg := make([]byte, tt.size)
			before := memory()
			for range conns {
				s, c := pongs(t, l, tt.server, tt.client, msg, 3, idle)
				held = append(held, s, c)
				if err := wait(t, "requests", idle); err != nil {
					t.Fatal(err)
				}
			}
			if tt.size > 4<<10 {
				do(t, l, func() {
					for _, p := range held {
						if large, trimmed := p.Idle(); !large || !trimmed {
							t.Fatalf("was there a large record: %v; was its memory given back: %v", large, trimmed)
						}
					}
				})
			}
			each := (memory() - before) / (2 * conns)
			t.Logf("%d bytes an idle connection", each)
			if each > tt.limit {
				t.Errorf("an idle connection has %d bytes, want %d at most", each, tt.limit)
			}
			do(t, l, func() {
				for _, p := range held {
					p.Close()
				}
			})
		})
	}
}

// TestTLSAllocations: over TLS a record that is read costs the one small allocation that crypto/tls makes for each read of
// what is under it, and nothing of ours; one that is written costs none.
func TestTLSAllocations(t *testing.T) {
	server, client := configs(t)
	for _, size := range []int{300, 16 << 10} {
		l := run(t)
		idle := make(chan error, 1)
		_, c := pongs(t, l, server, client, make([]byte, size), 100, idle)
		if err := wait(t, "requests", idle); err != nil {
			t.Fatal(err)
		}
		again := func() {
			c.rounds = 1
			c.send()
		}
		n := testing.AllocsPerRun(1000, func() {
			l.Post(again)
			if err := <-idle; err != nil {
				t.Fatal(err)
			}
		})
		if n > 2+lost {
			t.Errorf("%v allocations for two records of %d bytes, one in each direction, want 2", n, size)
		}
	}
}
