package takeover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"
)

// Predecessor is the process that this one takes over from.
type Predecessor struct {
	PID     int
	Program string
	Sockets []Socket // the caller's
	State   State

	conn conn
}

// Inherit finds out whether this process was started to take over from another, nil if not, and hears what it gets.
func Inherit(ctx context.Context, program string) (*Predecessor, error) {
	value, set := os.LookupEnv(variable)
	if !set {
		return nil, nil
	}
	_ = os.Unsetenv(variable)
	fd, err := strconv.Atoi(value)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("take over: got %s=%q, want a descriptor", variable, value)
	}
	syscall.CloseOnExec(fd)
	c, err := newConn(fd)
	if err != nil {
		return nil, fmt.Errorf("take over: %w", err)
	}
	p := &Predecessor{conn: c}
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if err := p.hear(program); err != nil {
		for _, s := range p.Sockets {
			closeAll([]int{s.FD})
		}
		c.Close()
		return nil, fmt.Errorf("take over: %w", err)
	}
	_ = c.SetDeadline(time.Time{})
	return p, nil
}

// hear takes all that is offered.
func (p *Predecessor) hear(program string) error {
	theirs, err := p.conn.greet()
	if err != nil {
		_ = p.conn.send(hello(program)) // so that it can say which version this is
		return err
	}
	p.PID, p.Program = theirs.PID, theirs.Program
	if err := p.conn.send(hello(program)); err != nil {
		return err
	}
	for {
		m, fds, err := p.conn.receive()
		if err != nil {
			return err
		}
		switch m.Kind {
		case kindSockets:
			for i, fd := range fds {
				p.Sockets = append(p.Sockets, Socket{FD: fd, Unit: m.Sockets[i].Unit})
			}
		case kindPrepare:
			if m.State != nil {
				p.State = *m.State
			}
			return nil
		default:
			return fmt.Errorf("got message %q, want %q or %q", m.Kind, kindSockets, kindPrepare)
		}
	}
}

// Ready says that all is prepared, and which addresses are served from then on, and waits for the word to go. An error
// means that the other process serves on, or is gone, and this one must accept nothing.
func (p *Predecessor) Ready(ctx context.Context, addresses []string) error {
	defer context.AfterFunc(ctx, func() { _ = p.conn.SetDeadline(time.Unix(1, 0)) })()
	if err := p.conn.send(&message{Kind: kindReady, Addresses: addresses}); err != nil {
		return fmt.Errorf("take over from process %d: %w", p.PID, err)
	}
	if _, err := p.conn.want(kindGo); err != nil {
		return fmt.Errorf("take over from process %d: %w", p.PID, err)
	}
	_ = p.conn.SetDeadline(time.Time{})
	return nil
}

// Serving says that connections are accepted.
func (p *Predecessor) Serving() error { return p.conn.send(&message{Kind: kindServing}) }

// Heir is told what comes from a predecessor that drains. The methods are called one after the other.
type Heir interface {
	IsMain()            // this is the service's main process now
	Adopt([]Connection) // the descriptors are the heir's
	Left()              // the other has left the ring of gossip
	Draining(int)       // the other has so many connections
}

// Follow has h told of everything until the predecessor is gone, or ctx ends.
func (p *Predecessor) Follow(ctx context.Context, h Heir) error {
	defer p.conn.Close()
	defer context.AfterFunc(ctx, func() { _ = p.conn.SetDeadline(time.Unix(1, 0)) })()
	// However it ends, nobody waits for what will not be said any more.
	defer func() { h.IsMain(); h.Left(); h.Draining(0) }()
	for {
		m, fds, err := p.conn.receive()
		switch {
		case ctx.Err() != nil, errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
			closeAll(fds)
			return nil
		case err != nil:
			return fmt.Errorf("follow process %d: %w", p.PID, err)
		}
		switch m.Kind {
		case kindMain:
			h.IsMain()
		case kindMoved:
			for i := range m.Moved {
				m.Moved[i].FD = fds[i]
			}
			h.Adopt(m.Moved)
		case kindLeft:
			h.Left()
		case kindDrain:
			h.Draining(m.Remaining)
		default:
			return fmt.Errorf("follow process %d: got message %q", p.PID, m.Kind)
		}
	}
}
