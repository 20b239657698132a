package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// hashed runs a proxy whose requests are balanced by policies over backends that answer with their number.
func hashed(t *testing.T, policy config.Policy, change func(*proxy.Options), policies ...config.HashPolicy) *testProxy {
	t.Helper()
	var addrs []string
	for i := range 8 {
		addrs = append(addrs, server(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, i) }))
	}
	c := cluster("web", addrs...)
	c.Policy = policy
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Hash = policies
	l := httpConfig(freeAddr(t), v)
	l.HTTP.UseRemoteAddress = false
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, change)
}

// chosen sends requests with these fields, each on a connection of its own so that both loops serve some, and returns the
// backends that answered.
func chosen(p *testProxy, n int, target, fields string) map[string]int {
	p.t.Helper()
	got := map[string]int{}
	for range n {
		out := p.raw("GET " + target + " HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n" + fields + "\r\n")
		head, body, _ := strings.Cut(out, "\r\n\r\n")
		if !strings.HasPrefix(head, "HTTP/1.1 200") {
			p.t.Fatalf("got %q", out)
		}
		got[body]++
	}
	return got
}

func TestHashPoliciesChooseTheHost(t *testing.T) {
	for _, policy := range []config.Policy{config.RingHash, config.Maglev} {
		for _, c := range []struct {
			name     string
			policies []config.HashPolicy
			target   string
			same     []string // fields of requests that must meet one host
			spread   func(i int) (target, fields string)
		}{
			{
				"header",
				[]config.HashPolicy{{Header: "x-user"}},
				"/",
				[]string{"X-User: a\r\n", "x-user:a\r\n", "x-user: a\r\nother: 1\r\n"},
				func(i int) (string, string) { return "/", fmt.Sprintf("x-user: %d\r\n", i) },
			},
			{
				"lines in any order",
				[]config.HashPolicy{{Header: "x-user"}},
				"/",
				[]string{"x-user: a\r\nx-user: b\r\n", "x-user: b\r\nx-user: a\r\n"},
				func(i int) (string, string) { return "/", fmt.Sprintf("x-user: a\r\nx-user: %d\r\n", i) },
			},
			{
				"cookie",
				[]config.HashPolicy{{Cookie: "sid"}},
				"/",
				[]string{"cookie: sid=a\r\n", "cookie: x=y; sid=a; sid=b\r\n", "cookie: x\r\ncookie: sid=\"a\"\r\n", "cookie: asid=b;sid=a\r\n"},
				func(i int) (string, string) { return "/", fmt.Sprintf("cookie: sid=%d\r\n", i) },
			},
			{
				"path",
				[]config.HashPolicy{{Header: ":path"}},
				"/a?b",
				[]string{"", "x: y\r\n"},
				func(i int) (string, string) { return fmt.Sprintf("/a?%d", i), "" },
			},
			{
				"source address",
				[]config.HashPolicy{{SourceIP: true}},
				"/",
				[]string{"x-forwarded-for: 10.0.0.1\r\n", "x-forwarded-for: 10.9.9.9, 10.0.0.1\r\n", "x-forwarded-for: 1.1.1.1\r\nx-forwarded-for: 10.0.0.1 \r\n"},
				func(i int) (string, string) { return "/", fmt.Sprintf("x-forwarded-for: 10.0.0.%d\r\n", i) },
			},
			{
				"no address",
				[]config.HashPolicy{{SourceIP: true}},
				"/",
				[]string{"", "x-forwarded-for: nobody\r\n", "x-forwarded-for: fe80::1%eth0\r\n", "x-forwarded-for: " + strings.Repeat("1", 100) + "\r\n"},
				func(i int) (string, string) { return "/", fmt.Sprintf("x-forwarded-for: 10.0.0.%d\r\n", i) },
			},
			{
				"terminal",
				[]config.HashPolicy{{Header: "first", Terminal: true}, {Header: "x-user"}},
				"/",
				[]string{"first: a\r\nx-user: b\r\n", "first: a\r\nx-user: c\r\n", "first: a\r\n"},
				func(i int) (string, string) { return "/", fmt.Sprintf("x-user: %d\r\n", i) },
			},
			{
				"both",
				[]config.HashPolicy{{Header: "first"}, {Header: "x-user"}},
				"/",
				[]string{"first: a\r\nx-user: b\r\n", "x-user: b\r\nfirst: a\r\n"},
				func(i int) (string, string) { return "/", fmt.Sprintf("first: a\r\nx-user: %d\r\n", i) },
			},
		} {
			t.Run(fmt.Sprint(c.name, policy), func(t *testing.T) {
				p := hashed(t, policy, nil, c.policies...)
				all := map[string]int{}
				for _, fields := range c.same {
					for body, n := range chosen(p, 5, c.target, fields) {
						all[body] += n
					}
				}
				if len(all) != 1 {
					t.Errorf("equal values met %v", all)
				}
				spread := map[string]bool{}
				for i := range 40 {
					target, fields := c.spread(i)
					for body := range chosen(p, 1, target, fields) {
						spread[body] = true
					}
				}
				if len(spread) < 4 {
					t.Errorf("40 values met only %v", spread)
				}
			})
		}
	}
}

