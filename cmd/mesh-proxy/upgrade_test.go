package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/probe"
	"github.com/hostmesh/hostmesh/proxy/takeover"
)

// echoBackend answers requests, and sends back what comes over a WebSocket.
func echoBackend(t *testing.T) int {
	t.Helper()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, "hello")
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
		echoFrames(conn, rw.Reader)
	}))
	t.Cleanup(backend.Close)
	return backend.Listener.Addr().(*net.TCPAddr).Port
}

// echoFrames sends short frames back without their mask, until one that is no text.
func echoFrames(w io.Writer, r *bufio.Reader) {
	for {
		var head [6]byte
		if _, err := io.ReadFull(r, head[:]); err != nil || head[0] != 0x81 {
			return
		}
		n := int(head[1] & 0x7f)
		out := append(make([]byte, 0, n+2), head[0], byte(n))
		for i := range n {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			out = append(out, b^head[2+i%4])
		}
		if _, err := w.Write(out); err != nil {
			return
		}
	}
}

// installed is mesh-proxy with all that it was started with.
type installed struct {
	*manager
	program, config, socket string
	admin, in               int
}

func (i *installed) command(flags ...string) []string {
	return append([]string{i.program, "-c", i.config, "--admin-socket", i.socket}, flags...)
}

func install(t *testing.T) *installed {
	t.Helper()
	i := &installed{
		manager: newManager(t), program: program(t), socket: filepath.Join(t.TempDir(), "admin.sock"),
		admin: testbed.FreePort(t), in: testbed.FreePort(t),
	}
	text := fmt.Sprintf(staticBootstrap, i.admin, i.in, echoBackend(t))
	i.config = write(t, "envoy.yaml", strings.Replace(text, "stat_prefix: in", "stat_prefix: in\n          upgrade_configs: [{upgrade_type: websocket}]", 1))
	return i
}

// reload runs "mesh-proxy reload" and returns its exit status and all that it said.
func (i *installed) reload() (int, string) {
	var out bytes.Buffer
	code := run([]string{"reload", "--admin-socket", i.socket}, &out, &out)
	return code, out.String()
}

func (i *installed) get(t *testing.T) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", i.in), patience)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, string(body), err)
}

const fine = "200hello<nil>"

// TestUpgradeUnderLoadDropsNothing: four processes take over from one another under requests on kept and on fresh
// connections and open WebSockets, gRPC streams and calls, HTTP/2 and TLS, by the reload command and by SIGHUP: nothing is
// dropped. Streams of every process stay open, so all of them drain at the same time. With HOSTMESH_SOAK the load is that
// of a busy host.
func TestUpgradeUnderLoadDropsNothing(t *testing.T) {
	rate, webSockets, kept, streams, every := 300, 20, 40, 4, 100*time.Millisecond
	if os.Getenv("HOSTMESH_SOAK") != "" {
		rate, webSockets, kept, streams, every = 2000, 200, 200, 20, 200*time.Millisecond
	}
	i := install(t)
	other := installLoad(t, i)
	i.start(nil, nil, i.command("--upgrade-drain-time", "60s")...)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	other.ctx, other.every = ctx, every
	other.probes(rate / 6)
	begin := func() {
		other.grpc(false, streams, 2)
		other.grpc(true, streams, 2)
	}
	begin()
	type outcome struct {
		probe.Result
		err error
	}
	found := make(chan outcome, 1)
	go func() {
		r, err := probe.Run(ctx, probe.Options{
			URL: fmt.Sprintf("http://127.0.0.1:%d/", i.in), Rate: rate, Duration: time.Minute, Kept: kept, Fresh: 50, WebSockets: webSockets, Interval: 300 * time.Millisecond,
		})
		found <- outcome{r, err}
	}()
	served := func() { // some of everything
		for begin, deadline := probeTotal(t, i.admin), time.Now().Add(patience); probeTotal(t, i.admin) < begin+rate/3; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the load has ended; log:\n%s", i.log.String())
			}
		}
	}
	served()
	for round := range 4 {
		before := i.pid()
		if round%2 == 0 {
			if code, said := i.reload(); code != 0 {
				t.Fatalf("reload %d: exit status %d: %s", round, code, said)
			}
		} else if err := syscall.Kill(before, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		i.await("taken over", func() bool { return i.main != before })
		// The admin interface goes a moment after the main process is another one.
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			got := stat(t, i.admin, "server.hot_restart_epoch")
			if got == strconv.Itoa(round+1) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("epoch %s after upgrade %d", got, round+1)
			}
		}
		served()
		begin()
		served()
	}
	pids := i.all()
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("process %d of %v, which has streams: %v", pid, pids, err)
		}
	}
	if got := stat(t, i.admin, "upgrade.attempts"); got != "4" {
		t.Errorf("upgrade.attempts is %s, want those of all processes: 4", got)
	}
	if got := stat(t, i.admin, "upgrade.adopted_connections"); got == "0" || got == "missing" {
		t.Errorf("%s connections were adopted", got)
	}
	stop()
	r := <-found
	other.all.Wait()
	t.Logf("%+v, %v", r, other.done)
	if len(other.lost) > 0 || len(other.done) < 4*2+2+3 {
		t.Errorf("lost %v, done %v", other.lost, other.done)
	}
	if r.err != nil || r.Dropped != 0 || r.WebSockets != uint64(webSockets) || r.Requests != r.Answered {
		t.Errorf("got %+v, want nothing dropped", r)
	}
	for _, pid := range pids[:len(pids)-1] { // the streams are closed: nothing keeps them
		i.reap(pid)
	}
	for _, line := range i.said() {
		if strings.Contains(line, "refused") {
			t.Error(line)
		}
	}
}

