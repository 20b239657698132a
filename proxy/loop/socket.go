package loop

import (
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interest is what sockets are registered for, once.
const interest = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// Socket is a non-blocking descriptor on a loop. The zero Socket is closed. It is embedded in what uses it and may be
// opened again after it was closed.
type Socket struct {
	loop    *Loop
	handler Handler
	fd      int
	open    bool
	queued  bool // for a turn
	secured bool // its bytes are those of TLS
}

// Open puts fd, which must be non-blocking, on the loop and owns it from then on (also when it fails: then it is closed).
// Events go to h.
func (s *Socket) Open(l *Loop, fd int, h Handler) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, make([]slot, max(64, fd+1-len(l.slots)))...)
	}
	at := &l.slots[fd]
	at.gen++
	e := unix.EpollEvent{Events: interest, Fd: int32(fd), Pad: int32(at.gen)}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epfd), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	if errno != 0 {
		closeFD(fd)
		return fmt.Errorf("register descriptor: %w", errno)
	}
	at.socket = s
	*s = Socket{loop: l, handler: h, fd: fd, open: true}
	return nil
}

// IsOpen reports whether the socket is open.
func (s *Socket) IsOpen() bool { return s.open }

// FD is the descriptor of an open socket.
func (s *Socket) FD() int { return s.fd }

// SetHandler has events go to h from now on.
func (s *Socket) SetHandler(h Handler) { s.handler = h }

// Again asks for another call of the handler, with In and Retry, when the other sockets had their turn.
func (s *Socket) Again() {
	if s.open && !s.queued {
		s.queued = true
		s.loop.again = append(s.loop.again, s)
	}
}

// Close closes the socket; no event of it is told any more. Closing a closed socket does nothing.
func (s *Socket) Close() {
	if !s.open {
		return
	}
	closeFD(s.gaveUp())
}

// gaveUp takes the descriptor from the socket, which is closed then and cannot reach whoever is given its number next.
func (s *Socket) gaveUp() (fd int) {
	fd = s.fd
	s.loop.slots[fd].socket = nil
	s.open, s.queued, s.fd = false, false, -1
	return fd
}

func closeFD(fd int) { _, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// ResetOnClose has Close reset the connection, so that the peer does not take it for an orderly end.
func (s *Socket) ResetOnClose() {
	_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// Read reads into p, which must not be empty. The error is io.EOF at the end, syscall.EAGAIN when there is nothing now,
// or another syscall.Errno. Fewer bytes than asked for mean that there is nothing more now, unless the peer has
// closed its side.
func (s *Socket) Read(p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0, 0, 0)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		}
		return int(n), nil
	}
}

// Write sends what of p the kernel takes. The error is nil when that was all, syscall.EAGAIN when it was less, or
// another syscall.Errno.
func (s *Socket) Write(p []byte) (int, error) { return s.send(p, false) }

// send is Write; more says that other bytes follow at once, and the kernel should wait for them before it sends a part of a
// packet.
func (s *Socket) send(p []byte, more bool) (int, error) {
	flags := uintptr(unix.MSG_NOSIGNAL)
	if more {
		flags |= unix.MSG_MORE
	}
	sent := 0
	for sent < len(p) {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(unsafe.Pointer(&p[sent])), uintptr(len(p)-sent), flags, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return sent, errno
		}
		sent += int(n)
	}
	return sent, nil
}

// CloseWrite tells the peer that nothing more will be sent.
func (s *Socket) CloseWrite() {
	_, _, _ = syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(s.fd), unix.SHUT_WR, 0)
}

// Failure takes the error that is pending on the socket, e.g. of a connect; 0 is none.
func (s *Socket) Failure() syscall.Errno {
	v, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return syscall.EBADF
	}
	return syscall.Errno(v)
}

// Quiet reports whether nothing can be read from the socket now, neither bytes nor its end.
func (s *Socket) Quiet() bool {
	var b [1]byte
	_, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&b[0])), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return errno == syscall.EAGAIN
}

// Accept takes a connection from a listening socket. The error is syscall.EAGAIN when there is none.
func (s *Socket) Accept() (fd int, peer netip.AddrPort, err error) {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(s.fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		if errno == syscall.EINTR || errno == syscall.ECONNABORTED {
			continue
		}
		if errno != 0 {
			return -1, netip.AddrPort{}, errno
		}
		return int(n), addrPort(&sa), nil
	}
}

// Dial starts a connection to addr and puts it on the loop: the handler sees Out when it is there (or Err, see Failure).
func (s *Socket) Dial(l *Loop, addr netip.AddrPort, h Handler) error {
	family, sa, size := sockaddr(addr)
	fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return errno
	}
	one := int32(1)
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, uintptr(unsafe.Pointer(&one)), 4, 0)
	_, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), uintptr(size))
	if errno != 0 && errno != syscall.EINPROGRESS {
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		return errno
	}
	return s.Open(l, int(fd), h)
}

// KeepAlive has the kernel find out by probes that the peer of a TCP connection is gone, also of those that are accepted on a listening
// socket from now on: the first one after idle, others after interval each, and so many of them, each in whole seconds, or as the kernel
// has it where it is 0.
func KeepAlive(fd int, idle, interval time.Duration, probes int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	for option, v := range map[int]int{unix.TCP_KEEPIDLE: int(idle / time.Second), unix.TCP_KEEPINTVL: int(interval / time.Second), unix.TCP_KEEPCNT: probes} {
		if v > 0 && err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, v)
		}
	}
	return err
}

// NoKeepAlive undoes KeepAlive.
func NoKeepAlive(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0) }

// LocalAddr is the address the socket is bound to.
func (s *Socket) LocalAddr() netip.AddrPort {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(s.fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return addrPort(&sa)
}

// RemoteAddr is the address the socket is connected to.
func (s *Socket) RemoteAddr() netip.AddrPort {
	var sa unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	_, _, errno := syscall.RawSyscall(unix.SYS_GETPEERNAME, uintptr(s.fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return addrPort(&sa)
}

func addrPort(sa *unix.RawSockaddrAny) netip.AddrPort {
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swap(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), swap(in.Port))
	}
	return netip.AddrPort{}
}

func sockaddr(addr netip.AddrPort) (family int, sa unix.RawSockaddrInet6, size uint32) {
	if ip := addr.Addr().Unmap(); ip.Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&sa))
		in.Family, in.Port, in.Addr = unix.AF_INET, swap(addr.Port()), ip.As4()
		return unix.AF_INET, sa, unix.SizeofSockaddrInet4
	}
	sa.Family, sa.Port, sa.Addr = unix.AF_INET6, swap(addr.Port()), addr.Addr().As16()
	return unix.AF_INET6, sa, unix.SizeofSockaddrInet6
}

// swap converts a port between host and network order.
func swap(port uint16) uint16 {
	var b [2]byte
	b[0], b[1] = byte(port>>8), byte(port)
	return *(*uint16)(unsafe.Pointer(&b))
}
