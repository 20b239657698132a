// Package systemd talks to the service manager that started a process: it says how the process is (sd_notify), leaves
// sockets with it so that they outlive a crash (FDSTORE), and takes the sockets that it hands out (LISTEN_FDS).
//
// The protocols are those of sd_notify(3) and sd_listen_fds(3) in systemd 252 and later. The folder holds the unit files
// as well. github.com/coreos/go-systemd is not used: it cannot send descriptors along with a message.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The lines that a process says of itself.
const (
	Ready     = "READY=1"
	Stopping  = "STOPPING=1"
	Reloading = "RELOADING=1"
	alive     = "WATCHDOG=1"
)

// maxFDs is how many descriptors go with one message; the kernel's own limit is 253.
const maxFDs = 64

// sendTime is how long a message may wait for room at the manager.
const sendTime = 2 * time.Second

// Manager is the service manager that started this process. The methods of a nil Manager do nothing.
type Manager struct {
	socket   string
	watchdog time.Duration
}

// Connect finds the service manager by the environment; nil means that there is none. NOTIFY_SOCKET stays in the
// environment for a successor of this process.
func Connect() (*Manager, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	if path[0] != '/' && path[0] != '@' {
		return nil, fmt.Errorf("find service manager: got NOTIFY_SOCKET %q, want an absolute path or an abstract socket", path)
	}
	m := &Manager{socket: path}
	usec, err := strconv.ParseUint(os.Getenv("WATCHDOG_USEC"), 10, 63)
	pid := os.Getenv("WATCHDOG_PID")
	if err == nil && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		m.watchdog = time.Duration(usec) * time.Microsecond
	}
	return m, nil
}

// Environ is the environment for a successor of this process, to be started with the same manager: it says nothing of
// sockets that were handed out, and the watchdog is the successor's.
func Environ(environ []string) []string {
	out := make([]string, 0, len(environ))
	for _, v := range environ {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID":
		default:
			out = append(out, v)
		}
	}
	return out
}

// Say sends lines, each NAME=value, as one message.
func (m *Manager) Say(lines ...string) error { return m.send(strings.Join(lines, "\n")) }

// Status tells what the process is doing, in a line for "systemctl status".
func (m *Manager) Status(format string, args ...any) error {
	return m.Say("STATUS=" + strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " "))
}

// MainPID makes another process the main one; the manager listens to that one from then on.
func MainPID(pid int) string { return "MAINPID=" + strconv.Itoa(pid) }

// Store leaves descriptors with the manager under a name. They come back, by Sockets, when the process is started again
// without having been stopped. The manager drops what is over its FileDescriptorStoreMax.
func (m *Manager) Store(name string, fds []int) error {
	if err := checkName(name); err != nil {
		return err
	}
	for len(fds) > 0 {
		n := min(maxFDs, len(fds))
		if err := m.send("FDSTORE=1\nFDNAME="+name, fds[:n]...); err != nil {
			return err
		}
		fds = fds[n:]
	}
	return nil
}

// Forget has the manager close what was stored under a name.
func (m *Manager) Forget(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return m.Say("FDSTOREREMOVE=1", "FDNAME="+name)
}

// checkName holds a name to what FDNAME may be.
func checkName(name string) error {
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }
	if name == "" || len(name) > 255 || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("name a stored descriptor: got %q, want 1 to 255 visible ASCII characters without a colon", name)
	}
	return nil
}

// Barrier waits until the manager has taken up all that was said before.
func (m *Manager) Barrier(ctx context.Context) error {
	if m == nil {
		return nil
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("wait for service manager: %w", err)
	}
	done := os.NewFile(uintptr(pipe[0]), "barrier") // which the runtime can wait for
	defer done.Close()
	err := m.send("BARRIER=1", pipe[1])
	unix.Close(pipe[1])
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = done.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [1]byte
	_, err = done.Read(b[:]) // ends when the manager has closed its side
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for service manager: %w", ctx.Err())
	}
	return nil
}

func (m *Manager) send(text string, fds ...int) error {
	if m == nil {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	defer unix.Close(fd)
	// A manager that does not listen must not stop what it manages.
	patience := unix.NsecToTimeval(sendTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(fd, []byte(text), rights, &unix.SockaddrUnix{Name: m.socket}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("notify service manager at %s: %w", m.socket, err)
	}
	return nil
}

// Watch tells the manager that the process is alive, twice in each watchdog interval, as long as ctx lives and healthy
// returns in time. It returns at once where there is no watchdog.
func (m *Manager) Watch(ctx context.Context, healthy func(context.Context) bool) {
	if m == nil || m.watchdog <= 0 {
		return
	}
	tick := time.NewTicker(m.watchdog / 2)
	defer tick.Stop()
	for {
		within, cancel := context.WithTimeout(ctx, m.watchdog/2)
		if healthy(within) {
			_ = m.Say(alive)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
