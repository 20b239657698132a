package proxy_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/takeover"
)

// next is a proxy as the successor of another in the same process.
type next struct{ *testProxy }

func (n next) Move(all []takeover.Connection) error {
	n.Adopt(context.Background(), all)
	return nil
}

func (next) Draining(int) error { return nil }

// TestListenersAddedDuringAnUpgrade are opened by the successor, in whose way the old process does not stand; without a successor by the
// old one.
func TestListenersAddedDuringAnUpgrade(t *testing.T) {
	host := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	first := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	added := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	added.Name = "added"
	with := func(all ...*config.Listener) *config.Config {
		return &config.Config{Listeners: all, Clusters: clusters(cluster("web", host))}
	}
	lend := func(t *testing.T) (*testProxy, []takeover.Socket) {
		old := start(t, with(first), nil)
		lent, err := old.Sockets(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		old.config.Set(with(first, added))
		for range 2 { // what is asked after the binder has answered it does with the new configuration
			if err := old.Keep(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		return old, lent
	}
	check := func(t *testing.T, p *testProxy) {
		t.Helper()
		for _, l := range []*config.Listener{first, added} {
			at := *p
			at.addr = l.Addresses[0]
			for range 20 {
				tr := &http.Transport{DisableKeepAlives: true}
				if status, body, err := at.get(&http.Client{Transport: tr, Timeout: 10 * time.Second}, "web.mesh.internal", "/"); status != 200 || body != "hello" || err != nil {
					t.Fatalf("%s: %d %q %v", l.Name, status, body, err)
				}
			}
		}
	}
	t.Run("handed over", func(t *testing.T) {
		old, lent := lend(t)
		begin := make(chan struct{})
		p := start(t, with(), func(o *proxy.Options) { o.Sockets, o.Start = lent, begin })
		p.config.Set(with(first, added))
		for deadline := time.Now().Add(10 * time.Second); len(p.Addresses()) < 2; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the successor has %v", p.Addresses())
			}
		}
		close(begin)
		<-p.Accepting()
		if err := old.HandOver(t.Context(), p.Addresses(), next{p}); err != nil {
			t.Fatal(err)
		}
		old.cancel()
		check(t, p)
	})
	t.Run("not handed over", func(t *testing.T) {
		old, lent := lend(t)
		for _, s := range lent {
			_ = unix.Close(s.FD)
		}
		if slices.Contains(old.Addresses(), added.Addresses[0].String()) {
			t.Error("it is opened while a successor may want it")
		}
		if err := old.Reclaim(t.Context()); err != nil {
			t.Fatal(err)
		}
		old.waitBound(added.Addresses[0])
		check(t, old)
	})
}

// TestMoreLoopsAfterAnUpgrade need more sockets. While the successor prepares, no connection waits in one of them: it might
// never be told to go.
func TestMoreLoopsAfterAnUpgrade(t *testing.T) {
	host := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	cfg := &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(cluster("web", host))}
	old := start(t, cfg, func(o *proxy.Options) { o.Loops = 1 })
	lent, err := old.Sockets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begin := make(chan struct{})
	p := start(t, &config.Config{}, func(o *proxy.Options) { o.Loops, o.Sockets, o.Start = 4, lent, begin })
	p.config.Set(cfg)
	for deadline := time.Now().Add(10 * time.Second); len(p.Addresses()) < 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the successor has no address")
		}
	}
	ask := func() {
		t.Helper()
		for i := range 40 {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			if status, body, err := p.get(client, "web.mesh.internal", "/"); status != 200 || body != "hello" || err != nil {
				t.Fatalf("request %d: %d %q %v", i, status, body, err)
			}
		}
	}
	p.addr = cfg.Listeners[0].Addresses[0]
	ask()
	close(begin)
	<-p.Accepting()
	if err := old.HandOver(t.Context(), p.Addresses(), next{p}); err != nil {
		t.Fatal(err)
	}
	old.cancel()
	ask()
}
