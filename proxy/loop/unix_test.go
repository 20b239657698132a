package loop_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

// dialled is the loop's end of a connection; it says hello.
type dialled struct {
	loop.Conn
	told chan loop.Event
}

func (d *dialled) Ready(e loop.Event) {
	select {
	case d.told <- e:
		_, _ = d.Write([]byte("hello"))
		d.CloseWrite()
	default:
	}
}

// TestDialUnix: a path and a name of any length that fits; what cannot be connected to is told at once, by the kernel's error.
func TestDialUnix(t *testing.T) {
	dir, err := os.MkdirTemp("", "l")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l := run(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	longest := in(strings.Repeat("x", 107-len(dir)-1))
	for _, path := range []string{in("a"), longest, "@" + dir, "@" + longest[1:]} {
		s, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		d := &dialled{told: make(chan loop.Event, 1)}
		do(t, l, func() { err = d.DialUnix(l, path, d) })
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if e := <-d.told; e&loop.Out == 0 || e&(loop.Err|loop.Hup) != 0 {
			t.Errorf("%s: told %v", path, e)
		}
		conn, err := s.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
			t.Errorf("%s: %q, %v", path, got, err)
		}
		conn.Close()
		s.Close()
		do(t, l, d.Close)
	}
	if err := os.WriteFile(in("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: in("full")}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("unix", in("full"))
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	for _, c := range []struct {
		path string
		want syscall.Errno
	}{
		{in("none"), syscall.ENOENT},
		{in("file"), syscall.ECONNREFUSED},
		{in("file/none"), syscall.ENOTDIR},
		{in("full"), syscall.EAGAIN},
		{"@" + dir + "none", syscall.ECONNREFUSED},
		{longest + "x", syscall.EINVAL},
		{"@", syscall.EINVAL},
		{"", syscall.EINVAL},
	} {
		d := &dialled{}
		var err error
		do(t, l, func() { err = d.DialUnix(l, c.path, d) })
		if !errors.Is(err, c.want) || d.IsOpen() {
			t.Errorf("%q: %v, open %v, want %v", c.path, err, d.IsOpen(), c.want)
		}
	}
}
