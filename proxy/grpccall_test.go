package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestEveryPairingFailsCallsOfGRPCInItsWords: a client of gRPC looks at nothing but the status of gRPC, so that what the proxy answers
// itself is told by that, in a head that is the whole response; to others it is told as always.
func TestEveryPairingFailsCallsOfGRPCInItsWords(t *testing.T) {
	const reset = "upstream connect error or disconnect/reset before headers. "
	silent := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			v := plain("web")
			timed, limited, direct, dead := *v.Routes[0], *v.Routes[0], *v.Routes[0], *v.Routes[0]
			timed.Path, timed.Timeout = "/timed", 30*time.Millisecond
			limited.Path, limited.MaxDuration = "/limited", 30*time.Millisecond
			direct.Path, direct.Clusters, direct.Direct = "/direct", nil, &config.DirectResponse{Status: 403, Body: "no %/\u00fc"}
			dead.Path, dead.Clusters = "/dead", []config.WeightedCluster{{Name: "dead", Weight: 1}}
			empty, missing := dead, dead
			empty.Path, empty.Clusters = "/empty", []config.WeightedCluster{{Name: "empty", Weight: 1}}
			missing.Path, missing.Clusters = "/missing", []config.WeightedCluster{{Name: "missing", Weight: 1}}
			v.Routes = []*config.Route{&timed, &limited, &direct, &dead, &empty, &missing}
			l := httpConfig(freeAddr(t), v)
			l.HTTP.Protocol = pair.down
			web, refusing, none := cluster("web", plainServer(t, silent)), cluster("dead", freeAddr(t).String()), cluster("empty")
			for _, c := range []*config.Cluster{web, refusing} {
				c.Protocol = pair.up
			}
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(web, refusing, none)}, nil)
			client := p.plainClient(pair.down)
			ask := func(method, path, kind string) (*http.Response, string) {
				t.Helper()
				req, _ := http.NewRequest(method, pairURL+path, strings.NewReader("\x00\x00\x00\x00\x00"))
				req.Header.Set("Content-Type", kind)
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp, string(body)
			}
			for _, c := range []struct{ path, status, code, text string }{
				{"/timed", "504", "14", "upstream request timeout"},
				{"/limited", "504", "4", "downstream duration timeout"},
				{"/direct", "403", "7", "no %25/%C3%BC"},
				{"/dead", "503", "14", reset + "reset reason: "},
				{"/empty", "503", "14", "no healthy upstream"},
				{"/missing", "503", "14", ""},
				{"/nowhere", "404", "12", ""},
			} {
				for _, kind := range []string{"application/grpc", "application/grpc+proto"} {
					resp, body := ask(http.MethodPost, c.path, kind)
					if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/grpc" || body != "" || resp.ContentLength != 0 && pair.down == config.ProtocolHTTP1 {
						t.Errorf("%s: %s %v %q", c.path, resp.Status, resp.Header, body)
					}
					if got := resp.Header.Get("Grpc-Message"); resp.Header.Get("Grpc-Status") != c.code || !strings.HasPrefix(got, c.text) || (got == "") != (c.text == "") || len(resp.Trailer) > 0 {
						t.Errorf("%s: %v, trailers %v, want %s %q", c.path, resp.Header, resp.Trailer, c.code, c.text)
					}
				}
				resp, body := ask(http.MethodPost, c.path, "application/grpc-web")
				if !strings.HasPrefix(resp.Status, c.status) || resp.Header.Get("Grpc-Status") != "" || c.text != "" && body == "" {
					t.Errorf("%s for others: %s %v %q", c.path, resp.Status, resp.Header, body)
				}
			}
			if resp, body := ask(http.MethodHead, "/direct", "application/grpc"); resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "7" || resp.Header.Get("Grpc-Message") != "" || body != "" {
				t.Errorf("HEAD: %s %v %q", resp.Status, resp.Header, body)
			}
			// Who looks at the figures of a cluster sees a failure, and a client's is one that was answered.
			p.waitStat("cluster.dead.upstream_rq_5xx", "3")
			p.waitStat("http.outbound.downstream_rq_4xx", "2")
			client.CloseIdleConnections()
			p.stop()
			// The host refuses at once: the content of a request may come before that, or after.
			for _, want := range []string{` 200 UF [05] 0 `, ` 503 UF [05] `} {
				if log := p.log.String(); !regexp.MustCompile(want).MatchString(log) {
					t.Errorf("no %q in access log %q", want, log)
				}
			}
		})
	}
}

// TestBrokenCallsOfGRPC: what was no request yet is no call either.
func TestBrokenCallsOfGRPC(t *testing.T) {
	p := startHTTP(t, rawBackend(t, func(net.Conn, *bufio.Reader) {}))
	for request, want := range map[string]string{
		"POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Type: application/grpc\r\nContent-Length: x\r\n\r\n":           "HTTP/1.1 400 ",
		"POST /a#b HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n":        "HTTP/1.1 400 ",
		"POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\nx": "HTTP/1.1 200 ",
	} {
		if got := p.raw(request); !strings.HasPrefix(got, want) || strings.Contains(got, "grpc-status: 0") {
			t.Errorf("%q: %q", request, got)
		}
	}
}

// TestHostsThatFailCallsAreEjected: a host that fails calls of gRPC at once says so in its heads, whose status is 200 all the same; in
// every pairing, and for calls only.
func TestHostsThatFailCallsAreEjected(t *testing.T) {
	for _, pair := range pairings {
		for _, c := range []struct {
			name, kind, code string
			ejected          bool
		}{
			{"unavailable", "application/grpc", "14", true},
			{"nonsense", "application/grpc", "x", true},
			{"not found", "application/grpc", "5", false},
			{"fine", "application/grpc", "0", false},
			{"no call", "text/plain", "14", false},
		} {
			t.Run(pair.name+" "+c.name, func(t *testing.T) {
				answers := func(code string) string {
					return plainServer(t, func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set("Content-Type", "application/grpc")
						w.Header().Set("Grpc-Status", code)
						w.Header().Set("X-Code", code)
					})
				}
				bad := answers(c.code)
				cl := cluster("web", bad, answers("0"))
				cl.Protocol = pair.up
				cl.Outlier = ejecting(func(o *config.Outlier) { o.Consecutive5xx = 3; o.ConsecutiveGateway = 0 })
				l := httpConfig(freeAddr(t), plain("web"))
				l.HTTP.Protocol = pair.down
				p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cl)}, nil)
				client := p.plainClient(pair.down)
				for range 40 {
					resp, err := client.Post(pairURL+"/", c.kind, strings.NewReader(""))
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
				}
				want := "0"
				if c.ejected {
					want = "1"
					p.waitFlags(bad, "/failed_outlier_check")
				}
				p.waitStat("cluster.web.outlier_detection.ejections_enforced_consecutive_5xx", want)
			})
		}
	}
}
