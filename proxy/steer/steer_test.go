package steer

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/loopback"
)

// listener is one that tells to which address each connection was made.
func listener(t *testing.T, at string) (net.Listener, <-chan string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	came := make(chan string, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			came <- conn.LocalAddr().String()
			_ = conn.Close()
		}
	}()
	return l, came
}

func steerTo(t *testing.T, pin string, l net.Listener) {
	t.Helper()
	if err := on(t, pin, l); err != nil {
		t.Fatal(err)
	}
}

func on(t *testing.T, pin string, l net.Listener) (failed error) {
	t.Helper()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { failed = On(pin, int(fd)) }); err != nil {
		t.Fatal(err)
	}
	return failed
}

func reaches(t *testing.T, addr string, came <-chan string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := <-came; got != addr {
		t.Errorf("a connection to %s came in at %s", addr, got)
	}
}

func plainListener(t *testing.T) (net.Listener, <-chan string) {
	t.Helper()
	t.Setenv("GODEBUG", "multipathtcp=0")
	return listener(t, loopback.Steered().String()+":0")
}

// TestConnectionsAreSteered: all of the range goes to the socket, whatever listens on the host; nothing else does.
func TestConnectionsAreSteered(t *testing.T) {
	if testbed.InNamespace(t) {
		return
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "bpf", "bpf", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() { _ = exec.Command("umount", dir).Run() }()
	pin := filepath.Join(dir, "hostmesh", "steer")
	app, apps := listener(t, "0.0.0.0:8080")
	socket, steered := plainListener(t)
	if loopback.Steers(t.Context()) {
		t.Fatal("steers before it is told to")
	}
	for range 2 { // the second replaces the first
		steerTo(t, pin, socket)
	}
	if !loopback.Steers(t.Context()) {
		t.Fatal("does not steer")
	}
	<-steered
	<-steered
	for addr, came := range map[string]<-chan string{
		"127.64.0.1:8080": steered, "127.64.0.1:22": steered, "127.127.255.254:65535": steered, "127.100.1.2:8080": steered,
		"127.0.0.1:8080": apps, "127.63.255.255:8080": apps, "127.128.0.1:8080": apps,
	} {
		reaches(t, addr, came)
	}
	if err := app.Close(); err != nil {
		t.Fatal(err)
	}
	_, apps = listener(t, "0.0.0.0:8080") // it restarts, whatever is steered

	second, seconds := plainListener(t)
	steerTo(t, pin, second)
	reaches(t, "127.64.0.1:8080", seconds)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	within, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if conn, err := new(net.Dialer).DialContext(within, "tcp4", "127.64.0.1:8080"); err == nil {
		t.Errorf("without its socket a connection is accepted by %v", conn.RemoteAddr())
	}
	datagrams(t)
	for range 2 {
		if err := Off(pin); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(pin); err == nil {
		t.Error("the pin is left behind")
	}
	reaches(t, "127.64.0.1:8080", apps)
}

// datagrams to the range reach nobody either.
func datagrams(t *testing.T) {
	t.Helper()
	l, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp4", "0.0.0.0:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, addr := range []string{"127.64.0.1:8080", "127.0.0.1:8080"} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "udp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte(addr))
		_ = conn.Close()
	}
	b := make([]byte, 100)
	if n, _, err := l.ReadFrom(b); err != nil || string(b[:n]) != "127.0.0.1:8080" {
		t.Errorf("got %q, %v", b[:n], err)
	}
}

func TestMistakesAreTold(t *testing.T) {
	if testbed.InNamespace(t) {
		return
	}
	socket, _ := plainListener(t)
	if err := on(t, filepath.Join(t.TempDir(), "steer"), socket); err == nil || !strings.Contains(err.Error(), "BPF file system") {
		t.Errorf("pinned where that cannot be: %v", err)
	}
	if err := On(filepath.Join(t.TempDir(), "steer"), 0); err == nil || !strings.Contains(err.Error(), "listening socket") {
		t.Errorf("took something else for a socket: %v", err)
	}
	if loopback.Steers(t.Context()) {
		t.Error("what failed steers")
	}
}
