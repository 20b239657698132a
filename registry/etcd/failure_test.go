package etcd_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/etcd"
)

const endpoint1 = `{"address":"10.0.0.1","port":80}`

// TestWhatIsTold has a mistake in each part of the configuration told with what to do.
func TestWhatIsTold(t *testing.T) {
	t.Parallel()
	plain := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	tls := testbed.StartEtcd(t, testbed.EtcdOptions{Mode: testbed.EtcdTLS})[0]
	web := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(web.Close)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	_ = free.Close()
	for name, test := range map[string]struct {
		cfg   etcd.Config
		words []string
	}{
		"nobody there":      {etcd.Config{Endpoints: []string{nobody}}, []string{nobody, "connection refused", "check endpoints"}},
		"nobody answers":    {etcd.Config{Endpoints: []string{silent.Addr().String()}, DialTimeout: time.Second}, []string{"no answer within 1s", "check endpoints"}},
		"no etcd":           {etcd.Config{Endpoints: []string{web.URL}}, []string{"check that etcd's client port is there"}},
		"no such host":      {etcd.Config{Endpoints: []string{"nowhere.invalid:2379"}}, []string{"check the host's name"}},
		"TLS to plain":      {etcd.Config{Endpoints: []string{strings.Replace(plain.Address, "http:", "https:", 1)}}, []string{"use http://"}},
		"plain to TLS":      {etcd.Config{Endpoints: []string{strings.Replace(tls.Address, "https:", "http:", 1)}}, []string{"https://"}},
		"no CA":             {etcd.Config{Endpoints: []string{tls.Address}}, []string{"set caFile"}},
		"no certificate":    {etcd.Config{Endpoints: []string{tls.Address}, CAFile: tls.Certs.CAFile}, []string{"set certFile and keyFile"}},
		"other name":        {func() etcd.Config { c := tlsConfig(tls); c.ServerName = "other"; return c }(), []string{"set serverName"}},
		"CA file not there": {func() etcd.Config { c := tlsConfig(tls); c.CAFile = "/nonexistent"; return c }(), []string{"read CA file"}},
		"two, none there":   {etcd.Config{Endpoints: []string{nobody, web.URL}}, []string{nobody, "connection refused", "client port"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := watch(t, test.cfg)
			err := w.fails(t, name, test.words...)
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 2000 {
				t.Errorf("no error for one line of a log: %q", err)
			}
			if w.published() > 0 {
				t.Error("a view was published")
			}
		})
	}
}

// TestFirstEndpointsAreDead has the one that works last, behind one that refuses and one that hangs.
func TestFirstEndpointsAreDead(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	write(t, server, servicesPrefix+"web/1", endpoint1)
	dead, hanging := testbed.NewLink(t, hostOf(server)), testbed.NewLink(t, hostOf(server))
	dead.Cut()
	hanging.Hold()
	w := watch(t, etcd.Config{Endpoints: []string{dead.Address, hanging.Address, server.Address}})
	w.sees(t, "the endpoint", exactly("default/web 1"))
	if errs := w.errors(); len(errs) > 0 {
		t.Errorf("Watch failed: %v", errs)
	}
}

// TestConnectionHangsAndAnotherIsTaken lets the connection in use hang for ever.
func TestConnectionHangsAndAnotherIsTaken(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	write(t, server, servicesPrefix+"web/1", endpoint1)
	first := testbed.NewLink(t, hostOf(server))
	w := watch(t, etcd.Config{Endpoints: []string{first.Address, server.Address}})
	w.sees(t, "the endpoint", exactly("default/web 1"))
	w.promise(holds("default/web 1"))
	first.Hold()
	w.fails(t, "the connection hangs", "no answer within 3s")
	write(t, server, servicesPrefix+"web/2", endpoint1)
	w.sees(t, "a change over the other", exactly("default/web 1", "default/web 2"))
}

// TestMemberWithoutLeader leaves one member of a cluster alone: its connections work, it has all the data, and it may
// not be believed.
func TestMemberWithoutLeader(t *testing.T) {
	t.Parallel()
	servers := testbed.StartEtcd(t, testbed.EtcdOptions{Mode: testbed.EtcdCluster})
	write(t, servers[0], servicesPrefix+"web/1", endpoint1)
	w := watch(t, etcd.Config{Endpoints: []string{servers[0].Address}})
	w.sees(t, "the endpoint", exactly("default/web 1"))
	w.promise(holds("default/web 1"))
	servers[1].Kill()
	servers[2].Kill()
	w.fails(t, "alone", "watch etcd")
	w.forget()
	w.fails(t, "alone, asked again", "cut off from its cluster")
	before := w.published()

	// Another endpoint that has a leader is taken.
	other := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	write(t, other, servicesPrefix+"web/other", endpoint1)
	both := watch(t, etcd.Config{Endpoints: []string{servers[0].Address, other.Address}})
	both.sees(t, "what the other has", exactly("default/web other"))
	if n := w.published(); n != before {
		t.Errorf("%d views were published by a member without a leader", n-before)
	}

	servers[1].Start()
	servers[2].Start()
	servers[1].AwaitReady()
	write(t, servers[1], servicesPrefix+"web/2", endpoint1)
	w.sees(t, "a change after the others are back", exactly("default/web 1", "default/web 2"))
}