func probeTotal(t *testing.T, admin int) int {
	n, _ := strconv.Atoi(stat(t, admin, "http.in.downstream_rq_total"))
	return n
}

// TestUpgradeThatFailsChangesNothing: a successor that cannot start, or is not ready in time, leaves the old process
// serving, which says so.
func TestUpgradeThatFailsChangesNothing(t *testing.T) {
	i := install(t)
	i.start(nil, nil, i.command("--upgrade-timeout", "3s")...)
	pid := i.pid()
	good, err := os.ReadFile(i.program)
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(i.config)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(path string, data []byte, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path+".new", data, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	marker := filepath.Join(t.TempDir(), "pid")
	for n, c := range []struct {
		name    string
		program []byte
		config  []byte
		want    string
	}{
		{"broken configuration", good, []byte("nope: 1\n"), "ended before it was ready"},
		{"no program", []byte("no program"), config, "exec format error"},
		{"never ready", []byte("#!/bin/sh\necho $$ >" + marker + "\nexec sleep 1000\n"), config, "was not ready in time and was killed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			replace(i.program, c.program, 0o700)
			replace(i.config, c.config, 0o600)
			if code, said := i.reload(); code != 1 || !strings.Contains(said, c.want) {
				t.Errorf("reload: exit status %d, %q; want 1 and %q", code, said, c.want)
			}
			if got := i.get(t); got != fine {
				t.Errorf("after it: got %q", got)
			}
			if i.pid() != pid {
				t.Errorf("the main process is %d, want still %d", i.pid(), pid)
			}
			if got := stat(t, i.admin, "upgrade.failures"); got != strconv.Itoa(n+1) {
				t.Errorf("upgrade.failures is %s, want %d", got, n+1)
			}
		})
	}
	if text, err := os.ReadFile(marker); err == nil {
		late, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		i.reap(late)
	} else {
		t.Error(err)
	}
	if !strings.Contains(i.log.String(), "upgrade failed, this process serves on") {
		t.Error("the log does not tell")
	}
	replace(i.program, good, 0o700)
	replace(i.config, config, 0o600)
	if code, said := i.reload(); code != 0 {
		t.Errorf("a good upgrade afterwards: exit status %d, %q", code, said)
	}
	if got := i.get(t); got != fine {
		t.Errorf("after the good upgrade: got %q", got)
	}
}

