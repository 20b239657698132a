package dnsserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sockets returns copies of the sockets that Listen has bound for UDP and TCP, for another process that goes on with them as
// Options.Given. They are the caller's to close. What is asked while both have them is answered by either, and nothing that waits in them
// is lost when this one ends. It is called after Listen.
func (s *Server) Sockets() (fds []int, err error) {
	copied := func(from syscall.Conn) error {
		raw, err := from.SyscallConn()
		if err != nil {
			return err
		}
		var failed error
		err = raw.Control(func(fd uintptr) {
			var own int
			if own, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); failed == nil {
				fds = append(fds, own)
			}
		})
		return errors.Join(err, failed)
	}
	for _, l := range s.tcp {
		err = errors.Join(err, copied(l))
	}
	for _, u := range s.udp {
		err = errors.Join(err, copied(u.conn))
	}
	if err != nil {
		closeAll(fds)
		return nil, fmt.Errorf("copy DNS sockets: %w", err)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}

// adopt serves an address by the sockets that were given for it. Without them all it says false, and the address is to be bound.
func (s *Server) adopt(addr netip.AddrPort) (bool, error) {
	var tcp *net.TCPListener
	var udp []*udpSocket
	abandon := func() {
		if tcp != nil {
			_ = tcp.Close()
		}
		for _, u := range udp {
			_ = u.conn.Close()
		}
	}
	for _, fd := range s.opts.Given {
		if at, ok := boundAt(fd); !ok || at != addr {
			continue
		}
		l, conn, err := opened(fd)
		if l != nil && tcp == nil {
			tcp = l
		}
		if conn != nil {
			u := &udpSocket{conn: conn, wildcard: addr.Addr().IsUnspecified(), v6: addr.Addr().Is6()}
			udp = append(udp, u)
			err = u.prepare()
		}
		if err != nil {
			abandon()
			return false, fmt.Errorf("take over socket: %w", err)
		}
	}
	if tcp == nil || len(udp) == 0 {
		abandon()
		return false, nil
	}
	s.tcp, s.udp, s.addrs = append(s.tcp, tcp), append(s.udp, udp...), append(s.addrs, addr)
	return true, nil
}

// boundAt is where a socket is bound.
func boundAt(fd int) (netip.AddrPort, bool) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, false
	}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port)), true
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), uint16(name.Port)), true
	}
	return netip.AddrPort{}, false
}

// opened returns a copy of a socket as what it is.
func opened(fd int) (*net.TCPListener, *net.UDPConn, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, nil, err
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(own), "dns")
	defer file.Close()
	if kind == unix.SOCK_STREAM {
		l, err := net.FileListener(file)
		if err != nil {
			return nil, nil, err
		}
		return l.(*net.TCPListener), nil, nil
	}
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, nil, err
	}
	return nil, conn.(*net.UDPConn), nil
}