// TestCompactedBetweenListAndWatch has the history compacted that the watch needs, while the first view is published.
func TestCompactedBetweenListAndWatch(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	client := server.Client()
	write(t, server, servicesPrefix+"web/1", endpoint1)
	write(t, server, servicesPrefix+"web/gone", endpoint1)
	r := newRegistry(t, etcd.Config{Endpoints: []string{server.Address}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var views [][]string
	err := r.Watch(ctx, func(v registry.View) {
		views = append(views, names(v))
		switch len(views) {
		case 1:
			if _, err := client.Delete(ctx, servicesPrefix+"web/gone"); err != nil {
				t.Error(err)
			}
			for i := range 5 {
				write(t, server, servicesPrefix+"web/2", fmt.Sprintf(`{"address":"10.0.0.%d","port":80}`, i+1))
			}
			(&driver{client}).compact(t)
		case 2:
			write(t, server, servicesPrefix+"web/3", endpoint1)
		case 3:
			cancel()
		}
	})
	if ctx.Err() == nil {
		t.Fatalf("Watch: %v", err)
	}
	want := fmt.Sprint([][]string{
		{"default/web 1", "default/web gone"}, {"default/web 1", "default/web 2"}, {"default/web 1", "default/web 2", "default/web 3"},
	})
	if got := fmt.Sprint(views); got != want {
		t.Errorf("views: got %s, want %s", got, want)
	}
}

// TestLargeValues lists more bytes in one page than a message may have: the page gets smaller.
func TestLargeValues(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	client := server.Client()
	huge := `{"address":"10.0.0.1","port":80,"x":"` + strings.Repeat("x", 1<<20) + `"}`
	var writers sync.WaitGroup
	for part := range 2 {
		writers.Go(func() {
			for i := range 40 {
				if _, err := client.Put(t.Context(), fmt.Sprintf("%shuge/%d-%02d", servicesPrefix, part, i), huge); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	write(t, server, servicesPrefix+"web/1", endpoint1)
	w := watch(t, etcd.Config{Endpoints: []string{server.Address}})
	v := w.sees(t, "the neighbour of what is too large", exactly("default/web 1"))
	if len(v.Problems) != 80 || !strings.Contains(v.Problems[0].Reason, "want at most 65536") {
		t.Errorf("problems: got %d, want 80 that tell of the size: %.500v", len(v.Problems), v.Problems)
	}
}

// TestLastGoodStateStays has an entry become unreadable, over a failure of the connection too.
func TestLastGoodStateStays(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	write(t, server, servicesPrefix+"web/1", endpoint1)
	write(t, server, servicesPrefix+"web/2", endpoint1)
	w := watch(t, etcd.Config{Endpoints: []string{server.Address}})
	w.sees(t, "both", exactly("default/web 1", "default/web 2"))
	w.promise(holds("default/web 1"))
	write(t, server, servicesPrefix+"web/1", `{"address":"10.0.0.1","port":"eighty"}`)
	bad := func(v registry.View) bool {
		return len(v.Problems) == 1 && v.Problems[0].Object == servicesPrefix+"web/1" && strings.Contains(v.Problems[0].Reason, "got port: string")
	}
	w.sees(t, "a problem", bad)
	server.Restart()
	write(t, server, servicesPrefix+"web/3", endpoint1)
	w.sees(t, "a change after the restart", func(v registry.View) bool {
		return bad(v) && exactly("default/web 1", "default/web 2", "default/web 3")(v)
	})
	write(t, server, servicesPrefix+"web/1", `{"address":"10.0.0.9","port":80}`)
	w.sees(t, "the entry repaired", func(v registry.View) bool {
		return len(v.Problems) == 0 && v.Services[0].Endpoints[0].Addr.String() == "10.0.0.9"
	})
}

// TestCostsLittle runs a Watch for longer than a stock etcd needs to find a client's pings too many, and sees that its
// questions write nothing.
func TestCostsLittle(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	write(t, server, servicesPrefix+"web/1", endpoint1)
	w := watch(t, etcd.Config{Endpoints: []string{server.Address}, KeepAliveTime: 100 * time.Millisecond})
	w.sees(t, "the endpoint", exactly("default/web 1"))
	client := server.Client()
	before, err := client.Status(t.Context(), server.Address)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(12 * time.Second)
	after, err := client.Status(t.Context(), server.Address)
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.RaftIndex - before.RaftIndex; grown > 10 {
		t.Errorf("etcd's log has grown by %d entries", grown)
	}
	if errs := w.errors(); len(errs) > 0 {
		t.Errorf("Watch failed: %v", errs)
	}
}

// TestLeaseEnds has an instance leave as one does that dies.
func TestLeaseEnds(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	client := server.Client()
	lease, err := client.Grant(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(t.Context(), servicesPrefix+"web/mortal", endpoint1, clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	write(t, server, servicesPrefix+"web/1", endpoint1)
	w := watch(t, etcd.Config{Endpoints: []string{server.Address}})
	w.sees(t, "both", exactly("default/web 1", "default/web mortal"))
	w.sees(t, "the end of the lease", exactly("default/web 1"))
}

// TestNothingIsLeftOfAttempts has Watch fail at endpoints that refuse, hang and are no etcd.
func TestNothingIsLeftOfAttempts(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	r := newRegistry(t, etcd.Config{
		Endpoints:   []string{"127.0.0.1:1", silent.Addr().String(), web.URL},
		DialTimeout: 500 * time.Millisecond, Username: "u", PasswordFile: secretFile(t, password),
	})
	before := runtime.NumGoroutine()
	for range 5 {
		if err := r.Watch(t.Context(), func(registry.View) { t.Error("a view is published") }); err == nil {
			t.Fatal("Watch returned no error")
		}
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("goroutines are left: %d, %d before\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
