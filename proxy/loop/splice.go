package loop

import (
	"errors"
	"fmt"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

const pipeBytes = 256 << 10

// errSecured is returned for a connection whose bytes are not those of its socket.
var errSecured = errors.New("splice: the connection is TLS")

// Splice moves bytes from one socket to another through a pipe, without copying them into the process. Both must be plain
// (see Conn.Plain). The zero Splice is closed.
type Splice struct {
	fds  [2]int
	open bool
	held int // bytes in the pipe
}

// Open makes the pipe.
func (s *Splice) Open() error {
	if err := unix.Pipe2(s.fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	// A smaller pipe (an unprivileged user may have used up its pages) works as well.
	_, _ = unix.FcntlInt(uintptr(s.fds[1]), unix.F_SETPIPE_SZ, pipeBytes)
	s.open, s.held = true, 0
	return nil
}

// IsOpen reports whether there is a pipe.
func (s *Splice) IsOpen() bool { return s.open }

// Held is how many bytes were taken from the source and not yet given away.
func (s *Splice) Held() int { return s.held }

// Close closes the pipe and drops what it holds.
func (s *Splice) Close() {
	if s.open {
		unix.Close(s.fds[0])
		unix.Close(s.fds[1])
		s.open, s.held = false, 0
	}
}

// Fill takes bytes from src; the pipe must be empty. Errors are those of Socket.Read.
func (s *Splice) Fill(src *Socket) (int, error) {
	if src.secured {
		return 0, errSecured
	}
	n, err := splice(src.fd, s.fds[1], pipeBytes)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	s.held += n
	return n, nil
}

// Drain gives what it holds to dst. The error is nil when that was all.
func (s *Splice) Drain(dst *Socket) error {
	if dst.secured {
		return errSecured
	}
	for s.held > 0 {
		n, err := splice(s.fds[0], dst.fd, s.held)
		if err != nil {
			return err
		}
		s.held -= n
	}
	return nil
}

func splice(from, to, size int) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(size), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	}
}
