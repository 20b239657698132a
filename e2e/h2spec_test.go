package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// h2specBackend answers with a body longer than the smallest windows that h2spec asks for.
func h2specBackend(t testing.TB) string {
	t.Helper()
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte("mesh"), 64))
	}))
	t.Cleanup(back.Close)
	return back.Listener.Addr().String()
}

// judgeH2spec runs all of h2spec's cases, the strict ones too, against a server. None may fail, and no more than that many be skipped.
func judgeH2spec(t *testing.T, addr string, overTLS bool, skipped int) {
	t.Helper()
	judge, err := testbed.Build(t.Context(), "h2spec")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	argv := []string{"-p", port, "-S", "-o", "3s"}
	if overTLS {
		argv = append(argv, "-t")
	}
	out, err := exec.CommandContext(ctx, judge, argv...).CombinedOutput()
	text := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(string(out), "")
	count := regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`).FindStringSubmatch(text)
	if count == nil {
		t.Fatalf("h2spec: %v\n%s", err, tail(text, 4000))
	}
	t.Logf("h2spec: %s", count[0])
	n := [4]int{}
	for i := range n {
		n[i], _ = strconv.Atoi(count[1+i])
	}
	if n[0] < 146 || n[2] > skipped || n[3] > 0 {
		_, failures, _ := strings.Cut(text, "Failures:")
		t.Errorf("want 146 tests, %d skipped and none failed; findings:%s", skipped, tail(failures, 8000))
	}
}

// TestJudgesOfHAProxyH2spec: HAProxy passes all that it takes part in.
func TestJudgesOfHAProxyH2spec(t *testing.T) {
	certs := testbed.NewCerts(t)
	dir := shortDir(t)
	var pem []byte
	for _, file := range []string{certs.ServerCertFile, certs.ServerKeyFile} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pem = append(pem, data...)
	}
	writeFile(t, filepath.Join(dir, "server.pem"), string(pem))
	plain, secure := testbed.FreePort(t), testbed.FreePort(t)
	file := filepath.Join(dir, "haproxy.cfg")
	writeFile(t, file, fmt.Sprintf(`defaults
  mode http
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen in
  bind 127.0.0.1:%d proto h2
  bind 127.0.0.1:%d ssl crt %s/server.pem alpn h2
  server back %s
`, plain, secure, dir, h2specBackend(t)))
	start(t, "haproxy", haproxyBinary(t), "-db", "-f", file)
	for _, c := range []struct {
		name string
		port int
	}{{"h2c", plain}, {"TLS", secure}} {
		t.Run(c.name, func(t *testing.T) {
			addr := fmt.Sprintf("127.0.0.1:%d", c.port)
			eventually(t, 20*time.Second, "HAProxy listens", func() error {
				conn, err := net.Dial("tcp", addr)
				if err == nil {
					_ = conn.Close()
				}
				return err
			})
			judgeH2spec(t, addr, c.name == "TLS", 1)
		})
	}
}

// haproxyBinary is Debian's, which is not in the path of everybody.
func haproxyBinary(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("haproxy is not installed; run make setup")
	return ""
}
