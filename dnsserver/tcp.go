package dnsserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Bounds on what one client, or all together, can take of connections.
const (
	maxQueryBytes   = 4096
	maxConns        = 1024
	maxSourceConns  = 128 // of an IPv4 address or a /56 of IPv6, but for the host itself
	tcpIdleTimeout  = 10 * time.Second
	tcpWriteTime    = 5 * time.Second
	handshakeTime   = 5 * time.Second
	tcpBuffer       = 2 + maxQueryBytes
	tcpAnswerMemory = 2048 // for each connection; a larger answer is allocated
	maxConnAwaited  = 32   // queries of a connection that wait beside each other; of all, mostAwaited
)

// connections are those that are open, of all transports.
type connections struct {
	mu      sync.Mutex
	open    map[net.Conn]netip.Addr // guarded by mu; by their sources
	sources map[netip.Addr]int      // guarded by mu; how many each has
	closing bool                    // guarded by mu
}

func newConnections() *connections {
	return &connections{open: map[net.Conn]netip.Addr{}, sources: map[netip.Addr]int{}}
}

// source is what connections are counted by.
func source(client netip.Addr) netip.Addr {
	if client.Is6() {
		if prefix, err := client.WithZone("").Prefix(56); err == nil {
			return prefix.Addr()
		}
	}
	return client
}

// admit takes a connection in, unless there are too many or the server is stopping.
func (c *connections) admit(conn net.Conn) bool {
	from := clientOf(conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	key := source(from)
	if len(c.open) >= maxConns || c.closing || !from.IsLoopback() && c.sources[key] >= maxSourceConns {
		return false
	}
	c.open[conn] = key
	c.sources[key]++
	return true
}

func (c *connections) release(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key, ok := c.open[conn]
	if !ok {
		return
	}
	delete(c.open, conn)
	if c.sources[key]--; c.sources[key] <= 0 {
		delete(c.sources, key)
	}
}

// end lets no connection in any more and wakes those that wait for a query.
func (c *connections) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	for conn := range c.open {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // the answer at hand is still written
	}
}

// clientOf is the address at the other end.
func clientOf(conn net.Conn) netip.Addr { return portOf(conn.RemoteAddr()).Addr() }

// portOf is one end of a connection.
func portOf(end net.Addr) netip.AddrPort {
	if addr, ok := end.(*net.TCPAddr); ok {
		return netip.AddrPortFrom(addr.AddrPort().Addr().Unmap(), addr.AddrPort().Port())
	}
	return netip.AddrPort{}
}

// serveStream serves a listener's connections, over TLS when it has a configuration.
func (s *Server) serveStream(ctx context.Context, l *net.TCPListener, counts *shard, config *tls.Config) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return context.Cause(ctx)
		}
		if err != nil {
			s.socketErrors.Add(1) // out of descriptors, most likely
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if !s.conns.admit(conn) {
			s.refusedConns.Add(1)
			_ = conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() {
				s.conns.release(conn)
				_ = conn.Close()
			}()
			if config == nil {
				s.serveConn(ctx, conn, counts)
				return
			}
			secure := tls.Server(conn, config)
			_ = conn.SetDeadline(time.Now().Add(handshakeTime))
			if ctx.Err() == nil && secure.HandshakeContext(ctx) == nil {
				_ = conn.SetWriteDeadline(time.Time{})
				s.serveConn(ctx, secure, counts)
				_ = conn.SetDeadline(time.Now().Add(time.Second))
				_ = secure.Close()
			}
		})
	}
}

// stream is a connection that queries come by. Its reader answers in their order what can be answered at once. What has to wait does so on
// a goroutine of its own and is answered when it can be: no query waits for another (RFC 7766 §6.2.1.1).
type stream struct {
	server  *Server
	conn    net.Conn
	waiting atomic.Int64   // queries
	later   sync.WaitGroup // their goroutines

	mu  sync.Mutex
	out *bufio.Writer // guarded by mu
}

