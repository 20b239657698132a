package proxy_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// exhaust leaves the process without a free descriptor until the function that it returns is called.
func exhaust(t *testing.T) (free func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 256
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	var taken []int
	for {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EMFILE) {
			break
		}
		if err != nil {
			t.Error(err)
			break
		}
		taken = append(taken, fd)
	}
	done := false
	free = func() {
		if done {
			return
		}
		done = true
		for _, fd := range taken {
			unix.Close(fd)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(free)
	return free
}

// TestAcceptWithoutDescriptors: a connection that cannot be accepted waits, and is served when there are descriptors again,
// although the kernel does not tell of it a second time.
func TestAcceptWithoutDescriptors(t *testing.T) {
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Direct = &config.DirectResponse{Status: 200, Body: "hello"}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}}, oneLoop)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	free := exhaust(t)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: p.addr.Addr().As4(), Port: int(p.addr.Port())}); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte(get)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond) // more than one attempt
	free()
	file := os.NewFile(uintptr(fd), "connection")
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if resp, body := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("%s %q", resp.Status, body)
	}
	if n := p.stat("listener." + strings.ReplaceAll(p.addr.String(), ":", "_") + ".downstream_listener_accept_error"); n == "0" || n == "missing" {
		t.Errorf("%s failed attempts: the process was never out of descriptors", n)
	}
}

// TestClientThatReadsNothingIsIdle: a connection whose client neither takes its responses nor stops to send requests ends by
// the idle timeout.
func TestClientThatReadsNothingIsIdle(t *testing.T) {
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Direct = &config.DirectResponse{Status: 200, Body: string(pattern(32 << 10))}
	l := httpConfig(freeAddr(t), v)
	l.HTTP.IdleTimeout = 300 * time.Millisecond
	p := start(t, &config.Config{Listeners: []*config.Listener{l}}, oneLoop)
	conn := p.dial()
	for err := error(nil); err == nil; { // until nothing moves any more, or the proxy has closed
		_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = io.WriteString(conn, get)
	}
	p.waitStat("http.outbound.downstream_cx_active", "0")
}
