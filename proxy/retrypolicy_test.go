package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// misbehaving is a back end that does to each request what the path says, until the request was tried so often.
//
//	/status/409[/name=value]   answers with a status and a field
//	/reset                     resets the connection before an answer
//	/silent                    does not answer
//	/half                      answers with a part of a body and is silent then
//	/head                      closes the connection within the head of an answer
//	/hint                      promises an answer and closes the connection
//	/ssh, /lengths             answers with what is not HTTP, or malformed
func misbehaving(t testing.TB, times int32, tries *atomic.Int32) string {
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			if tries.Add(1) > times {
				answer(conn, "ok"+string(body))
				continue
			}
			part := strings.SplitN(req.URL.Path, "/", 4)
			switch part[1] {
			case "status":
				field := ""
				if len(part) > 3 {
					name, value, _ := strings.Cut(part[3], "=")
					field = name + ": " + value + "\r\n"
				}
				fmt.Fprintf(conn, "HTTP/1.1 %s X\r\nContent-Length: 3\r\n%s\r\nbad", part[2], field)
			case "reset":
				_ = conn.(*net.TCPConn).SetLinger(0)
				return
			case "silent":
				_, _ = io.Copy(io.Discard, r)
				return
			case "half":
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
				_, _ = io.Copy(io.Discard, r)
				return
			case "head":
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-")
				return
			case "hint":
				_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
				return
			case "ssh":
				_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n\r\n")
				return
			case "lengths":
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nbad")
				return
			}
		}
	})
}

// once is a client that closes each connection after its response, so that a proxy has nothing to drain.
func once() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// retrying runs a proxy in front of the misbehaving back end.
func retrying(t testing.TB, policy config.Retry, times int32, change func(*config.Cluster)) (p *testProxy, tries *atomic.Int32) {
	tries = &atomic.Int32{}
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = policy
	cl := cluster("web", misbehaving(t, times, tries))
	if change != nil {
		change(cl)
	}
	return start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cl)}, nil), tries
}

