package loop

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ListenUnix binds a unix socket to a path, or to a name that begins with @ in the abstract namespace, and lets it listen.
// A file at the path gets the mode, if that is not 0, before anybody can connect. What a process left there that is gone is
// removed; where somebody listens that is EADDRINUSE.
func ListenUnix(path string, mode uint32) (int, error) {
	fd, err := listenUnix(path, mode)
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", path, err)
	}
	return fd, nil
}

func listenUnix(path string, mode uint32) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	at := &unix.SockaddrUnix{Name: path}
	err = unix.Bind(fd, at)
	if errors.Is(err, unix.EADDRINUSE) && path[0] == '/' && abandoned(path) {
		if err = os.Remove(path); err == nil {
			err = unix.Bind(fd, at)
		}
	}
	if err != nil {
		return -1, err
	}
	if mode != 0 && path[0] == '/' {
		if err = os.Chmod(path, os.FileMode(mode)); err != nil {
			return -1, err
		}
	}
	return fd, unix.Listen(fd, backlog)
}

// DialUnix connects to the unix socket at a path, or at a name that begins with @ in the abstract namespace, and puts the connection
// on the loop: the handler sees Out. It is there, or not, at once: syscall.EAGAIN says that too many wait there already.
func (s *Socket) DialUnix(l *Loop, path string, h Handler) error {
	sa, size, err := sockaddrUnix(path)
	if err != nil {
		return err
	}
	fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return errno
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&sa)), uintptr(size))
	if errno != 0 {
		closeFD(int(fd))
		return errno
	}
	return s.Open(l, int(fd), h)
}

// sockaddrUnix is the kernel's form of a path.
func sockaddrUnix(path string) (sa unix.RawSockaddrUnix, size uint32, err error) {
	if len(path) < 2 || len(path) >= len(sa.Path) {
		return sa, 0, syscall.EINVAL
	}
	sa.Family = unix.AF_UNIX
	for i := range len(path) {
		sa.Path[i] = int8(path[i])
	}
	size = uint32(unsafe.Offsetof(sa.Path)) + uint32(len(path))
	if path[0] == '@' {
		sa.Path[0] = 0
		return sa, size, nil
	}
	return sa, size + 1, nil // with the 0 behind it
}

// abandoned reports whether there is a socket at path on which nobody listens.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return errors.Is(unix.Connect(fd, &unix.SockaddrUnix{Name: path}), unix.ECONNREFUSED)
}
