package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// fakeDNS says what each host has, and notes when it was asked for.
type fakeDNS struct {
	mu      sync.Mutex
	answers map[string]answer
	errs    map[string]error
	hold    time.Duration
	asked   map[string][]time.Duration // since the start
	began   time.Time
	running int
	most    int
	ended   []string // lookups that were given up
}

func newFake() *fakeDNS {
	return &fakeDNS{answers: map[string]answer{}, errs: map[string]error{}, asked: map[string][]time.Duration{}, began: time.Now()}
}

func (f *fakeDNS) set(host string, ttl time.Duration, addrs ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := answer{ttl: ttl}
	for _, text := range addrs {
		a.addrs = append(a.addrs, netip.MustParseAddr(text))
	}
	f.answers[host], f.errs[host] = a, nil
}

// slow has every lookup from now on take so long.
func (f *fakeDNS) slow(hold time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hold = hold
}

func (f *fakeDNS) fail(host string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs[host] = err
}

func (f *fakeDNS) find(ctx context.Context, _ *config.DNSLookup, host string) (answer, error) {
	f.mu.Lock()
	f.asked[host] = append(f.asked[host], time.Since(f.began))
	f.running++
	f.most = max(f.most, f.running)
	hold := f.hold
	f.mu.Unlock()
	defer func() { f.mu.Lock(); f.running--; f.mu.Unlock() }()
	select {
	case <-time.After(hold):
	case <-ctx.Done():
		f.mu.Lock()
		f.ended = append(f.ended, host)
		f.mu.Unlock()
		return answer{}, context.Cause(ctx)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.answers[host], f.errs[host]
}

func (f *fakeDNS) times(host string) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked[host])
}

// run starts a Resolver on a fake DNS, in a bubble.
func run(t *testing.T, f *fakeDNS, cfg *config.Config) (*watch.Value[*config.Config], *Resolver) {
	t.Helper()
	from := watch.New(cfg)
	r := New(from, slog.New(slog.DiscardHandler))
	r.find = f.find
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	synctest.Wait()
	return from, r
}

// dnsCluster is a cluster of names with port 80.
func dnsCluster(name string, d config.DNS, hosts ...string) *config.Cluster {
	for i, h := range hosts {
		d.Names = append(d.Names, config.DNSName{Host: h, Port: uint16(80 + i), As: config.Endpoint{Hostname: h, Weight: 1}})
	}
	if d.Refresh == 0 {
		d.Refresh = 5 * time.Second
	}
	return &config.Cluster{Name: name, Assigned: true, DNS: &d}
}

// configOf has a listener for each cluster.
func configOf(clusters ...*config.Cluster) *config.Config {
	cfg := &config.Config{Clusters: map[string]*config.Cluster{}}
	for _, c := range clusters {
		cfg.Clusters[c.Name] = c
		cfg.Listeners = append(cfg.Listeners, &config.Listener{Name: c.Name})
	}
	return cfg
}

// show writes the listeners and the endpoints of a Config.
func show(cfg *config.Config) string {
	if cfg == nil {
		return "nothing"
	}
	var words []string
	for _, l := range cfg.Listeners {
		words = append(words, l.Name)
	}
	var names []string
	for name := range cfg.Clusters {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		words = append(words, name+":")
		for _, e := range cfg.Clusters[name].Endpoints {
			words = append(words, e.Addr.String())
		}
	}
	return strings.Join(words, " ")
}

func expect(t *testing.T, r *Resolver, want string) {
	t.Helper()
	synctest.Wait()
	if got := show(r.Config().Load()); got != want {
		t.Errorf("after %s: got %s, want %s", time.Now().UTC().Format("04:05.000"), got, want)
	}
}

func TestStrictClusterFollowsItsNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.set("a.example", 0, "10.0.0.2", "10.0.0.1", "10.0.0.2")
		f.set("b.example", 0, "10.0.0.1")
		cfg := configOf(dnsCluster("c", config.DNS{}, "a.example", "b.example"))
		_, r := run(t, f, cfg)
		expect(t, r, "c c: 10.0.0.1:80 10.0.0.2:80 10.0.0.1:81")
		first := r.Config().Load().Clusters["c"]

		f.set("a.example", 0, "10.0.0.3", "10.0.0.2")
		time.Sleep(5 * time.Second)
		expect(t, r, "c c: 10.0.0.2:80 10.0.0.3:80 10.0.0.1:81")
		second := r.Config().Load().Clusters["c"]
		if second.Endpoints[0] != first.Endpoints[1] || second.Endpoints[2] != first.Endpoints[2] {
			t.Error("endpoints that stay have new pointers")
		}
		if second.DNS != cfg.Clusters["c"].DNS || len(cfg.Clusters["c"].Endpoints) != 0 {
			t.Error("the configuration that was given was changed")
		}

		time.Sleep(5 * time.Second)
		synctest.Wait()
		if r.Config().Load().Clusters["c"] != second {
			t.Error("an equal answer made another cluster")
		}
		f.set("a.example", 0) // there is nothing any more
		time.Sleep(5 * time.Second)
		expect(t, r, "c c: 10.0.0.1:81")
		want := Stats{UpdateAttempt: 8, UpdateSuccess: 8, UpdateEmpty: 1, UpdateNoRebuild: 4}
		if got := r.Stats()["c"]; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestSharedAddressIsOneHost: of an address that two names have with one port the first counts.
func TestSharedAddressIsOneHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.set("a.example", 0, "10.0.0.1")
		f.set("b.example", 0, "10.0.0.1", "10.0.0.2")
		c := dnsCluster("c", config.DNS{}, "a.example", "b.example")
		c.DNS.Names[1].Port = 80
		_, r := run(t, f, configOf(c))
		expect(t, r, "c c: 10.0.0.1:80 10.0.0.2:80")
		if e := r.Config().Load().Clusters["c"].Endpoints[0]; e.Hostname != "a.example" {
			t.Errorf("got %+v", e)
		}
	})
}

func TestLogicalClusterIsOneHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.set("a.example", 0, "10.0.0.2", "10.0.0.1")
		_, r := run(t, f, configOf(dnsCluster("c", config.DNS{Logical: true}, "a.example")))
		expect(t, r, "c c: 10.0.0.2:80") // the first of the answer, not the lowest
		f.set("a.example", 0)
		time.Sleep(5 * time.Second)
		expect(t, r, "c c: 10.0.0.2:80") // an empty answer changes nothing
		f.set("a.example", 0, "10.0.0.1")
		time.Sleep(5 * time.Second)
		expect(t, r, "c c: 10.0.0.1:80")
		want := Stats{UpdateAttempt: 3, UpdateSuccess: 2, UpdateFailure: 1, UpdateEmpty: 1}
		if got := r.Stats()["c"]; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestFailureKeepsTheLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.set("a.example", 0, "10.0.0.1")
		_, r := run(t, f, configOf(dnsCluster("c", config.DNS{}, "a.example")))
		f.fail("a.example", errors.New("SERVFAIL"))
		time.Sleep(24 * time.Hour)
		expect(t, r, "c c: 10.0.0.1:80")
		f.set("a.example", 0, "10.0.0.2")
		time.Sleep(5 * time.Second)
		expect(t, r, "c c: 10.0.0.2:80")
	})
}

// TestHalfAnAnswerKeepsTheLast: a family of which nothing could be learned is not taken for gone.
func TestHalfAnAnswerKeepsTheLast(t *testing.T) {
	for _, c := range []struct {
		name     string
		before   []string
		no4, no6 error
		want     string
	}{
		{"IPv6 was there", []string{"2001:db8::1", "10.0.0.1"}, nil, errors.New("SERVFAIL"), "c c: 10.0.0.1:80 [2001:db8::1]:80"},
		{"IPv6 was not there", []string{"10.0.0.1"}, nil, errors.New("SERVFAIL"), "c c: 10.0.0.9:80"},
		{"IPv4 was there", []string{"10.0.0.1"}, errors.New("SERVFAIL"), nil, "c c: 10.0.0.1:80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.set("a.example", 0, c.before...)
				_, r := run(t, f, configOf(dnsCluster("c", config.DNS{}, "a.example")))
				f.set("a.example", 0, "10.0.0.9")
				f.mu.Lock()
				a := f.answers["a.example"]
				a.no4, a.no6 = c.no4, c.no6
				f.answers["a.example"] = a
				f.mu.Unlock()
				time.Sleep(5 * time.Second)
				expect(t, r, c.want)
			})
		})
	}
}