// TestRetryConditions: each condition of Envoy has its request tried again, nothing else has, and the log and the counters say
// what became of it.
func TestRetryConditions(t *testing.T) {
	const tick = 50 * time.Millisecond
	on := func(on config.RetryOn) config.Retry { return config.Retry{On: on, Max: 2} }
	named := func(r config.Retry) config.Retry { r.Max = 2; return r }
	limited := []config.HeaderMatch{{Name: "x-again", Exact: "yes"}}
	for _, c := range []struct {
		name, method, path string
		policy             config.Retry
		times              int32 // that it goes wrong
		status             int
		tries              int32
		log                string
	}{
		{"5xx", "GET", "/status/500", on(config.Retry5xx), 2, 200, 3, " 200 - "},
		{"5xx used up", "GET", "/status/500", on(config.Retry5xx), 3, 500, 3, " 500 URX "},
		{"5xx of a POST", "POST", "/status/500", on(config.Retry5xx), 1, 500, 1, " 500 - "},
		{"5xx without a response", "GET", "/reset", on(config.Retry5xx), 2, 200, 3, " 200 - "},
		{"5xx, no HTTP", "GET", "/ssh", on(config.Retry5xx), 2, 200, 3, " 200 - "},
		{"5xx, no HTTP, used up", "GET", "/ssh", on(config.Retry5xx), 3, 502, 3, " 502 URX,UPE "},
		{"5xx, no HTTP, of a POST", "POST", "/ssh", on(config.Retry5xx), 1, 502, 1, " 502 UPE "},
		{"5xx, no HTTP, and nothing of the kind", "GET", "/ssh", on(config.RetryConnectFailure), 1, 502, 1, " 502 UPE "},
		{"gateway-error, malformed", "GET", "/lengths", on(config.RetryGatewayError), 1, 200, 2, " 200 - "},
		{"reset, malformed", "PUT", "/lengths", on(config.RetryReset), 1, 200, 2, " 200 - "},
		{"reset within a head", "PUT", "/head", on(config.RetryReset), 1, 200, 2, " 200 - "},
		{"reset within a head of a POST", "POST", "/head", on(config.RetryReset), 1, 503, 1, " 503 UC "},
		{"reset after a hint", "GET", "/hint", on(config.RetryReset), 1, 503, 1, " 503 UC "},
		{"not a 4xx", "GET", "/status/409", on(config.Retry5xx), 1, 409, 1, " 409 - "},
		{"gateway-error", "GET", "/status/502", on(config.RetryGatewayError), 1, 200, 2, " 200 - "},
		{"gateway-error: 500", "GET", "/status/500", on(config.RetryGatewayError), 1, 500, 1, " 500 - "},
		{"reset", "PUT", "/reset", on(config.RetryReset), 1, 200, 2, " 200 - "},
		{"reset used up", "PUT", "/reset", on(config.RetryReset), 9, 503, 3, " 503 URX,UC "},
		{"reset of a POST", "POST", "/reset", on(config.RetryReset), 1, 503, 1, " 503 UC "},
		{"reset-before-request: after it", "GET", "/reset", on(config.RetryResetBeforeRequest), 1, 503, 1, " 503 UC "},
		{"retriable-4xx of a POST", "POST", "/status/409", on(config.Retry4xx), 1, 200, 2, " 200 - "},
		{"retriable-4xx: 404", "GET", "/status/404", on(config.Retry4xx), 1, 404, 1, " 404 - "},
		{"retriable-status-codes", "POST", "/status/418", named(config.Retry{On: config.RetryStatusCodes, Statuses: []int{503, 418}}), 2, 200, 3, " 200 - "},
		{"retriable-status-codes: another", "POST", "/status/419", named(config.Retry{On: config.RetryStatusCodes, Statuses: []int{418}}), 1, 419, 1, " 419 - "},
		{"retriable-headers", "POST", "/status/200/x-again=yes", named(config.Retry{On: config.RetryHeaders, Headers: limited}), 1, 200, 2, " 200 - "},
		{"retriable-headers: another value", "GET", "/status/500/x-again=no", named(config.Retry{On: config.RetryHeaders, Headers: limited}), 1, 500, 1, " 500 - "},
		{"envoy-ratelimited", "POST", "/status/429/x-envoy-ratelimited=true", on(config.RetryRateLimited), 1, 200, 2, " 200 - "},
		{"rate limited, but only 5xx", "GET", "/status/503/x-envoy-ratelimited=true", on(config.Retry5xx), 1, 503, 1, " 503 - "},
		{"per try", "GET", "/silent", config.Retry{On: config.RetryReset, Max: 1, PerTryTimeout: tick}, 1, 200, 2, " 200 - "},
		{"per try used up", "GET", "/silent", config.Retry{On: config.RetryReset, Max: 1, PerTryTimeout: tick}, 9, 504, 2, " 504 URX,UT "},
		{"per try idle", "GET", "/silent", config.Retry{On: config.RetryReset, Max: 1, PerTryIdle: tick}, 1, 200, 2, " 200 - "},
		{"per try idle without a policy", "GET", "/silent", config.Retry{PerTryIdle: tick}, 9, 504, 1, " 504 UT "},
		{"request headers", "GET", "/status/500", named(config.Retry{On: config.Retry5xx, RequestHeaders: []config.HeaderMatch{{Name: "x-not-there", Present: true}}}), 1, 500, 1, " 500 - "},
		{"request headers met", "GET", "/status/500", named(config.Retry{On: config.Retry5xx, RequestHeaders: []config.HeaderMatch{{Name: ":method", Exact: "GET"}}}), 1, 200, 2, " 200 - "},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, tries := retrying(t, c.policy, c.times, nil)
			req := request(p, c.method, "body")
			req.URL.Path, req.Close = c.path, true
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != c.status || tries.Load() != c.tries {
				t.Errorf("%d %q after %d tries, want %d after %d", resp.StatusCode, body, tries.Load(), c.status, c.tries)
			}
			if tries.Load() > c.times && string(body) != "okbody" {
				t.Errorf("body %q: what was sent again is not what was sent", body)
			}
			p.waitStat("cluster.web.upstream_rq_retry", fmt.Sprint(c.tries-1))
			exceeded := "0"
			if strings.Contains(c.log, "URX") {
				exceeded = "1"
			}
			p.waitStat("cluster.web.upstream_rq_retry_limit_exceeded", exceeded)
			p.waitStat("cluster.web.upstream_rq_active", "0")
			p.stop()
			if !strings.Contains(p.log.String(), c.log) {
				t.Errorf("access log %q has no %q", p.log, c.log)
			}
		})
	}
}

