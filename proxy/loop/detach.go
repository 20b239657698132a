package loop

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peek reads what waits into p and leaves it there for the next Read. Errors are those of Read, except that the end is 0 bytes.
func (s *Socket) Peek(p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(s.fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_PEEK, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}

// Detach takes an open socket off the loop and gives up its descriptor, which stays open, for another socket to be opened
// with. That one is told again of all that is true of the descriptor.
func (s *Socket) Detach() (fd int) {
	fd = s.gaveUp()
	var e unix.EpollEvent // ignored, but old kernels want one
	_, _, _ = syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(s.loop.epfd), unix.EPOLL_CTL_DEL, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return fd
}
