package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestStdoutThatNobodyReads: the access log goes to a pipe on the standard output. That nobody reads it keeps the program neither
// from serving nor from ending, and that its reader went away does not end it.
func TestStdoutThatNobodyReads(t *testing.T) {
	for _, reader := range []string{"stalled", "gone"} {
		t.Run(reader, func(t *testing.T) {
			backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }))
			defer backend.Close()
			admin, in := testbed.FreePort(t), testbed.FreePort(t)
			text := fmt.Sprintf(staticBootstrap, admin, in, backend.Listener.Addr().(*net.TCPAddr).Port)
			file := write(t, "envoy.yaml", strings.Replace(text, "          stat_prefix: in\n", `          stat_prefix: in
          access_log: [{name: envoy.access_loggers.stdout, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}]
`, 1))
			var fds [2]int
			if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			r, w := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
			defer r.Close()
			var logged bytes.Buffer
			cmd := exec.CommandContext(t.Context(), program(t), "-c", file)
			cmd.Stdout, cmd.Stderr = w, &logged
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if reader == "gone" {
				r.Close()
			}
			get := func(path string) error {
				resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", in, path))
				if err == nil {
					resp.Body.Close()
				}
				return errors.Unwrap(err) // without the long name
			}
			for deadline := time.Now().Add(patience); get("/") != nil; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("it does not serve")
				}
			}
			long := "/" + strings.Repeat("x", 20<<10) // a buffer of lines each, of which the queue and the pipe take less than 100
			for i := range 200 {
				if err := get(long); err != nil {
					t.Fatalf("request %d: %v", i, err)
				}
			}
			if got := stat(t, admin, "access_log.dropped_lines"); got == "0" {
				t.Error("no line was dropped")
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("exit: %v", err)
				}
			case <-time.After(patience):
				t.Error("it does not end")
				_ = cmd.Process.Kill()
				<-ended
			}
			for s := bufio.NewScanner(&logged); t.Failed() && s.Scan(); {
				t.Log(s.Text())
			}
		})
	}
}
