package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// toldHost answers with status, after a wait for ever for requests of paths that begin with /silent, and keeps what it was told.
type toldHost struct {
	mu   sync.Mutex
	told []http.Header
}

func (h *toldHost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.told = append(h.told, r.Header.Clone())
	h.mu.Unlock()
	_, _ = io.Copy(io.Discard, r.Body)
	if strings.HasPrefix(r.URL.Path, "/silent") {
		<-r.Context().Done()
	}
	if status, err := strconv.Atoi(r.Header.Get("X-Answer")); err == nil {
		w.WriteHeader(status)
	}
}

// fields are fields of all requests so far, which are forgotten.
func (h *toldHost) fields(names ...string) [][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	values := make([][]string, len(names))
	for _, f := range h.told {
		for i, name := range names {
			values[i] = append(values[i], strings.Join(f.Values(name), "|"))
		}
	}
	h.told = nil
	return values
}

// TestEveryPairingKeepsDeadlines: on routes that go by it a call that is not answered within its grpc-timeout, shortened and bounded, ends by
// that, and its host is told of it. What the host is told is what the stock Envoy 1.40 tells it.
func TestEveryPairingKeepsDeadlines(t *testing.T) {
	const call = "application/grpc"
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			host := &toldHost{}
			v := vhost("web.mesh.internal", "web")
			base := *v.Routes[0]
			base.Retry = config.Retry{}
			route := func(path string, change func(*config.Route)) *config.Route {
				r := base
				r.Path, r.Timeout, r.TellDeadline = path, 0, true
				change(&r)
				return &r
			}
			bounds := func(most, offset time.Duration) func(*config.Route) {
				return func(r *config.Route) { r.GRPCTimeout = &config.GRPCTimeout{Max: most, Offset: offset} }
			}
			both := func(path string, f func(*config.Route)) []*config.Route {
				return []*config.Route{route("/"+path, f), route("/silent/"+path, f)}
			}
			v.Routes = append(both("free", bounds(0, 0)), both("short", bounds(5*time.Second, 100*time.Millisecond))...)
			v.Routes = append(v.Routes, both("bound", bounds(50*time.Millisecond, 0))...)
			v.Routes = append(v.Routes, both("mine", func(r *config.Route) { r.MaxDuration = 3 * time.Second })...)
			v.Routes = append(v.Routes, both("none", func(r *config.Route) { r.TellDeadline = false })...)
			l, c := httpConfig(freeAddr(t), v), cluster("web", plainServer(t, host.ServeHTTP))
			l.HTTP.Protocol, c.Protocol = pair.down, pair.up
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
			client := p.plainClient(pair.down)
			ask := func(path, kind, timeout string) *http.Response {
				t.Helper()
				req, _ := http.NewRequest(http.MethodPost, pairURL+path, strings.NewReader("\x00\x00\x00\x00\x00"))
				req.Header.Set("Content-Type", kind)
				if timeout != "" {
					req.Header.Set("Grpc-Timeout", timeout)
				}
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				return resp
			}
			for _, c := range []struct{ path, kind, timeout, told string }{
				{"/free", call, "", ""},
				{"/free", call, "4S", "4000m"},
				{"/free", call, "99999999S", "99999999S"},
				{"/free", call, "123456789S", "123456789S"}, // none
				{"/free", "text/plain", "4S", "4S"},
				{"/short", call, "4S", "3900m"},
				{"/short", call, "40S", "4900m"},
				{"/mine", call, "", "3000m"},
				{"/mine", call, "1S", "3000m"},
				{"/none", call, "1S", "1S"},
			} {
				if resp := ask(c.path, c.kind, c.timeout); resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "" {
					t.Errorf("%s %q: %s %v", c.path, c.timeout, resp.Status, resp.Header)
				}
				if got := host.fields("Grpc-Timeout")[0]; len(got) != 1 || got[0] != c.told {
					t.Errorf("%s %q: the host is told %q, want %q", c.path, c.timeout, got, c.told)
				}
			}
			for _, c := range []struct{ path, timeout string }{{"/silent/free", "40m"}, {"/silent/free", "1n"}, {"/silent/short", "140m"}, {"/silent/short", "50m"}, {"/silent/bound", "40S"}} {
				if resp := ask(c.path, call, c.timeout); resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "4" || resp.Header.Get("Grpc-Message") != "downstream duration timeout" {
					t.Errorf("%s %q: %s %v", c.path, c.timeout, resp.Status, resp.Header)
				}
				if resp := ask(c.path, "text/plain", c.timeout); resp.StatusCode != 504 && resp.StatusCode != 408 {
					t.Errorf("%s %q for others: %s", c.path, c.timeout, resp.Status)
				}
			}
			p.waitStat("http.outbound.downstream_rq_max_duration_reached", "10")
		})
	}
}

