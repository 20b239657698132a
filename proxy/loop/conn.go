package loop

import (
	"crypto/x509"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Conn is a connection on a loop: a plain socket, or TLS over one once it was told to Secure it. Whoever reads and writes
// does not know the difference: events, errors and what a short read or write means are those of [Socket]. Beyond
// Socket's errors there are TLS's own, and io.ErrUnexpectedEOF for an end that the peer did not announce (close_notify).
//
// Peek, Detach, Fill and Drain see the socket's own bytes: they are for a plain connection, and before Secure.
type Conn struct {
	Socket
	tls *session // nil: plain
}

// State is what a handshake agreed on. It does not change.
type State struct {
	ALPN    string // "": none
	SNI     string // what the client asked for
	Version uint16
	Cipher  uint16
	Resumed bool
	Peer    []*x509.Certificate   // as the peer sent them, its own first
	Chains  [][]*x509.Certificate // as they were verified
	Note    any                   // what the connection's user keeps with it, nil at first; on the loop
}

// Open puts fd on the loop as a plain connection; all else is as with Socket.Open.
func (c *Conn) Open(l *Loop, fd int, h Handler) error {
	c.tls = nil
	return c.Socket.Open(l, fd, h)
}

// Dial starts a plain connection to addr; all else is as with Socket.Dial.
func (c *Conn) Dial(l *Loop, addr netip.AddrPort, h Handler) error {
	c.tls = nil
	return c.Socket.Dial(l, addr, h)
}

// DialUnix starts a plain connection to a unix socket; all else is as with Socket.DialUnix.
func (c *Conn) DialUnix(l *Loop, path string, h Handler) error {
	c.tls = nil
	return c.Socket.DialUnix(l, path, h)
}

// Plain reports whether the bytes of the connection are those of the socket.
func (c *Conn) Plain() bool { return c.tls == nil }

// TLS is what the handshake agreed on; nil for a plain connection and before the handshake is done.
func (c *Conn) TLS() *State {
	if c.tls == nil {
		return nil
	}
	return c.tls.state
}

// SetHandler has events go to h from now on.
func (c *Conn) SetHandler(h Handler) {
	if c.tls == nil {
		c.handler = h
		return
	}
	c.tls.handler = h
}

// Take makes c, which must be closed, the open connection that from was, which is closed then without an end of the
// connection itself. Events go to h, which is told again of all that is true. It may be called from Secured, and
// during a handshake.
func (c *Conn) Take(from *Conn, h Handler) {
	*c = Conn{Socket: from.Socket, tls: from.tls}
	from.gaveUp()
	from.tls = nil
	c.queued = false
	at := &c.loop.slots[c.fd]
	at.socket = &c.Socket
	if c.tls == nil {
		c.handler = h
	} else {
		c.tls.conn, c.tls.handler = c, h
		c.tls.told = Out
		c.Again() // for what TLS has buffered
	}
	e := unix.EpollEvent{Events: interest, Fd: int32(c.fd), Pad: int32(at.gen)}
	_, _, _ = syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(c.loop.epfd), unix.EPOLL_CTL_MOD, uintptr(c.fd), uintptr(unsafe.Pointer(&e)), 0, 0)
}

// Read reads into p, which must not be empty; as Socket.Read. Fewer bytes than asked for mean also over TLS that there is
// nothing more now; an error behind them is kept, and the handler told to come for it.
func (c *Conn) Read(p []byte) (int, error) {
	if c.tls == nil {
		return c.Socket.Read(p)
	}
	return c.tls.read(p)
}

// Write sends what of p is taken; as Socket.Write. Over TLS that is what was encrypted: the kernel may not have taken all
// of it yet (see Pending), and nothing more is encrypted then.
func (c *Conn) Write(p []byte) (int, error) {
	if c.tls == nil {
		return c.Socket.Write(p)
	}
	return c.tls.write(p)
}

// Pending reports whether something that was written waits in the connection, a record of TLS at most: to close it now
// would cut that off. The handler is told Out when it is gone, and not before.
func (c *Conn) Pending() bool { return c.tls != nil && len(c.tls.pending) > 0 }

// Unsent is how many bytes of what was written the peer's kernel has not confirmed; over a unix socket, how much memory has what the
// peer has not read.
func (c *Conn) Unsent() int {
	n, err := unix.IoctlGetInt(c.fd, unix.SIOCOUTQ)
	if err != nil { // the socket is closed
		n = 0
	}
	if c.tls != nil {
		n += len(c.tls.pending) - c.tls.sent
	}
	return n
}

// CloseWrite tells the peer that nothing more will be sent, behind what is pending; over TLS by close_notify and the
// end of the socket's bytes.
func (c *Conn) CloseWrite() {
	if c.tls == nil {
		c.Socket.CloseWrite()
		return
	}
	c.tls.closeWrite()
}

// Close closes the connection; no event of it is told any more. Over TLS the peer is told that the end is in good order,
// unless something is pending, the connection broke, or ResetOnClose was called. Close ends a handshake; Secured is not
// called then. Closing a closed connection does nothing.
func (c *Conn) Close() {
	if c.tls == nil {
		c.Socket.Close()
		return
	}
	s := c.tls
	c.tls = nil
	s.close()
}

// ResetOnClose has Close reset the connection, so that the peer does not take it for an orderly end.
func (c *Conn) ResetOnClose() {
	if c.tls != nil {
		c.tls.reset = true
	}
	c.Socket.ResetOnClose()
}

// Quiet reports whether nothing can be read now, neither bytes nor the end. Messages of TLS itself are no bytes.
func (c *Conn) Quiet() bool {
	if c.tls == nil {
		return c.Socket.Quiet()
	}
	return c.tls.quiet()
}
