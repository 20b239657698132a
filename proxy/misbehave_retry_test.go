package proxy_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestGatewayErrorsAreThree: each of the statuses that a gateway answers with has the request tried again.
func TestGatewayErrorsAreThree(t *testing.T) {
	for status, tries := range map[int]int32{500: 1, 501: 1, 502: 2, 503: 2, 504: 2, 505: 1} {
		p, seen := retrying(t, config.Retry{On: config.RetryGatewayError, Max: 1}, 1, nil)
		got, _, err := p.get(once(), "web.mesh.internal", fmt.Sprint("/status/", status))
		want := status
		if tries == 2 {
			want = 200
		}
		if got != want || err != nil || seen.Load() != tries {
			t.Errorf("%d: got %d, %v after %d tries, want %d after %d", status, got, err, seen.Load(), want, tries)
		}
		p.stop()
	}
}

// TestOnlySoMuchIsKept: what would have to be sent again and is longer than 64 KiB with its head is not.
func TestOnlySoMuchIsKept(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int
		chunked bool
		again   bool
	}{
		{"little", 1 << 10, false, true},
		{"little in chunks", 1 << 10, true, true},
		{"nearly 64 KiB", 63 << 10, false, true},
		{"more than 64 KiB", 65 << 10, false, false},
		{"more than 64 KiB in chunks", 65 << 10, true, false},
		{"a lot", 4 << 20, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, tries := retrying(t, config.Retry{On: config.Retry5xx, Max: 1}, 1, nil)
			body := strings.Repeat("b", c.size)
			req := request(p, "PUT", body)
			req.URL.Path, req.Close = "/status/503", true
			if c.chunked {
				req.ContentLength = -1
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, _ := io.ReadAll(resp.Body)
			if again := tries.Load() == 2; again != c.again || again != (string(got) == "ok"+body) {
				t.Errorf("%s after %d tries, %d bytes", resp.Status, tries.Load(), len(got))
			}
		})
	}
}

// TestClientsDoNotChooseThePolicy: fields with which a client could change what is retried and for how long mean nothing, here
// and to the proxies behind.
func TestClientsDoNotChooseThePolicy(t *testing.T) {
	fields := []string{
		"x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9", "x-envoy-retriable-status-codes: 500", "x-envoy-retriable-header-names: x", "x-envoy-upstream-rq-timeout-ms: 1",
		"x-envoy-upstream-rq-per-try-timeout-ms: 1", "x-envoy-hedge-on-per-try-timeout: true", "x-envoy-retry-grpc-on: cancelled", "x-envoy-upstream-alt-stat-name: x",
	}
	var tries atomic.Int32
	heads := make(chan string, 9)
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for head := readHead(r); head != ""; head = readHead(r) {
			tries.Add(1)
			heads <- head
			time.Sleep(20 * time.Millisecond)
			_, _ = io.WriteString(conn, "HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
		}
	})
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cluster("web", backend))}, nil)
	got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 500 ") || tries.Load() != 1 {
		t.Errorf("%q after %d tries", got, tries.Load())
	}
	head := <-heads
	for _, f := range fields {
		if strings.Contains(head, f+"\r\n") {
			t.Errorf("%q has %q", head, f)
		}
	}
}

// TestNothingIsHedged: an attempt that takes too long has ended before the next one begins, whatever the client asks for.
func TestNothingIsHedged(t *testing.T) {
	attempts, ends := make(chan net.Conn, 3), make(chan error, 3) // the one before, and how that ended
	backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if readHead(r) == "" {
			return
		}
		select {
		case before := <-attempts:
			attempts <- conn
			_ = before.SetReadDeadline(time.Now().Add(5 * time.Second))
			_, err := before.Read(make([]byte, 1))
			ends <- err
		default:
			attempts <- conn
		}
		<-t.Context().Done() // and no answer
	})
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{On: config.Retry5xx, Max: 2, PerTryTimeout: 50 * time.Millisecond}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cluster("web", backend))}, nil)
	got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\nx-envoy-hedge-on-per-try-timeout: true\r\n\r\n")
	if n := p.stat("cluster.web.upstream_rq_per_try_timeout"); !strings.HasPrefix(got, "HTTP/1.1 504 ") || n != "3" {
		t.Errorf("%q after %s attempts, want 504 after 3", got, n)
	}
	for range 2 {
		if err := <-ends; errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("an attempt goes on while there is another")
		}
	}
}

