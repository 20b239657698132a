package takeover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// variable tells the new process by which descriptor it hears of the old one.
const variable = "MESH_PROXY_TAKEOVER"

const (
	// moveTime is how long a successor may take to hear something before it is taken for stuck.
	moveTime = 5 * time.Second
	// beginTime is how long one that is ready may take to begin.
	beginTime = 10 * time.Second
)

// Offer is what a process hands over, and to whom.
type Offer struct {
	Program string   // version of this one, for logs
	Path    string   // of the program to start
	Args    []string // with its name
	Env     []string
	// Sockets are all listening sockets. They stay the caller's.
	Sockets []Socket
	State   State
}

// Successor is a process that has taken over.
type Successor struct {
	PID     int
	Program string
	// Addresses are those of the sockets that it serves. Of the others the queues are the caller's to empty.
	Addresses []string

	conn    conn
	process *os.Process
}

// Start starts the new process and returns when it serves. When it is not ready within ctx, or ends, it is killed and an
// error returned; it has accepted no connection then. ctx is of no account any more when it is ready: it is told to begin, and only one that
// ends then, or says nothing for 10 s, takes with it what it has accepted.
//
// The new process is no child of this one but of this one's parent: a service manager hears of its end.
func Start(ctx context.Context, o Offer) (*Successor, error) {
	if os.Getpid() == 1 {
		return nil, errors.New("start successor: this is process 1, whose end would be that of all others")
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("start successor: %w", err)
	}
	c, err := newConn(pair[0])
	if err != nil {
		unix.Close(pair[1])
		return nil, err
	}
	s := &Successor{conn: c}
	theirs := os.NewFile(uintptr(pair[1]), "takeover")
	s.process, err = os.StartProcess(o.Path, o.Args, &os.ProcAttr{
		Env:   append(withoutVariable(o.Env), variable+"=3"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Cloneflags: syscall.CLONE_PARENT},
	})
	theirs.Close()
	if err == nil {
		s.PID = s.process.Pid
		err = s.converse(ctx, &o)
	}
	if err != nil {
		if s.process != nil {
			_ = s.process.Kill()
			_ = s.process.Release()
		}
		c.Close()
		return nil, fmt.Errorf("start successor: %w", err)
	}
	_ = s.process.Release()
	return s, nil
}

// converse is the conversation up to the point where the successor serves. It may take as long as ctx lasts to be ready; what it accepts
// when it was told to go must not be lost because that time is over.
func (s *Successor) converse(ctx context.Context, o *Offer) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	err := s.offer(o)
	if inTime := stop(); !inTime {
		return fmt.Errorf("process %d was not ready in time and was killed", s.PID)
	}
	if err != nil {
		return s.explain(err, "was ready")
	}
	_ = s.conn.SetDeadline(time.Now().Add(beginTime))
	if err = s.conn.send(&message{Kind: kindGo}); err == nil {
		_, err = s.conn.want(kindServing)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("process %d was ready, was told to go, did not say within %v that it serves, and was killed", s.PID, beginTime)
	case err != nil:
		return s.explain(err, "served")
	}
	_ = s.conn.SetDeadline(time.Time{})
	return nil
}

// explain says of an error that is the end of the process how far it was.
func (s *Successor) explain(err error, before string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("process %d ended before it %s: its own log says why", s.PID, before)
	}
	return err
}

// offer is the conversation up to the point where the successor is ready.
func (s *Successor) offer(o *Offer) error {
	if err := s.conn.send(hello(o.Program)); err != nil {
		return err
	}
	theirs, err := s.conn.greet()
	if err != nil {
		return err
	}
	s.Program = theirs.Program
	for rest := o.Sockets; len(rest) > 0; {
		n := min(MaxFDs, len(rest))
		m, fds := &message{Kind: kindSockets}, make([]int, n)
		for i := range n {
			m.Sockets, fds[i] = append(m.Sockets, socket{rest[i].Unit}), rest[i].FD
		}
		if err := s.conn.send(m, fds...); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := s.conn.send(&message{Kind: kindPrepare, State: &o.State}); err != nil {
		return err
	}
	ready, err := s.conn.want(kindReady)
	if err != nil {
		return err
	}
	s.Addresses = ready.Addresses
	return nil
}

// IsMain tells the successor that it is the main process of its service.
func (s *Successor) IsMain() error { return s.conn.send(&message{Kind: kindMain}) }

// Left tells it that nobody stands for this host in the ring of gossip any more.
func (s *Successor) Left() error { return s.conn.send(&message{Kind: kindLeft}) }

// Draining tells it how many connections this process still has.
func (s *Successor) Draining(remaining int) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(moveTime))
	return s.conn.send(&message{Kind: kindDrain, Remaining: remaining})
}

// Move sends connections. The descriptors are closed, whether or not it has them now.
func (s *Successor) Move(all []Connection) error {
	for _, c := range all {
		defer unix.Close(c.FD)
	}
	for len(all) > 0 {
		_ = s.conn.SetWriteDeadline(time.Now().Add(moveTime))
		n := min(MaxFDs, len(all))
		m, fds := &message{Kind: kindMoved, Moved: all[:n]}, make([]int, n)
		for i := range n {
			fds[i] = all[i].FD
		}
		if err := s.conn.send(m, fds...); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// Close ends the conversation: nothing more will come.
func (s *Successor) Close() error { return s.conn.Close() }

func withoutVariable(env []string) []string {
	var out []string
	for _, v := range env {
		if !strings.HasPrefix(v, variable+"=") {
			out = append(out, v)
		}
	}
	return out
}
