package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// listen is a manager's socket; what arrives comes out of the channel. The descriptors are closed, each counted.
func listen(t *testing.T, name string) <-chan heard {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan heard, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		data, oob := make([]byte, 4096), make([]byte, 4096)
		for {
			n, oobn, _, _, err := c.ReadMsgUnix(data, oob)
			if err != nil {
				return
			}
			h := heard{text: string(data[:n])}
			messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
			for i := range messages {
				fds, _ := unix.ParseUnixRights(&messages[i])
				h.fds += len(fds)
				for _, fd := range fds {
					unix.Close(fd)
				}
			}
			out <- h
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
	return out
}

type heard struct {
	text string
	fds  int
}

func TestMessages(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@hostmesh-test-" + strconv.Itoa(os.Getpid())} {
		t.Run(name[:1], func(t *testing.T) {
			out := listen(t, name)
			t.Setenv("NOTIFY_SOCKET", name)
			m, err := Connect()
			if err != nil {
				t.Fatal(err)
			}
			fds := make([]int, 70) // more than go with one message
			for i := range fds {
				if fds[i], err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fds[i])
			}
			for _, c := range []struct {
				name string
				do   func() error
				want []heard
			}{
				{"ready", func() error { return m.Say(Ready, "STATUS=serving") }, []heard{{"READY=1\nSTATUS=serving", 0}}},
				{"status", func() error { return m.Status("%d\nlines", 2) }, []heard{{"STATUS=2 lines", 0}}},
				{"main", func() error { return m.Say(MainPID(7), Ready) }, []heard{{"MAINPID=7\nREADY=1", 0}}},
				{"store", func() error { return m.Store("web", fds) }, []heard{{"FDSTORE=1\nFDNAME=web", 64}, {"FDSTORE=1\nFDNAME=web", 6}}},
				{"forget", func() error { return m.Forget("web") }, []heard{{"FDSTOREREMOVE=1\nFDNAME=web", 0}}},
				{"barrier", func() error { return m.Barrier(t.Context()) }, []heard{{"BARRIER=1", 1}}},
			} {
				if err := c.do(); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				for _, want := range c.want {
					if got := <-out; got != want {
						t.Errorf("%s: the manager heard %+v, want %+v", c.name, got, want)
					}
				}
			}
		})
	}
}

// TestBarrierWaits for a manager that does not listen, but not for ever.
func TestBarrierWaits(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", name)
	m, err := Connect()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := m.Barrier(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a time-out", err)
	}
}

func TestWithoutManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	m, err := Connect()
	if m != nil || err != nil {
		t.Fatalf("got %v, %v", m, err)
	}
	m.Watch(t.Context(), func(context.Context) bool { t.Error("asked"); return true })
	if err := errors.Join(m.Say(Ready), m.Store("a", []int{0}), m.Forget("a"), m.Barrier(t.Context())); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", "vsock:2:1")
	if _, err := Connect(); err == nil {
		t.Error("took a socket of another kind")
	}
	for _, name := range []string{"", "a:b", "a b", "ä", strings.Repeat("x", 256)} {
		if err := m.Store(name, nil); err == nil {
			t.Errorf("took %q for a name", name)
		}
	}
}

// TestWatchdog: it is fed as long as the process is healthy, and is another's when another process is named.
func TestWatchdog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "notify")
	out := listen(t, name)
	t.Setenv("NOTIFY_SOCKET", name)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()+1))
	if m, err := Connect(); err != nil || m.watchdog != 0 {
		t.Errorf("got %+v, %v for another process's watchdog", m, err)
	}
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	m, err := Connect()
	if err != nil || m.watchdog != 20*time.Millisecond {
		t.Fatalf("got %+v, %v", m, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Watch(ctx, func(context.Context) bool {
			if asked++; asked == 6 {
				cancel()
			}
			return asked <= 3
		})
	}()
	<-done
	for range 3 {
		if got := <-out; got.text != "WATCHDOG=1" {
			t.Errorf("heard %+v", got)
		}
	}
	select {
	case got := <-out:
		t.Errorf("heard %+v of a process that is not healthy", got)
	default:
	}
}

func TestEnviron(t *testing.T) {
	got := Environ([]string{"A=1", "LISTEN_PID=7", "LISTEN_FDS=1", "LISTEN_FDNAMES=x", "WATCHDOG_PID=7", "WATCHDOG_USEC=5", "NOTIFY_SOCKET=/x"})
	if diff := cmp.Diff([]string{"A=1", "WATCHDOG_USEC=5", "NOTIFY_SOCKET=/x"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSockets runs this test again as a process that was handed descriptors.
func TestSockets(t *testing.T) {
	if os.Getenv("SYSTEMD_TEST_CHILD") != "" {
		var names []string
		for _, s := range Sockets() {
			var st unix.Stat_t
			if err := unix.Fstat(s.FD, &st); err != nil {
				t.Errorf("descriptor %d: %v", s.FD, err)
			}
			names = append(names, s.Name)
		}
		if want := strings.Split(os.Getenv("SYSTEMD_TEST_CHILD"), ","); !slices.Equal(names, want) && os.Getenv("SYSTEMD_TEST_CHILD") != "none" || os.Getenv("SYSTEMD_TEST_CHILD") == "none" && names != nil {
			t.Errorf("got %q, want %q", names, want)
		}
		if Sockets() != nil {
			t.Error("a second call finds them again")
		}
		return
	}
	for _, c := range []struct{ name, env, want string }{
		{"with names", "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web.socket:stored", "web.socket,stored"},
		{"without names", "LISTEN_PID=$$ LISTEN_FDS=2", ","},
		{"for another process", "LISTEN_PID=1 LISTEN_FDS=2", "none"},
		{"nonsense", "LISTEN_PID=$$ LISTEN_FDS=many", "none"},
		{"too many", "LISTEN_PID=$$ LISTEN_FDS=99999999", "none"},
		{"none", "", "none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", c.env+` exec "$0" -test.run='^TestSockets$'`, os.Args[0])
			cmd.Env = append(os.Environ(), "SYSTEMD_TEST_CHILD="+c.want)
			null, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			cmd.ExtraFiles = []*os.File{null, null}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