// TestEveryHostIsTried: of many hosts that fail in ways of their own the one that works is found, without a wait for a host that was
// not tried.
func TestEveryHostIsTried(t *testing.T) {
	var seen atomic.Int32
	status := server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	silent := rawBackend(t, func(conn net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{On: config.Retry5xx, Max: 4, PerTryTimeout: 50 * time.Millisecond}
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), v)},
		Clusters:  clusters(cluster("web", resetting(t, &seen), freeAddr(t).String(), status, silent, ok(t))),
	}, nil)
	for i := range 10 {
		if got, body, err := p.get(once(), "web.mesh.internal", "/"); got != 200 || body != "ok" || err != nil {
			t.Fatalf("request %d: %d %q %v", i, got, body, err)
		}
	}
	if n := p.stat("cluster.web.upstream_rq_retry_backoff_exponential"); n != "0" {
		t.Errorf("%s waits, though there was always a host that was not tried", n)
	}
}

// TestRefusedResponseIsNotWaitedFor: a response that is not wanted is left where it is, however long it is; what is left of it
// reaches nobody.
func TestRefusedResponseIsNotWaitedFor(t *testing.T) {
	bad := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		readHead(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 503 X\r\nContent-Length: 1000000000\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")
		_, _ = io.Copy(io.Discard, r)
	})
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{On: config.Retry5xx, Max: 1}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cluster("web", bad, ok(t)))}, oneLoop)
	for i := range 10 {
		if got, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); got != 200 || body != "ok" || err != nil {
			t.Fatalf("request %d: %d %q %v", i, got, body, err)
		}
	}
	p.waitStat("cluster.web.upstream_rq_active", "0")
	p.waitStat("cluster.web.upstream_cx_active", "1") // the good one's
}

// TestTriesShareTheTime: tries with a limit of their own end with that of the whole; the client is told of the whole.
func TestTriesShareTheTime(t *testing.T) {
	var tries atomic.Int32
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry, v.Routes[0].Timeout = config.Retry{On: config.Retry5xx, Max: 50, PerTryTimeout: 60 * time.Millisecond}, 300*time.Millisecond
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cluster("web", misbehaving(t, 99, &tries)))}, nil)
	began := time.Now()
	got, body, err := p.get(once(), "web.mesh.internal", "/silent")
	if got != 504 || body != "upstream request timeout" || err != nil {
		t.Errorf("%d %q %v", got, body, err)
	}
	if n := tries.Load(); n < 2 || n > 7 && time.Since(began) < 2*time.Second {
		t.Errorf("%d tries of 60 ms within 300 ms", n)
	}
	p.waitStat("cluster.web.upstream_rq_timeout", "1")
	p.stop()
	if !strings.Contains(p.log.String(), " 504 UT ") {
		t.Errorf("access log %q", p.log)
	}
}

// TestLongWaitsAreNotBelieved: a response that asks for a longer wait than the policy allows is waited for as if it had said nothing.
func TestLongWaitsAreNotBelieved(t *testing.T) {
	policy := config.Retry{
		On: config.Retry5xx, Max: 1, BackOff: time.Millisecond, MaxBackOff: time.Millisecond,
		RateLimited: &config.RateLimitedBackOff{Headers: []config.ResetHeader{{Name: "retry-after"}, {Name: "x-reset", Unix: true}}, Max: 10 * time.Second},
	}
	for _, field := range []string{"retry-after=3600", "retry-after=-1", "retry-after=99999999999999999999", "x-reset=1", "x-reset=4102444800"} {
		p, tries := retrying(t, policy, 1, nil)
		if got, _, err := p.get(once(), "web.mesh.internal", "/status/503/"+field); got != 200 || err != nil || tries.Load() != 2 {
			t.Errorf("%s: %d, %v after %d tries", field, got, err, tries.Load())
		}
		p.stop()
	}
}