// TestRemovedNamesAreNotLookedUp: neither again nor to the end.
func TestRemovedNamesAreNotLookedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.set("a.example", 0, "10.0.0.1")
		from, r := run(t, f, configOf(dnsCluster("a", config.DNS{}, "a.example")))
		f.slow(time.Second)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		from.Set(configOf())
		synctest.Wait()
		if !slices.Equal(f.ended, []string{"a.example"}) {
			t.Errorf("given up: %v", f.ended)
		}
		time.Sleep(time.Hour)
		expect(t, r, "")
		if got := len(f.times("a.example")); got != 2 {
			t.Errorf("asked %d times, want 2", got)
		}
		if got := r.Stats(); len(got) != 0 {
			t.Errorf("got stats %v of clusters that are gone", got)
		}
		if len(r.built)+len(r.names)+len(r.byOwner)+len(r.unasked)+len(r.due.heap) != 0 {
			t.Error("something of the cluster is left")
		}
	})
}

// TestChangedClusterKeepsWhatIsKnown: a change that has nothing to do with its names starts no lookup.
func TestChangedClusterKeepsWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.set("a.example", 0, "10.0.0.1")
		c := dnsCluster("c", config.DNS{Refresh: time.Hour}, "a.example")
		from, r := run(t, f, configOf(c))
		expect(t, r, "c c: 10.0.0.1:80")
		endpoint := r.Config().Load().Clusters["c"].Endpoints[0]

		other := *c
		other.MaxRequests = 7
		from.Set(configOf(&other))
		expect(t, r, "c c: 10.0.0.1:80")
		got := r.Config().Load().Clusters["c"]
		if got.MaxRequests != 7 || got.Endpoints[0] != endpoint || len(f.times("a.example")) != 1 {
			t.Errorf("got %+v, asked at %v", got, f.times("a.example"))
		}

		sooner := dnsCluster("c", config.DNS{Refresh: time.Minute}, "a.example")
		from.Set(configOf(sooner))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(f.times("a.example")); n != 2 {
			t.Errorf("with a shorter refresh rate: asked %d times, want 2", n)
		}

		f.slow(time.Second)
		f.set("a.example", 0, "10.0.0.2")
		elsewhere := dnsCluster("c", config.DNS{Refresh: time.Hour, Lookup: config.DNSLookup{Family: config.DNSV4Only}}, "a.example")
		from.Set(configOf(elsewhere))
		expect(t, r, "c c: 10.0.0.1:80")
		time.Sleep(time.Second)
		expect(t, r, "c c: 10.0.0.2:80")
	})
}

// TestLookupsAreBounded: however many names there are, and all of them get their turn.
func TestLookupsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.hold = time.Second
		var hosts []string
		for i := range 10 * maxLookups {
			hosts = append(hosts, fmt.Sprintf("h%d.example", i))
			f.set(hosts[i], 0, "10.0.0.1")
		}
		_, r := run(t, f, configOf(dnsCluster("c", config.DNS{Refresh: time.Hour}, hosts...)))
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if f.most != maxLookups || len(f.asked) != len(hosts) {
			t.Errorf("%d at a time, %d in all, want %d and %d", f.most, len(f.asked), maxLookups, len(hosts))
		}
		if got := len(r.Config().Load().Clusters["c"].Endpoints); got != len(hosts) {
			t.Errorf("got %d endpoints", got)
		}
	})
}

func TestAnswersAreBounded(t *testing.T) {
	n := newName(key{}, &config.DNS{}, time.Time{})
	var found []netip.Addr
	for i := range 3 * maxAddrs {
		found = append(found, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	n.learn(found)
	slices.Reverse(found)
	if changed := n.learn(found); changed || len(n.last) != maxAddrs {
		t.Errorf("got %d addresses, another set: %v", len(n.last), changed)
	}
}

// TestWithoutNamesNothingIsDone: a configuration without names is passed on as it is, before Run already.
func TestWithoutNamesNothingIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := configOf(&config.Cluster{Name: "s"})
		from := watch.New(cfg)
		r := New(from, slog.New(slog.DiscardHandler))
		if r.Config().Load() != cfg {
			t.Error("the first configuration is not there at once")
		}
		ctx, cancel := context.WithCancel(t.Context())
		go r.Run(ctx)
		next := configOf(&config.Cluster{Name: "s"})
		from.Set(next)
		synctest.Wait()
		if r.Config().Load() != next || len(r.Stats()) != 0 {
			t.Error("the second configuration is not passed on")
		}
		cancel()
		synctest.Wait()
	})
}
