package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A loop takes and sends as many messages with one system call as there are, up to batch. It waits in Go's netpoller and makes
// its system calls, which never block, without telling the scheduler: at a few thousand queries a second that halves their
// price.
const (
	batch       = 64
	controlSize = 64 // bytes for the address that a query went to
)

// udpSocket is one loop's socket. All loops of an address share its port (SO_REUSEPORT). One that is bound to all addresses
// learns to which address each query went, since the answer has to come from there.
type udpSocket struct {
	conn     *net.UDPConn
	raw      syscall.RawConn
	wildcard bool
	v6       bool
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// listenUDP binds count sockets to an address. The first is bound alone, so that a port that another program has is refused,
// even if that one would share it.
func listenUDP(network string, addr netip.AddrPort, count int) (sockets []*udpSocket, err error) {
	defer func() {
		if err != nil {
			for _, u := range sockets {
				err = errors.Join(err, u.conn.Close())
			}
		}
	}()
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return sharePort(c) }}
	for len(sockets) < count {
		var conn net.PacketConn
		if len(sockets) == 0 {
			conn, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
		} else {
			conn, err = shared.ListenPacket(context.Background(), network, addr.String())
		}
		if err != nil {
			return sockets, err
		}
		u := &udpSocket{conn: conn.(*net.UDPConn), wildcard: addr.Addr().IsUnspecified(), v6: addr.Addr().Is6()}
		sockets = append(sockets, u)
		if err := u.prepare(); err != nil {
			return sockets, err
		}
	}
	return sockets, nil
}

// prepare sets what the server wants of a socket.
func (u *udpSocket) prepare() (err error) {
	if u.raw, err = u.conn.SyscallConn(); err != nil {
		return err
	}
	if err := sharePort(u.raw); err != nil {
		return err
	}
	return errors.Join(u.enlargeQueue(), u.forbidFragments(), u.learnDestinations())
}

func sharePort(c syscall.RawConn) error {
	var set error
	if err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); err != nil {
		return err
	}
	if set != nil {
		return fmt.Errorf("share the port: %w", set)
	}
	return nil
}

// queueBytes is what may wait in a socket while its loop does not run: the queries of a flood, and among them others'.
const queueBytes = 8 << 20

// enlargeQueue gives the socket as large a queue as the system lets this process have: beyond net.core.rmem_max only with
// CAP_NET_ADMIN.
func (u *udpSocket) enlargeQueue() error {
	if u.option("enlarge the queue", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queueBytes) == nil {
		return nil
	}
	return u.option("enlarge the queue", unix.SOL_SOCKET, unix.SO_RCVBUF, queueBytes)
}

// forbidFragments has answers, which are small enough for all links of today, go in one piece or not at all, whatever an ICMP message
// says of the way, which may be forged: of fragments the second can be forged too (RFC 9715).
func (u *udpSocket) forbidFragments() error {
	if u.v6 {
		return u.option("forbid fragments", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	return u.option("forbid fragments", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

func (u *udpSocket) learnDestinations() error {
	switch {
	case !u.wildcard:
		return nil
	case u.v6:
		return u.option("learn destinations", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return u.option("learn destinations", unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

func (u *udpSocket) option(what string, level, option, value int) error {
	var set error
	if err := u.raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), level, option, value) }); err != nil {
		return err
	}
	if set != nil {
		return fmt.Errorf("%s: %w", what, set)
	}
	return nil
}

// udpLoop is what a loop works with: memory for a batch in and out, all of it made once.
type udpLoop struct {
	responder
	socket *udpSocket

	in, out    [batch]mmsghdr
	inVec      [batch]unix.Iovec
	outVec     [batch]unix.Iovec
	names      [batch]unix.RawSockaddrInet6 // large enough for IPv4's
	control    [batch][controlSize]byte
	queries    [batch][maxQueryBytes]byte
	answers    [batch][maxUDPPayload]byte
	received   int
	sent, send int
	errno      syscall.Errno
}

func (s *Server) serveUDP(ctx context.Context, u *udpSocket, counts *shard) error {
	l := &udpLoop{socket: u, responder: responder{server: s, counts: counts}}
	l.query.by = udp
	serve, send := l.serve, l.sendAll // one allocation each
	for {
		if err := u.raw.Read(serve); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return context.Cause(ctx)
			}
			return fmt.Errorf("wait for DNS queries on %s: %w", u.conn.LocalAddr(), err)
		}
		if l.errno != 0 {
			// An ICMP error to an earlier answer is no failure of the socket. Should it be one, do not spin.
			s.socketErrors.Add(1)
			time.Sleep(time.Millisecond)
			continue
		}
		if err := u.raw.Write(send); err != nil {
			return context.Cause(ctx)
		}
	}
}

// serve answers what there is, and returns false to wait for more: a batch that is not full was all, and what came since wakes the
// loop up. It returns true when receiving failed, when the socket takes no more answers now, and when there may be more, so that who
// closes the socket is noticed.
func (l *udpLoop) serve(fd uintptr) bool {
	l.prepare()
	n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&l.in[0])), batch, unix.MSG_DONTWAIT, 0, 0)
	l.received, l.errno = 0, 0
	switch errno {
	case 0:
		l.received = int(n)
	case unix.EAGAIN:
		return false
	default:
		l.errno = errno
		return true
	}
	l.zones, l.now = l.server.opts.Zones(), uint32(time.Now().Unix())
	l.answerAll()
	return !l.sendAll(fd) || l.received == batch
}

