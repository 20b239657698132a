package loop

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listening is what can be said of a listening socket that another process has opened.
type Listening struct {
	Addr   netip.AddrPort // of TCP
	Path   string         // of a unix socket, instead of Addr
	Shared bool           // more sockets may be bound to the address (SO_REUSEPORT)
}

// Inspect tells what fd is; an error if it is no listening stream socket. It makes it non-blocking and close-on-exec, has
// accepted connections inherit TCP_NODELAY, and takes the filter of an earlier StopSYN off.
func Inspect(fd int) (Listening, error) {
	l, err := inspect(fd)
	if err != nil {
		return Listening{}, fmt.Errorf("take over descriptor %d: %w", fd, err)
	}
	return l, nil
}

func inspect(fd int) (l Listening, err error) {
	for option, want := range map[int]int{unix.SO_TYPE: unix.SOCK_STREAM, unix.SO_ACCEPTCONN: 1} {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
		if err != nil {
			return l, err
		}
		if got != want {
			return l, errors.New("got another socket, want a listening stream socket")
		}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return l, err
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return l, err
	}
	if err := Resume(fd); err != nil {
		return l, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrUnix:
		l.Path = sa.Name
		return l, nil
	case *unix.SockaddrInet4:
		l.Addr = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		l.Addr = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	default:
		return l, fmt.Errorf("got a socket of family %T, want TCP or a unix socket", sa)
	}
	shared, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT)
	if err != nil {
		return l, err
	}
	l.Shared = shared != 0
	return l, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// Join binds n more sockets to an address on which others with SO_REUSEPORT listen, as Listen does. They get no connection
// until they listen themselves (Begin): what waits in the queue of a socket is lost with its process.
func Join(addr netip.AddrPort, n int) ([]int, error) {
	fds, err := share(addr, n)
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return fds, nil
}

// Duplicate returns another descriptor of the same socket.
func Duplicate(fd int) (int, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("duplicate descriptor: %w", err)
	}
	return n, nil
}

// Resume undoes StopSYN.
func Resume(fd int) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	// Sockets of MPTCP, which have no filters, say that they cannot.
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("take filter off: %w", err)
	}
	return nil
}

// CloseListener closes a listening socket. Others may have descriptors of it as well; no event of theirs is told here.
func (s *Socket) CloseListener() {
	if s.open {
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(s.Detach()), 0, 0)
	}
}
