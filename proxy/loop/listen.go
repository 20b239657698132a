package loop

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

const backlog = 4096 // the kernel takes the smaller of this and net.core.somaxconn

// Listen binds n sockets to one address and lets them listen: the kernel spreads connections over them (SO_REUSEPORT).
// They are non-blocking; the caller owns them. Connections inherit TCP_NODELAY. An address that somebody else listens on
// is refused with EADDRINUSE, even if that is a process that would share it.
func Listen(addr netip.AddrPort, n int) (fds []int, err error) {
	defer func() {
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			fds, err = nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}()
	// Two processes of one user could share the port by SO_REUSEPORT and each would get half of the connections; a plain
	// bind finds out.
	probe, err := bound(addr, false)
	if err != nil {
		return nil, err
	}
	if addr.Port() == 0 {
		sa, err := unix.Getsockname(probe)
		if err != nil {
			unix.Close(probe)
			return nil, err
		}
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			addr = netip.AddrPortFrom(addr.Addr(), uint16(sa.Port))
		case *unix.SockaddrInet6:
			addr = netip.AddrPortFrom(addr.Addr(), uint16(sa.Port))
		}
	}
	if err := unix.Close(probe); err != nil {
		return nil, err
	}
	fds, err = share(addr, n)
	for i := 0; err == nil && i < n; i++ {
		err = Begin(fds[i])
	}
	return fds, err
}

// share binds n sockets to an address that others may be bound to as well.
func share(addr netip.AddrPort, n int) (fds []int, err error) {
	for range n {
		fd, err := bound(addr, true)
		if err != nil {
			return fds, err
		}
		fds = append(fds, fd)
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return fds, err
		}
	}
	return fds, nil
}

// Begin lets a socket listen that Join has bound. One that listens already, and may be somebody else's, stays as it is.
func Begin(fd int) error {
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listens != 0 {
		return err
	}
	return unix.Listen(fd, backlog)
}

func bound(addr netip.AddrPort, shared bool) (fd int, err error) {
	var family int
	var sa unix.Sockaddr
	if ip := addr.Addr().Unmap(); ip.Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: ip.As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil && family == unix.AF_INET6 {
		// [::] is IPv6 alone, as with Envoy: whoever wants both binds both.
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil && shared {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// StopSYN has the kernel ignore new connections to a listening socket while those under way still reach its queue. A
// listening socket that is closed resets what is in its queue: stop, wait a round trip, accept until EAGAIN, close, and
// no client sees an accepted connection die. An ignored SYN is repeated by its sender and meets who listens then.
func StopSYN(fd int) error {
	const syn, ack, flagsAt = 0x02, 0x10, 13 // in the TCP header, where a filter of a TCP socket starts to read
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flagsAt},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: syn},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("filter connections: %w", err)
	}
	return nil
}
