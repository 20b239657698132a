package loop

import (
	"errors"
	"fmt"
	"os"

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