// TestHostsAreToldOfAttempts: how long the proxy waits for them, and which attempt it is; clients how many there were.
func TestHostsAreToldOfAttempts(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			host := &toldHost{}
			v := vhost("web.mesh.internal", "web")
			base := *v.Routes[0]
			base.Retry = config.Retry{On: config.Retry5xx | config.RetryConnectFailure, Max: 2}
			route := func(path string, change func(*config.Route)) *config.Route {
				r := base
				r.Path, r.Timeout = path, 9*time.Second
				change(&r)
				return &r
			}
			counted := func(r *config.Route) { r.TellHostAttempts, r.TellClientAttempts = true, true }
			v.Routes = []*config.Route{
				route("/whole", func(r *config.Route) { r.Retry.Max = 0 }),
				route("/try", func(r *config.Route) { r.Retry.PerTryTimeout = 3 * time.Second; counted(r) }),
				route("/ever", func(r *config.Route) { r.Timeout = 0 }),
				route("/dead", func(r *config.Route) { r.Clusters = []config.WeightedCluster{{Name: "dead", Weight: 1}}; counted(r) }),
				route("/direct", func(r *config.Route) { r.Clusters, r.Direct = nil, &config.DirectResponse{Status: 200}; counted(r) }),
			}
			l, c, dead := httpConfig(freeAddr(t), v), cluster("web", plainServer(t, host.ServeHTTP)), cluster("dead", freeAddr(t).String())
			l.HTTP.Protocol, c.Protocol, dead.Protocol = pair.down, pair.up, pair.up
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c, dead)}, func(o *proxy.Options) { o.Loops = 1 })
			client := p.plainClient(pair.down)
			for _, c := range []struct {
				path, answer string
				wait, which  []string
				count        string
			}{
				{"/whole", "200", []string{"9000"}, []string{"client's"}, ""},
				{"/try", "200", []string{"3000"}, []string{"1"}, "1"},
				{"/try", "503", []string{"3000", "3000", "3000"}, []string{"1", "2", "3"}, "3"},
				{"/ever", "200", []string{""}, []string{"client's"}, ""},
				{"/dead", "503", nil, nil, "3"},
				{"/direct", "200", nil, nil, ""},
			} {
				req, _ := http.NewRequest(http.MethodGet, pairURL+c.path, nil)
				req.Header.Set("X-Answer", c.answer)
				req.Header.Set("X-Envoy-Attempt-Count", "client's")
				req.Header.Set("X-Envoy-Expected-Rq-Timeout-Ms", "77")
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				told := host.fields("X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-Attempt-Count")
				wait, which := told[0], told[1]
				if got, want := fmt.Sprintf("%s %q %q %q", resp.Status[:3], wait, which, resp.Header.Get("X-Envoy-Attempt-Count")), fmt.Sprintf("%s %q %q %q", c.answer, c.wait, c.which, c.count); got != want {
					t.Errorf("%s: got %s, want %s", c.path, got, want)
				}
			}
		})
	}
}

// TestServiceTimeIsThatOfAllAttempts: it counts from the end of the request, as Envoy's does, and is not told when the answer came before that.
func TestServiceTimeIsThatOfAllAttempts(t *testing.T) {
	const pause = 100 * time.Millisecond
	var n atomic.Int32
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Retry = config.Retry{On: config.Retry5xx, Max: 1}
	l := httpConfig(freeAddr(t), v)
	l.HTTP.AccessLogs = append(l.HTTP.AccessLogs, config.AccessLog{Path: "/dev/stdout", Format: &config.LogFormat{Text: "TIME %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%\n"}})
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			if n.Add(1) == 1 {
				time.Sleep(pause)
				_, _ = io.WriteString(conn, "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
				continue
			}
			answer(conn, "")
		}
	})))}, nil)
	got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
	_, rest, _ := strings.Cut(got, "x-envoy-upstream-service-time: ")
	told, _, _ := strings.Cut(rest, "\r\n")
	if ms, err := strconv.Atoi(told); !strings.HasPrefix(got, "HTTP/1.1 200") || err != nil || ms < int(pause/time.Millisecond) {
		t.Errorf("got %q", got)
	}
	got = p.raw("POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\nContent-Length: 5\r\n\r\nab") // the rest never comes
	if !strings.HasPrefix(got, "HTTP/1.1 200") || strings.Contains(got, "x-envoy-upstream-service-time") {
		t.Errorf("got %q", got)
	}
	p.stop()
	if log := p.log.String(); !strings.Contains(log, "TIME "+told+"\n") || !strings.Contains(log, "TIME -\n") || !strings.Contains(log, " "+told+" ") {
		t.Errorf("no %s in\n%s", told, log)
	}
}

// TestServiceTimeIsNeverNegative: a client that has the answer and then ends its part of a tunnel makes none.
func TestServiceTimeIsNeverNegative(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.AccessLogs = append(l.HTTP.AccessLogs, config.AccessLog{Path: "/dev/stdout", Format: &config.LogFormat{Text: "TIME %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%\n"}})
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		_ = readHead(r)
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, r)
	})))}, nil)
	conn := p.dial()
	_, _ = io.WriteString(conn, webSocketRequest)
	r := bufio.NewReader(conn)
	if head := readHead(r); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		t.Fatalf("got %q", head)
	}
	time.Sleep(30 * time.Millisecond)
	_ = conn.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, r)
	p.stop()
	if log := p.log.String(); !strings.Contains(log, "TIME -\n") {
		t.Errorf("got\n%s", log)
	}
}
