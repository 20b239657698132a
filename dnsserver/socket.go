package dnsserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// udpSocket is a bound UDP socket. One that is bound to all addresses learns to which address each query went, since
// the answer has to come from there.
type udpSocket struct {
	conn     *net.UDPConn
	wildcard bool
	v6       bool
}

func listenUDP(network string, addr netip.AddrPort) (*udpSocket, error) {
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	u := &udpSocket{conn: conn, wildcard: addr.Addr().IsUnspecified(), v6: addr.Addr().Is6()}
	if u.wildcard && u.v6 {
		err = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	} else if u.wildcard {
		err = ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst, true)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return u, nil
}

// source turns the control message of a query into the one of its answer.
func (u *udpSocket) source(control []byte) []byte {
	if u.v6 {
		var in ipv6.ControlMessage
		if in.Parse(control) != nil || in.Dst == nil || in.Dst.IsMulticast() {
			return nil
		}
		return (&ipv6.ControlMessage{Src: in.Dst}).Marshal()
	}
	var in ipv4.ControlMessage
	if in.Parse(control) != nil || in.Dst == nil || in.Dst.IsMulticast() {
		return nil
	}
	return (&ipv4.ControlMessage{Src: in.Dst}).Marshal()
}

func (s *Server) serveUDP(ctx context.Context, u *udpSocket) error {
	query := make([]byte, maxQueryBytes)
	out := make([]byte, maxUDPPayload)
	var control []byte
	if u.wildcard {
		control = make([]byte, 128)
	}
	for {
		n, controlled, flags, from, err := u.conn.ReadMsgUDPAddrPort(query, control)
		if errors.Is(err, net.ErrClosed) {
			return context.Cause(ctx)
		}
		if err != nil {
			// An ICMP error to an earlier answer is no failure of the socket. Should it be one, do not spin.
			s.stats.socketErrors.Add(1)
			time.Sleep(time.Millisecond)
			continue
		}
		if flags&unix.MSG_TRUNC != 0 {
			s.stats.ignored.Add(1)
			continue
		}
		answer := s.respond(query[:n], udp, out)
		if answer == nil {
			continue
		}
		var source []byte
		if u.wildcard {
			source = u.source(control[:controlled])
		}
		if _, _, err := u.conn.WriteMsgUDPAddrPort(answer, source, from); err != nil {
			s.stats.socketErrors.Add(1)
		}
	}
}

func (s *Server) serveTCP(ctx context.Context, l *net.TCPListener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return context.Cause(ctx)
		}
		if err != nil {
			s.stats.socketErrors.Add(1) // out of descriptors, most likely
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if !s.admit(ctx, conn) {
			s.stats.refusedConns.Add(1)
			_ = conn.Close()
			continue
		}
		conns.Go(func() {
			defer s.release(conn)
			s.serveConn(ctx, conn)
		})
	}
}

// admit takes a connection in, unless there are too many or the server is stopping.
func (s *Server) admit(ctx context.Context, conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxTCPConns || ctx.Err() != nil {
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

func (s *Server) release(conn net.Conn) {
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
	_ = conn.Close()
}

// serveConn answers the queries of a connection in their order. Pipelined ones are read no faster than their answers are
// taken: nothing but one read and one write buffer is ever held for a client.
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	r, w := bufio.NewReaderSize(conn, maxQueryBytes), bufio.NewWriterSize(conn, maxQueryBytes)
	query := make([]byte, 2+maxQueryBytes)
	out := make([]byte, 2*maxQueryBytes) // a larger answer is allocated
	for {
		// The deadline is set before ctx is looked at: closeSockets' own, past, one is not lost.
		_ = conn.SetReadDeadline(time.Now().Add(tcpIdleTimeout))
		if ctx.Err() != nil {
			break
		}
		if _, err := io.ReadFull(r, query[:2]); err != nil {
			break
		}
		n := int(binary.BigEndian.Uint16(query))
		if n < headerBytes || n > maxQueryBytes {
			s.stats.ignored.Add(1)
			break
		}
		if _, err := io.ReadFull(r, query[:n]); err != nil {
			break
		}
		answer := s.respond(query[:n], tcp, out)
		if answer == nil || len(answer) > dns.MaxMsgSize {
			break
		}
		_ = conn.SetWriteDeadline(time.Now().Add(tcpWriteTime))
		if _, err := w.Write(binary.BigEndian.AppendUint16(nil, uint16(len(answer)))); err != nil {
			return
		}
		if _, err := w.Write(answer); err != nil {
			return
		}
		if r.Buffered() == 0 {
			if w.Flush() != nil {
				return
			}
		}
	}
	_ = w.Flush()
}
