package testbed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Link is a TCP forwarder on a loopback port to one server, which can fail as networks do. It works for any protocol.
// Its methods may be called at any time and from any goroutine; faults add up until Heal. It ends with the test.
type Link struct {
	Address string // 127.0.0.1:port; stays for the link's life

	t        testing.TB
	target   string
	listener *net.TCPListener
	running  sync.WaitGroup // the accept loop and every connection's pumps

	mu       sync.Mutex
	faults   faults
	changed  chan struct{} // closed and replaced at each change of faults
	accepted chan struct{} // closed when the accept loop has ended
	conns    map[*linkConn]struct{}
}

// faults are what a link suffers; the zero value but for truncate is none.
type faults struct {
	cut, hold, garble bool
	delay             time.Duration
	truncate          int // bytes that a connection may still deliver, or unlimited
}

const unlimited = -1

// NewLink starts a link to target, a host:port, that forwards at once.
func NewLink(t testing.TB, target string) *Link {
	t.Helper()
	l := &Link{
		t: t, target: target, faults: faults{truncate: unlimited},
		changed: make(chan struct{}), conns: map[*linkConn]struct{}{},
	}
	listener, err := listenFree()
	if err != nil {
		t.Fatal(err)
	}
	l.listener, l.Address = listener, listener.Addr().String()
	l.startAccepting()
	t.Cleanup(func() {
		l.Cut()
		_ = l.listener.Close()
		l.running.Wait()
	})
	return l
}

// listenFree listens on a port that was chosen by number: the kernel keeps only such a port bound over a Cut.
func listenFree() (*net.TCPListener, error) {
	for range 100 {
		ports, err := freePorts(1)
		if err != nil {
			return nil, err
		}
		listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports[0]})
		if err == nil {
			return listener, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("listen for a link: %w", err)
		}
	}
	return nil, fmt.Errorf("listen for a link: %w", errPortTaken)
}

// Cut resets all connections and refuses new ones.
func (l *Link) Cut() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.faults.cut {
		return
	}
	l.faults.cut = true
	// A listening socket that is shut down refuses connections and keeps its port, which nobody else may share.
	l.control("refuse connections", func(fd int) error {
		return errors.Join(reuseAddress(fd, 0), syscall.Shutdown(fd, syscall.SHUT_RD))
	})
	l.resetConns(func(*linkConn) bool { return true })
	l.announce()
}

// Hold swallows: connections stay open, new ones are accepted, no byte passes either way (a partition).
func (l *Link) Hold() { l.set(func(f *faults) { f.hold = true }) }

// Slow delivers each chunk from the server d after it arrived, in order.
func (l *Link) Slow(d time.Duration) { l.set(func(f *faults) { f.delay = d }) }

// Garble damages bytes from the server (random flips, at least one in each chunk), on existing connections too.
func (l *Link) Garble() { l.set(func(f *faults) { f.garble = true }) }

// Truncate closes each connection, existing ones too, after n more bytes from the server.
func (l *Link) Truncate(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults.truncate = n
	for c := range l.conns {
		c.left = n
		if n == 0 {
			c.end(false)
		}
	}
	l.announce()
}

// Heal ends all faults: when it returns, new connections are served. What was held is delivered, or the connection is
// reset where its server has gone meanwhile. A connection that garbled bytes went through is reset: its stream would
// stay out of step for ever, which no healed network does.
func (l *Link) Heal() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.faults.cut {
		<-l.accepted
		// The connections before the cut may still wait on the port for their last packets.
		l.control("listen again", func(fd int) error {
			return errors.Join(reuseAddress(fd, 1), syscall.Listen(fd, syscall.SOMAXCONN))
		})
		l.startAccepting()
	}
	l.faults = faults{truncate: unlimited}
	l.resetConns(func(c *linkConn) bool { return c.damaged })
	for c := range l.conns {
		c.left = unlimited
	}
	l.announce()
}

func (l *Link) set(change func(*faults)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.faults)
	l.announce()
}

// announce wakes what waits for a change of faults; the caller holds mu.
func (l *Link) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// resetConns resets the connections that are chosen; the caller holds mu.
func (l *Link) resetConns(chosen func(*linkConn) bool) {
	for c := range l.conns {
		if chosen(c) {
			c.end(true)
		}
	}
}

func (l *Link) control(what string, do func(fd int) error) {
	l.t.Helper()
	raw, err := l.listener.SyscallConn()
	if err != nil {
		l.t.Errorf("link: %s: %v", what, err)
		return
	}
	var doErr error
	if err := errors.Join(raw.Control(func(fd uintptr) { doErr = do(int(fd)) }), doErr); err != nil {
		l.t.Errorf("link: %s: %v", what, err)
	}
}

func reuseAddress(fd, value int) error {
	return syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, value)
}

func (l *Link) startAccepting() {
	ended := make(chan struct{})
	l.accepted = ended
	l.running.Go(func() {
		defer close(ended)
		for {
			client, err := l.listener.AcceptTCP()
			if err != nil {
				return // cut, or the test is over
			}
			c := &linkConn{link: l, client: client, done: make(chan struct{})}
			l.running.Go(c.run)
		}
	})
}

// await blocks while the link holds, and until the delay after arrived is over. It is false when the connection has
// ended meanwhile.
func (l *Link) await(c *linkConn, arrived time.Time) bool {
	for {
		l.mu.Lock()
		hold, changed, left := l.faults.hold, l.changed, l.faults.delay-time.Since(arrived)
		l.mu.Unlock()
		if !hold && left <= 0 {
			return !c.ended()
		}
		var due <-chan time.Time
		if !hold {
			due = time.After(left)
		}
		select {
		case <-changed:
		case <-due:
		case <-c.done:
			return false
		}
	}
}

// damage flips a random bit in about one of sixteen bytes, and at least in one.
func damage(data []byte) {
	for range 1 + len(data)/16 {
		data[rand.IntN(len(data))] ^= 1 << rand.IntN(8)
	}
}
