package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUnixSocketOutlivesItsProcess: a listener on a path is handed over, kept through a crash and a restart with the same
// file.
func TestUnixSocketOutlivesItsProcess(t *testing.T) {
	i := install(t)
	dir, err := os.MkdirTemp("", "p") // a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "web")
	data, err := os.ReadFile(i.config)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), fmt.Sprintf("{socket_address: {address: 127.0.0.1, port_value: %d}}\n    filter_chains", i.in), "{pipe: {path: "+path+"}}\n    filter_chains", 1)
	if err := os.WriteFile(i.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	get := func() string {
		resp, err := client.Get("http://a/")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, string(body), err)
	}
	i.start(nil, nil, i.command()...)
	i.await("stored", func() bool { return len(i.stored) > 0 })
	// A kept connection moves with its listener.
	kept, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	_ = kept.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(kept)
	ask := func() string {
		if _, err := io.WriteString(kept, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return err.Error()
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err.Error()
		}
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.StatusCode, string(body), err)
	}
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"start", func() {}},
		{"upgrade", func() {
			before := i.pid()
			if code, said := i.reload(); code != 0 {
				t.Fatalf("reload: exit status %d, %q", code, said)
			}
			i.await("taken over", func() bool { return i.main != before })
			if got := ask(); got != fine {
				t.Errorf("the kept connection after the upgrade: got %q", got)
			}
		}},
		{"crash", func() {
			i.crash()
			i.start(nil, nil, i.command()...)
		}},
		{"restart", func() {
			_ = syscall.Kill(i.pid(), syscall.SIGTERM)
			i.reap(i.pid())
			if _, err := os.Stat(path); err != nil {
				t.Errorf("while it restarts: %v", err)
			}
			i.start(nil, nil, i.command()...)
		}},
	} {
		step.do()
		if step.name == "start" {
			if got := ask(); got != fine {
				t.Errorf("the kept connection: got %q", got)
			}
		}
		for range 4 {
			if got := get(); got != fine {
				t.Errorf("after %s: got %q", step.name, got)
			}
		}
	}
}
