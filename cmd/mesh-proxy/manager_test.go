package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the process that starts mesh-proxy, as systemd does: it hears what the service notifies, believes only the
// main process, keeps the descriptors that are stored with it, and hands them out at the next start.
type manager struct {
	t      *testing.T
	socket *net.UnixConn
	path   string
	log    lockedBuffer

	mu     sync.Mutex
	main   int              // guarded by mu
	pids   []int            // all main processes there were; guarded by mu
	ready  int              // how often that was said; guarded by mu
	lines  []string         // guarded by mu
	stored map[string][]int // guarded by mu
}

// lockedBuffer is a buffer for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{t: t, path: filepath.Join(t.TempDir(), "notify"), stored: map[string][]int{}}
	var err error
	if m.socket, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	raw, err := m.socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(m.listen)
	t.Cleanup(func() {
		m.stop()
		m.socket.Close()
		done.Wait()
		if t.Failed() {
			t.Logf("log of mesh-proxy:\n%s", m.log.String())
		}
		for _, fds := range m.stored {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	})
	return m
}

func (m *manager) listen() {
	data, oob := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, oobn, _, _, err := m.socket.ReadMsgUnix(data, oob)
		if err != nil {
			return
		}
		messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
		var fds []int
		from := 0
		for i := range messages {
			if got, err := unix.ParseUnixRights(&messages[i]); err == nil {
				fds = append(fds, got...)
			}
			if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
				from = int(cred.Pid)
			}
		}
		m.hear(from, strings.Split(string(data[:n]), "\n"), fds)
	}
}

func (m *manager) hear(from int, lines []string, fds []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from != m.main && lines[0] != "BARRIER=1" {
		m.lines = append(m.lines, fmt.Sprintf("refused from another: %q", lines))
		lines = nil
	}
	value := map[string]string{}
	for _, l := range lines {
		name, v, _ := strings.Cut(l, "=")
		value[name] = v
	}
	m.lines = append(m.lines, lines...)
	if pid, err := strconv.Atoi(value["MAINPID"]); err == nil {
		m.main = pid
		m.pids = append(m.pids, pid)
	}
	if value["READY"] == "1" {
		m.ready++
	}
	name := value["FDNAME"]
	switch {
	case value["FDSTORE"] == "1":
		m.keep(name, fds)
		return
	case value["FDSTOREREMOVE"] == "1":
		fds = append(fds, m.stored[name]...)
		delete(m.stored, name)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// keep stores descriptors once each, as systemd does.
func (m *manager) keep(name string, fds []int) {
	inode := func(fd int) uint64 {
		var s unix.Stat_t
		_ = unix.Fstat(fd, &s)
		return s.Ino
	}
	for _, fd := range fds {
		if slices.ContainsFunc(m.stored[name], func(other int) bool { return inode(other) == inode(fd) }) {
			unix.Close(fd)
			continue
		}
		m.stored[name] = append(m.stored[name], fd)
	}
}

// start starts the service, with what is stored and with more sockets by their names, and waits until it is ready.
func (m *manager) start(sockets map[string]*os.File, env []string, command ...string) {
	m.t.Helper()
	// LISTEN_PID is known only when the process is there.
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`}, command...)...)
	cmd.Stderr = &m.log
	cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+m.path), env...)
	var names []string
	m.mu.Lock()
	before := m.ready
	for name, fds := range m.stored {
		for _, fd := range fds {
			own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				m.t.Error(err)
				continue
			}
			file := os.NewFile(uintptr(own), name)
			defer file.Close()
			cmd.ExtraFiles, names = append(cmd.ExtraFiles, file), append(names, name)
		}
	}
	for name, file := range sockets {
		cmd.ExtraFiles, names = append(cmd.ExtraFiles, file), append(names, name)
	}
	if len(names) > 0 {
		cmd.Env = append(cmd.Env, "LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	}
	err := cmd.Start()
	if err == nil {
		m.main = cmd.Process.Pid
		m.pids = append(m.pids, m.main)
	}
	m.mu.Unlock()
	if err != nil {
		m.t.Fatal(err)
	}
	m.await("ready", func() bool { return m.ready > before })
}

// await waits until something that mu guards is so.
func (m *manager) await(what string, so func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		m.mu.Lock()
		yes := so()
		m.mu.Unlock()
		if yes {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("not %s in time; heard %q; log:\n%s", what, m.said(), m.log.String())
		}
	}
}

func (m *manager) said() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.lines)
}

func (m *manager) pid() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.main
}

// all are the main processes that there were.
func (m *manager) all() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.pids)
}

// crash ends the main process without a chance to do anything.
func (m *manager) crash() {
	m.t.Helper()
	if err := syscall.Kill(m.pid(), syscall.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	m.reap(m.pid())
}

// reap waits for a process. All of them are this one's children, also successors.
func (m *manager) reap(pid int) {
	m.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		if got == pid || errors.Is(err, syscall.ECHILD) {
			return
		}
		if time.Now().After(deadline) {
			m.t.Errorf("process %d does not end", pid)
			return
		}
	}
}

// stop ends all processes as systemd does: SIGTERM to every one of the control group.
func (m *manager) stop() {
	m.mu.Lock()
	pids := slices.Clone(m.pids)
	m.mu.Unlock()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGTERM)
	}
	for _, pid := range pids {
		m.reap(pid)
	}
}

// stat is a figure that the admin interface at a port tells, "missing" if it does not.
func stat(t *testing.T, admin int, name string) string {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/stats?filter=^%s$", admin, name))
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	var text bytes.Buffer
	_, _ = text.ReadFrom(resp.Body)
	_, value, ok := strings.Cut(strings.TrimSpace(text.String()), ": ")
	if !ok {
		return "missing"
	}
	return value
}