// TestUpgradeWhoseOldProcessDies: when the process before dies in the middle of the hand-over, the new one serves alone, as its main
// process.
func TestUpgradeWhoseOldProcessDies(t *testing.T) {
	i := install(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := takeover.Start(ctx, takeover.Offer{
		Program: "old", Path: i.program, Args: i.command(), Env: append(os.Environ(), "NOTIFY_SOCKET="+i.path), State: takeover.State{Epoch: 7},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(s.PID, syscall.SIGKILL) }()
	i.mu.Lock()
	i.main = s.PID // as a manager finds out by itself
	i.mu.Unlock()
	s.Close()
	i.await("kept by the new main process", func() bool { return len(i.stored) > 0 })
	if got := i.get(t); got != fine {
		t.Errorf("got %q", got)
	}
	if got := stat(t, i.admin, "server.hot_restart_epoch"); got != "8" {
		t.Errorf("epoch %s, want 8", got)
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// TestUpgradeChangesListeners: a listener that the new configuration does not have is closed, a new one is open, and what
// the service manager keeps is the same.
func TestUpgradeChangesListeners(t *testing.T) {
	i := install(t)
	i.start(nil, nil, i.command()...)
	old, next := i.in, testbed.FreePort(t)
	stored := func(port int) string { return fmt.Sprintf("mesh-proxy-listener-127.0.0.1_%d", port) }
	i.await("stored", func() bool { return len(i.stored[stored(old)]) > 0 })
	data, err := os.ReadFile(i.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(i.config, bytes.Replace(data, []byte(strconv.Itoa(old)), []byte(strconv.Itoa(next)), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, said := i.reload(); code != 0 {
		t.Fatalf("reload: exit status %d, %q", code, said)
	}
	i.in = next
	if got := i.get(t); got != fine {
		t.Errorf("at the new address: got %q", got)
	}
	i.await("kept as configured", func() bool { return len(i.stored[stored(next)]) > 0 && len(i.stored[stored(old)]) == 0 })
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", old))
		if err != nil {
			break
		}
		c.Close()
		if time.Now().After(deadline) {
			t.Fatal("the old address is still open")
		}
	}
}

// TestCrashLosesNoConnectionAttempt: who connects while the process is dead is served by the next.
func TestCrashLosesNoConnectionAttempt(t *testing.T) {
	i := install(t)
	i.start(nil, nil, i.command()...)
	i.await("stored", func() bool { return len(i.stored) > 0 })
	i.crash()
	answers := make(chan string)
	for range 20 {
		go func() { answers <- i.get(t) }()
	}
	time.Sleep(100 * time.Millisecond) // they connect to nobody
	i.start(nil, nil, i.command()...)
	for range 20 {
		if got := <-answers; got != fine {
			t.Errorf("got %q", got)
		}
	}
	// And so does the one after that, also when there was an upgrade in between.
	before := i.pid()
	if code, said := i.reload(); code != 0 {
		t.Fatalf("reload: exit status %d, %q", code, said)
	}
	i.await("taken over", func() bool { return i.main != before })
	i.crash()
	go func() { answers <- i.get(t) }()
	time.Sleep(50 * time.Millisecond)
	i.start(nil, nil, i.command()...)
	if got := <-answers; got != fine {
		t.Errorf("got %q", got)
	}
}

// TestRestartLosesNoConnectionAttempt: the same for a process that was asked to end, whose socket did not take part any
// more while it drained.
func TestRestartLosesNoConnectionAttempt(t *testing.T) {
	i := install(t)
	i.start(nil, nil, i.command()...)
	i.await("stored", func() bool { return len(i.stored) > 0 })
	if err := syscall.Kill(i.pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	i.reap(i.pid())
	answers := make(chan string)
	for range 5 {
		go func() { answers <- i.get(t) }()
	}
	time.Sleep(50 * time.Millisecond)
	i.start(nil, nil, i.command()...)
	for range 5 {
		if got := <-answers; got != fine {
			t.Errorf("got %q", got)
		}
	}
	if said := i.said(); !strings.Contains(strings.Join(said, "\n"), "STOPPING=1") {
		t.Errorf("heard %q, want STOPPING=1", said)
	}
}

// TestSocketOfAUnit: a socket that a .socket unit opened is used for the listener with its address, on all loops, and
// stays open with its unit.
func TestSocketOfAUnit(t *testing.T) {
	i := install(t)
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", i.in))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	answers := make(chan string)
	go func() { answers <- i.get(t) }() // before anything runs
	i.start(map[string]*os.File{"mesh-proxy.socket": file}, nil, i.command()...)
	if got := <-answers; got != fine {
		t.Errorf("got %q", got)
	}
	for range 3 {
		if code, said := i.reload(); code != 0 {
			t.Fatalf("reload: exit status %d, %q", code, said)
		}
		for range 8 {
			if got := i.get(t); got != fine {
				t.Errorf("after an upgrade: got %q", got)
			}
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.stored) != 0 {
		t.Errorf("stored %v: the unit keeps its socket itself", i.stored)
	}
}

// TestWatchdogIsFed as long as the loops turn.
func TestWatchdogIsFed(t *testing.T) {
	i := install(t)
	i.start(nil, []string{"WATCHDOG_USEC=200000"}, i.command()...)
	count := func() int { return strings.Count(strings.Join(i.lines, "\n"), "WATCHDOG=1") }
	i.await("fed", func() bool { return count() > 3 })
	if code, said := i.reload(); code != 0 {
		t.Fatalf("reload: exit status %d, %q", code, said)
	}
	i.mu.Lock()
	before := count()
	i.mu.Unlock()
	i.await("fed by the successor", func() bool { return count() > before+3 })
}
