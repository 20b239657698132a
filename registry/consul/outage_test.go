package consul_test

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
)

// TestClusterLosesItsLeaderAndAllServers kills the leader, then stops all servers and starts them again. No view may
// lose anything, and what changes after each recovery must arrive.
func TestClusterLosesItsLeaderAndAllServers(t *testing.T) {
	t.Parallel()
	servers := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulCluster})
	const services = 5
	if err := testbed.LoadConsul(t.Context(), servers[0].Client(), services, 2); err != nil {
		t.Fatal(err)
	}
	leader := 0
	for i, s := range servers {
		if s.IsLeader() {
			leader = i
		}
	}
	follower := servers[(leader+1)%3]
	f := follow(t, consul.Config{Address: follower.Address})
	whole := func(v registry.View) bool {
		for i := range services {
			if len(endpoints(v, testbed.LoadedServiceName(i))) != 2 {
				return false
			}
		}
		return true
	}
	f.sees(t, "all services", whole)
	f.promise(whole)

	change := func(what, version string) {
		t.Helper()
		ops := testbed.LoadedEndpoint(3, 1, 2)
		ops[0].Service.Service.Meta["version"] = version
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			ok, response, _, err := follower.Client().Txn().Txn(ops, nil)
			if err == nil && ok {
				break
			}
			if time.Now().After(deadline) { // right after an election writes may still fail
				t.Fatal(err, response)
			}
		}
		f.sees(t, what, func(v registry.View) bool {
			return endpoints(v, testbed.LoadedServiceName(3))[1].Labels["version"] == version
		})
	}
	change("a change", "v2")

	servers[leader].Kill()
	follower.AwaitLeader()
	for { // a follower may for a while name a leader that is not there any more
		if _, _, err := follower.Client().Catalog().Services(&api.QueryOptions{RequireConsistent: true}); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	change("a change after the leader was lost", "v3")
	servers[leader].Start()
	servers[leader].AwaitLeader()

	for _, s := range servers {
		s.Kill()
	}
	if err := f.fails(t, "all servers are gone"); err == nil {
		t.Error("no error")
	}
	for _, s := range servers {
		s.Start()
	}
	for _, s := range servers {
		s.AwaitLeader()
	}
	change("a change after all servers were lost", "v4")
}

// TestServerHangs stops the server's execution, which leaves its connections open.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	server := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulTLS})[0]
	if err := testbed.LoadConsul(t.Context(), server.Client(), 2, 1); err != nil {
		t.Fatal(err)
	}
	f := follow(t, consul.Config{Address: server.Address, CAFile: server.Certs.CAFile})
	f.sees(t, "all services", hasEndpoints("svc-0001", 1))
	f.promise(hasEndpoints("svc-0001", 1))
	server.Pause()
	t.Log(f.fails(t, "the server hangs"))
	server.Continue()
	if err := testbed.LoadConsul(t.Context(), server.Client(), 3, 1); err != nil {
		t.Fatal(err)
	}
	f.sees(t, "what changed after it", hasEndpoints("svc-0002", 1))
}

// TestNonsense stands between a real Consul and the adapter and spoils answers in all ways that come to mind. The
// adapter must fail, publish nothing, and go on when the answers are Consul's again.
func TestNonsense(t *testing.T) {
	t.Parallel()
	server := testbed.StartConsul(t, testbed.ConsulOptions{})[0]
	if err := testbed.LoadConsul(t.Context(), server.Client(), 3, 2); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	only := func(part string, spoil func(*http.Response, []byte) []byte) func(*http.Response, []byte) []byte {
		return func(r *http.Response, body []byte) []byte {
			if strings.Contains(r.Request.URL.Path, part) {
				return spoil(r, body)
			}
			return body
		}
	}
	fixed := func(text string) func(*http.Response, []byte) []byte {
		return func(*http.Response, []byte) []byte { return []byte(text) }
	}
	changes := 0
	for name, spoil := range map[string]func(*http.Response, []byte) []byte{
		"status 500": func(r *http.Response, _ []byte) []byte { r.StatusCode = 500; return []byte("rpc error") },
		"html": func(r *http.Response, _ []byte) []byte {
			r.Header.Set("Content-Type", "text/html")
			return []byte("<html>")
		},
		"truncated list":      only("/catalog/services", func(_ *http.Response, b []byte) []byte { return b[:len(b)/2] }),
		"truncated instances": only("svc-0001", func(_ *http.Response, b []byte) []byte { return b[:len(b)/2] }),
		"empty list":          only("/catalog/services", fixed("{}")),
		"null list":           only("/catalog/services", fixed("null")),
		"object of instances": only("svc-0001", fixed("{}")),
		"null instances":      only("svc-0001", fixed("null")),
		"instances hidden":    only("svc-0001", fixed("[]")),
		"wrong index": only("svc-0002", func(r *http.Response, b []byte) []byte {
			r.Header.Set("X-Consul-Index", "many")
			return b
		}),
	} {
		t.Run(name, func(t *testing.T) {
			var spoiled atomic.Bool
			spoiled.Store(true)
			proxy := httputil.NewSingleHostReverseProxy(target)
			proxy.ErrorLog = log.New(io.Discard, "", 0)
			proxy.ModifyResponse = func(r *http.Response) error {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return err
				}
				if spoiled.Load() {
					body = spoil(r, body)
				}
				r.Header.Del("Content-Length")
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
				return nil
			}
			front := httptest.NewServer(proxy)
			t.Cleanup(front.Close)
			f := follow(t, consul.Config{Address: front.URL})
			t.Log(f.fails(t, "spoiled answers"))
			if f.published() {
				t.Error("a view was published of spoiled answers")
			}
			spoiled.Store(false)
			f.sees(t, "the truth", func(v registry.View) bool { return len(v.Services) == 3 && hasEndpoints("svc-0001", 2)(v) })
			f.promise(func(v registry.View) bool { return len(v.Services) == 3 && hasEndpoints("svc-0001", 2)(v) })
			spoiled.Store(true)
			changes++
			for i := range 3 {
				ops := testbed.LoadedEndpoint(i, 0, 2)
				ops[0].Service.Service.Meta["version"] = fmt.Sprint("changed", changes)
				if ok, _, _, err := server.Client().Txn().Txn(ops, nil); err != nil || !ok {
					t.Fatal(err)
				}
			}
			f.fails(t, "spoiled answers again")
		})
	}
}
