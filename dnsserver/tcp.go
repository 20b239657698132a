package dnsserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
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

// serveConn answers the queries of a connection in their order: each is answered before the next is looked at, so none waits
// for another. Pipelined ones are read no faster than their answers are taken: nothing but one read and one write buffer is
// ever held for a client.
func (s *Server) serveConn(ctx context.Context, conn net.Conn, counts *shard) {
	in, out := bufio.NewReaderSize(conn, tcpBuffer), bufio.NewWriterSize(conn, tcpBuffer)
	r := &responder{server: s, counts: counts, patient: true}
	r.query.by, r.query.client = counts.by, clientOf(conn)
	r.peer, r.local = portOf(conn.RemoteAddr()), portOf(conn.LocalAddr())
	if secure, ok := conn.(*tls.Conn); ok {
		r.tlsVersion = secure.ConnectionState().Version
	}
	memory := make([]byte, 0, tcpAnswerMemory)
	for {
		if in.Buffered() == 0 {
			// The deadline is set before ctx is looked at: that of connections.end, past, is not lost.
			now := time.Now()
			_ = conn.SetReadDeadline(now.Add(tcpIdleTimeout))
			r.zones, r.now = s.opts.Zones(), uint32(now.Unix())
			if ctx.Err() != nil {
				break
			}
		}
		message := s.readMessage(in, counts)
		if message == nil {
			break
		}
		answer := r.respond(message, memory)
		_, _ = in.Discard(2 + len(message)) // the answer repeats it, so not before
		if r.wanted != nil {
			if s.serveCopy(ctx, conn, out, r) != nil {
				return
			}
			continue
		}
		if answer == nil || len(answer) > dns.MaxMsgSize {
			break
		}
		if len(answer)+2 > out.Available() || in.Buffered() == 0 {
			_ = conn.SetWriteDeadline(time.Now().Add(tcpWriteTime))
		}
		_, _ = out.Write([]byte{byte(len(answer) >> 8), byte(len(answer))}) // errors stay with the writer
		if _, err := out.Write(answer); err != nil {
			return
		}
		if in.Buffered() == 0 && out.Flush() != nil {
			return
		}
	}
	_ = conn.SetWriteDeadline(time.Now().Add(tcpWriteTime))
	_ = out.Flush()
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