// prepare makes the messages ready for a batch: the kernel has written to what was used before.
func (l *udpLoop) prepare() {
	used := l.received
	if l.in[0].hdr.Iov == nil {
		used = batch // the first time
	}
	for i := range used {
		l.inVec[i].Base = &l.queries[i][0]
		l.inVec[i].SetLen(maxQueryBytes)
		h := &l.in[i].hdr
		h.Iov, h.Name, h.Namelen = &l.inVec[i], (*byte)(unsafe.Pointer(&l.names[i])), unix.SizeofSockaddrInet6
		h.SetIovlen(1)
		if l.socket.wildcard {
			h.Control = &l.control[i][0]
			h.SetControllen(controlSize)
		}
	}
}

// answerAll answers a batch.
func (l *udpLoop) answerAll() {
	l.send, l.sent = 0, 0
	for i := range l.received {
		m := &l.in[i]
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			l.counts.ignored.Add(1)
			continue
		}
		l.query.client = l.client(i)
		if l.server.opts.Tap != nil {
			l.ends(i)
		}
		answer := l.respond(l.queries[i][:m.n], l.answers[l.send][:0])
		if answer == nil {
			if l.deferred {
				l.later(i)
			}
			continue
		}
		o := &l.out[l.send]
		l.outVec[l.send].Base = &answer[0]
		l.outVec[l.send].SetLen(len(answer))
		o.hdr = unix.Msghdr{Name: m.hdr.Name, Namelen: m.hdr.Namelen, Iov: &l.outVec[l.send]}
		o.hdr.SetIovlen(1)
		if l.socket.wildcard && l.socket.reply(l.control[i][:m.hdr.Controllen]) {
			o.hdr.Control = &l.control[i][0]
			o.hdr.SetControllen(int(m.hdr.Controllen))
		}
		l.send++
	}
}

// sendAll sends what is left of the batch; false means that the socket takes nothing now.
func (l *udpLoop) sendAll(fd uintptr) bool {
	for l.sent < l.send {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&l.out[l.sent])), uintptr(l.send-l.sent), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			l.sent += int(n)
		case unix.EAGAIN:
			return false
		default: // of the first that was not sent
			l.server.socketErrors.Add(1)
			l.sent++
		}
	}
	return true
}

// client is who sent a message.
func (l *udpLoop) client(i int) netip.Addr {
	name := &l.names[i]
	if name.Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr)
	}
	return netip.AddrFrom16(name.Addr)
}

// reply turns the control message of a query, in place, into the one of its answer, and says whether there is one.
func (u *udpSocket) reply(control []byte) bool {
	header := unix.CmsgLen(0)
	if len(control) < header {
		return false
	}
	data := control[header:]
	if u.v6 {
		if len(data) < unix.SizeofInet6Pktinfo || data[0] == 0xff { // a multicast address is nobody's
			return false
		}
		if !netip.AddrFrom16([16]byte(data[:16])).IsLinkLocalUnicast() {
			clear(data[16:20]) // let routing choose the interface
		}
		return true
	}
	if len(data) < unix.SizeofInet4Pktinfo || data[8]&0xf0 == 0xe0 {
		return false
	}
	// struct in_pktinfo is interface, source, destination. The source is the host's own address that the query came to; of a
	// broadcast it is the one that stands for it.
	clear(data[:4])
	clear(data[8:12])
	return true
}