func TestRequestsWithoutKeyAreSpread(t *testing.T) {
	p := hashed(t, config.RingHash, nil, config.HashPolicy{Header: "x-user"})
	if got := chosen(p, 60, "/", ""); len(got) < 4 {
		t.Errorf("got %v", got)
	}
	if size := p.stat("cluster.web.ring_hash_lb.size"); size != "1024" {
		t.Errorf("ring_hash_lb.size is %s", size)
	}
}

// TestHashSurvivesTheLossOfItsHost: the host of a key cannot be reached, another one answers, and it is the same for the key's
// next requests as long as that lasts.
func TestHashSurvivesTheLossOfItsHost(t *testing.T) {
	dead := freeAddr(t).String()
	live := server(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok") })
	c := cluster("web", dead, live)
	c.Policy = config.Maglev
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Hash = []config.HashPolicy{{Header: "x-user"}}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(c)}, nil)
	for i := range 20 {
		if got := chosen(p, 1, "/", fmt.Sprintf("x-user: %d\r\n", i)); got["ok"] != 1 {
			t.Errorf("got %v", got)
		}
	}
	if p.stat("cluster.web.upstream_rq_retry_success") == "0" {
		t.Error("no key belonged to the dead host")
	}
}

// TestNewPlanReachesTheLoops: a host that is no longer healthy gets nothing, whichever loop serves the request.
func TestNewPlanReachesTheLoops(t *testing.T) {
	p := hashed(t, config.Maglev, nil, config.HashPolicy{Header: "x-user"})
	first := chosen(p, 4, "/", "x-user: a\r\n")
	if len(first) != 1 {
		t.Fatalf("got %v", first)
	}
	before := p.config.Load()
	next := *before
	web := *before.Clusters["web"]
	web.Endpoints = nil
	for i, e := range before.Clusters["web"].Endpoints {
		if first[fmt.Sprint(i)] > 0 {
			sick := *e
			sick.Health = config.Unhealthy
			e = &sick
		}
		web.Endpoints = append(web.Endpoints, e)
	}
	web.MaxRequests = 77
	next.Clusters = clusters(&web)
	p.config.Set(&next)
	for range 500 {
		if strings.Contains(p.adminGet("/clusters"), "max_requests::77\n") && p.stat("cluster.web.membership_healthy") == "7" {
			break
		}
	}
	got := chosen(p, 10, "/", "x-user: a\r\n")
	for host := range first {
		if len(got) != 1 || got[host] > 0 {
			t.Errorf("got %v, want another host than %v", got, first)
		}
	}
}

// TestHashAllocatesNothing: a request with several policies, and several lines of a field, costs no allocation either.
func TestHashAllocatesNothing(t *testing.T) {
	response := []byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nendz")
	backend := rawBackend(t, func(conn net.Conn, _ *bufio.Reader) {
		buf := make([]byte, 4096)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			if _, err := conn.Write(response); err != nil {
				return
			}
		}
	})
	c := cluster("web", backend, freeAddr(t).String())
	c.Policy, c.Endpoints[1].Health = config.RingHash, config.Unhealthy
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Hash = []config.HashPolicy{{Header: "x-user"}, {Cookie: "sid"}, {Header: ":path"}, {SourceIP: true}}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(c)}, func(o *proxy.Options) { o.AccessLog, o.Loops = io.Discard, 1 })
	conn := p.dial()
	request := []byte("GET /a?b HTTP/1.1\r\nHost: web.mesh.internal\r\nx-user: a\r\nx-user: b\r\ncookie: x=y; sid=1\r\n\r\n")
	buf := make([]byte, 4096)
	run := func(n int) {
		for range n {
			_, _ = conn.Write(request)
			for got := 0; !bytes.HasSuffix(buf[:got], []byte("endz")); {
				m, err := conn.Read(buf[got:])
				if err != nil {
					t.Fatal(err)
				}
				got += m
			}
		}
	}
	run(500)
	const n = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run(n)
	runtime.ReadMemStats(&after)
	if allocs := after.Mallocs - before.Mallocs; allocs > n/20 {
		t.Errorf("%d allocations for %d requests", allocs, n)
	}
}