// serveConn answers the queries of a connection. Pipelined ones are read no faster than their answers are taken: nothing but one read
// and one write buffer, and the few queries that wait, is ever held for a client.
func (s *Server) serveConn(ctx context.Context, conn net.Conn, counts *shard) {
	in := bufio.NewReaderSize(conn, tcpBuffer)
	c := &stream{server: s, conn: conn, out: bufio.NewWriterSize(conn, tcpBuffer)}
	defer c.finish()
	r := &responder{server: s, counts: counts}
	r.query.by, r.query.client = counts.by, clientOf(conn)
	r.peer, r.local = portOf(conn.RemoteAddr()), portOf(conn.LocalAddr())
	if secure, ok := conn.(*tls.Conn); ok {
		r.tlsVersion = secure.ConnectionState().Version
	}
	memory := make([]byte, 0, tcpAnswerMemory)
	for {
		if !ready(in) {
			// The deadline is set before ctx is looked at: that of connections.end, past, is not lost.
			now := time.Now()
			_ = conn.SetReadDeadline(now.Add(tcpIdleTimeout))
			r.zones, r.now = s.opts.Zones(), uint32(now.Unix())
			if ctx.Err() != nil {
				return
			}
		}
		message := s.readMessage(in, counts)
		if message == nil {
			return
		}
		answer := r.respond(message, memory)
		later := r.deferred && c.answerLater(r, message)
		if r.deferred && !later { // the connection waits with it
			c.flush()
			r.patient = true
			answer = r.respond(message, memory)
			r.patient = false
		}
		_, _ = in.Discard(2 + len(message)) // the answer repeats it, so not before
		switch {
		case later:
			if !ready(in) {
				c.flush()
			}
		case r.wanted != nil:
			c.finish() // nobody else writes now
			if s.serveCopy(ctx, conn, c.out, r) != nil {
				return
			}
		case !c.write(answer, !ready(in)):
			return
		}
	}
}

// ready says whether a whole message is there, so that nobody waits for it.
func ready(in *bufio.Reader) bool {
	if in.Buffered() < 2 {
		return false
	}
	size, _ := in.Peek(2)
	return in.Buffered() >= 2+int(binary.BigEndian.Uint16(size))
}

// answerLater answers a query when it can be, unless too many wait already. The message is the caller's again when it returns.
func (c *stream) answerLater(r *responder, message []byte) bool {
	s := c.server
	if c.waiting.Load() >= maxConnAwaited {
		return false
	}
	if s.awaitedStreams.Add(1) > mostAwaited {
		s.awaitedStreams.Add(-1)
		return false
	}
	c.waiting.Add(1)
	message, patient := bytes.Clone(message), r.patiently()
	c.later.Go(func() {
		defer s.awaitedStreams.Add(-1)
		defer c.waiting.Add(-1)
		if !c.write(patient.respond(message, make([]byte, 0, maxUDPPayload)), true) {
			_ = c.conn.Close() // its reader notices
		}
	})
	return true
}

// write writes an answer, false where there is none or the connection takes none.
func (c *stream) write(answer []byte, flush bool) bool {
	if answer == nil || len(answer) > dns.MaxMsgSize {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if flush || len(answer)+2 > c.out.Available() {
		_ = c.conn.SetWriteDeadline(time.Now().Add(tcpWriteTime))
	}
	_, _ = c.out.Write([]byte{byte(len(answer) >> 8), byte(len(answer))}) // errors stay with the writer
	if _, err := c.out.Write(answer); err != nil {
		return false
	}
	return !flush || c.out.Flush() == nil
}

// flush sends what is written. An error stays with the writer.
func (c *stream) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(tcpWriteTime))
	_ = c.out.Flush()
}

// finish sends what is written and waits until what waits is answered.
func (c *stream) finish() {
	c.flush()
	c.later.Wait()
}

// readMessage returns a message that is good until it is discarded, nil when the connection is to end.
func (s *Server) readMessage(in *bufio.Reader, counts *shard) []byte {
	size, err := in.Peek(2)
	if err != nil {
		return nil
	}
	n := int(binary.BigEndian.Uint16(size))
	if n < headerBytes || n > maxQueryBytes {
		counts.ignored.Add(1)
		return nil
	}
	message, err := in.Peek(2 + n)
	if err != nil {
		return nil
	}
	return message[2:]
}
