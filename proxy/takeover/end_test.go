package takeover

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestASuccessorEnds, or is late, at each point of the conversation: the old process hears of it and knows how far it was. Time is of no
// account once the successor is ready: what it accepts from then on must not be lost.
func TestASuccessorEnds(t *testing.T) {
	ready := func(t *testing.T, p *Predecessor) {
		if err := p.Ready(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		name string
		next func(t *testing.T, p *Predecessor, late func()) // after it has heard everything
		want string                                          // empty: it has taken over
		gone bool                                            // afterwards
	}{
		{"before it is ready", func(_ *testing.T, p *Predecessor, _ func()) { p.conn.Close() }, "ended before it was ready", true},
		{"before it is told to go", func(_ *testing.T, p *Predecessor, _ func()) {
			_ = p.conn.send(&message{Kind: kindReady})
			p.conn.Close()
		}, "ended before it served", true},
		{"when it is told to go", func(t *testing.T, p *Predecessor, _ func()) {
			ready(t, p)
			p.conn.Close()
		}, "ended before it served", true},
		{"when it serves", func(t *testing.T, p *Predecessor, _ func()) {
			ready(t, p)
			_ = p.Serving()
			p.conn.Close()
		}, "", true},
		{"late to be ready", func(_ *testing.T, p *Predecessor, late func()) { late() }, "was not ready in time", false},
		{"late to serve", func(t *testing.T, p *Predecessor, late func()) {
			ready(t, p)
			late()
			_ = p.Serving()
		}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, conn := ends(t)
			ctx, late := context.WithCancel(t.Context())
			defer late()
			done := make(chan struct{})
			go func() {
				defer close(done)
				p := &Predecessor{conn: conn}
				if err := p.hear("two"); err != nil {
					t.Error(err)
					return
				}
				c.next(t, p, late)
			}()
			s := &Successor{PID: 7, conn: old}
			err := s.converse(ctx, &Offer{Program: "one"})
			<-done
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), "process 7 "+c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if c.want != "" {
				return
			}
			_, fds := pipes(t, 1)
			for what, err := range map[string]error{"main": s.IsMain(), "draining": s.Draining(1), "move": s.Move([]Connection{{FD: fds[0]}})} {
				if (err != nil) != c.gone {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

// TestAPredecessorEnds at each point: the new process accepts nothing that it was not told to, and when it was, it is alone and goes on
// as one that has heard everything.
func TestAPredecessorEnds(t *testing.T) {
	for _, c := range []struct {
		name   string
		say    []string // before the end
		served bool
		want   recorder
	}{
		{"before go", nil, false, recorder{}},
		{"after go", []string{kindGo}, true, recorder{main: true, left: true, draining: []int{0}}},
		{"while it drains", []string{kindGo, kindMain, kindDrain}, true, recorder{main: true, left: true, draining: []int{0, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, next := ends(t)
			go func() {
				_, _ = conn.want(kindReady)
				for i, kind := range c.say {
					if i == 1 {
						_, _ = conn.want(kindServing)
					}
					_ = conn.send(&message{Kind: kind})
				}
				conn.Close()
			}()
			p := &Predecessor{conn: next}
			err := p.Ready(t.Context(), nil)
			if (err == nil) != c.served {
				t.Fatalf("got %v, told to go: %v", err, c.served)
			}
			if err != nil {
				return
			}
			if err := p.Serving(); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
			var got recorder
			if err := p.Follow(t.Context(), &got); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(recorder{})); diff != "" {
				t.Errorf("heard (-want +got):\n%s", diff)
			}
		})
	}
}