// TestPerTryIdleWithinAResponse: a response that stops cannot be repeated; the client sees it cut off.
func TestPerTryIdleWithinAResponse(t *testing.T) {
	p, tries := retrying(t, config.Retry{On: config.Retry5xx, Max: 2, PerTryIdle: 50 * time.Millisecond}, 9, nil)
	conn := p.dial()
	_, _ = io.WriteString(conn, "GET /half HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
	got, err := io.ReadAll(conn)
	if err == nil || !strings.HasSuffix(string(got), "half") || tries.Load() != 1 {
		t.Errorf("%q, %v after %d tries, want the part and a reset", got, err, tries.Load())
	}
	if n := p.stat("cluster.web.upstream_rq_per_try_idle_timeout"); n != "1" {
		t.Errorf("counted %s times", n)
	}
}

// TestRetryWaits: a retry comes after the wait of the policy, or that of the response.
func TestRetryWaits(t *testing.T) {
	for _, c := range []struct {
		name, path string
		policy     config.Retry
		stat       string
		least      time.Duration
	}{
		{"back-off", "/status/503", config.Retry{On: config.Retry5xx, Max: 3, BackOff: time.Millisecond, MaxBackOff: 2 * time.Millisecond}, "exponential", 0},
		{"the response says it", "/status/503/retry-after=1", config.Retry{
			On: config.Retry5xx, Max: 1,
			RateLimited: &config.RateLimitedBackOff{Headers: []config.ResetHeader{{Name: "x-reset", Unix: true}, {Name: "retry-after"}}, Max: time.Minute},
		}, "ratelimited", time.Second},
		{"the response says nonsense", "/status/503/retry-after=soon", config.Retry{
			On: config.Retry5xx, Max: 1, RateLimited: &config.RateLimitedBackOff{Headers: []config.ResetHeader{{Name: "retry-after"}}, Max: time.Minute},
		}, "exponential", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, tries := retrying(t, c.policy, int32(c.policy.Max), nil)
			began := time.Now()
			if status, body, err := p.get(once(), "web.mesh.internal", c.path); status != 200 || err != nil {
				t.Errorf("%d %q %v", status, body, err)
			}
			if took := time.Since(began); took < c.least {
				t.Errorf("it took %v, want at least %v", took, c.least)
			}
			if n := p.stat("cluster.web.upstream_rq_retry_backoff_" + c.stat); n != fmt.Sprint(c.policy.Max) || tries.Load() != int32(c.policy.Max)+1 {
				t.Errorf("%s waits, %d tries", n, tries.Load())
			}
		})
	}
}

// TestRetryBreakers: the breaker of retries and the budget that takes its place hold over all loops, and who is refused gets the
// response that there was, whatever both sides speak.
func TestRetryBreakers(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*config.Cluster)
		pass   int // of 8 concurrent requests
	}{
		{"three", func(c *config.Cluster) { c.MaxRetries = 3 }, 3},
		{"one", func(c *config.Cluster) { c.MaxRetries = 1 }, 1},
		{"half of the requests", func(c *config.Cluster) {
			c.MaxRetries, c.RetryBudget = 1, &config.RetryBudget{Percent: 50, MinConcurrency: 1}
		}, 4},
		{"at least five", func(c *config.Cluster) { c.RetryBudget = &config.RetryBudget{MinConcurrency: 5} }, 5},
		{"none at all", func(c *config.Cluster) { c.RetryBudget = &config.RetryBudget{} }, 0},
	} {
		for _, pair := range pairings {
			t.Run(c.name+"/"+pair.name, func(t *testing.T) {
				const n = 8
				var tries atomic.Int32
				all, release := make(chan struct{}), make(chan struct{})
				backend := plainServer(t, func(w http.ResponseWriter, _ *http.Request) {
					if try := tries.Add(1); try < n {
						<-all // every first try is under way
					} else if try == n {
						close(all)
					} else {
						<-release // no retry ends before all are begun
						return
					}
					w.WriteHeader(503)
				})
				v := vhost("web.mesh.internal", "web")
				v.Routes[0].Retry = config.Retry{On: config.Retry5xx, Max: 1}
				l := httpConfig(freeAddr(t), v)
				l.HTTP.Protocol = pair.down
				cl := cluster("web", backend)
				cl.Protocol = pair.up
				c.change(cl)
				p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cl)}, nil)
				results := make(chan int, n)
				for range n {
					client := p.plainClient(pair.down) // a connection of its own, for all loops
					go func() {
						defer client.CloseIdleConnections()
						status, _, _ := p.get(client, "web.mesh.internal", "/")
						results <- status
					}()
				}
				p.waitStat("cluster.web.upstream_rq_retry", fmt.Sprint(c.pass))
				p.waitStat("cluster.web.upstream_rq_retry_overflow", fmt.Sprint(n-c.pass))
				close(release)
				got := map[int]int{}
				for range n {
					got[<-results]++
				}
				if got[200] != c.pass || got[503] != n-c.pass {
					t.Errorf("statuses %v, want %d of 200 and %d of 503", got, c.pass, n-c.pass)
				}
				p.stop()
				if got := strings.Count(p.log.String(), " 503 UO "); got != n-c.pass {
					t.Errorf("%d lines with UO in %q", got, p.log)
				}
			})
		}
	}
}
