package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/registry"
)

// polled is a poller that runs on a zone, and what it said.
type polled struct {
	mu    sync.Mutex
	views []string
	at    []time.Duration
	ended error // what Watch would return
	began time.Time
	stop  func()
}

func poll(t *testing.T, z *zone, cfg Config) *polled {
	t.Helper()
	r, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	return pollAgain(t, z, r)
}

func pollAgain(t *testing.T, z *zone, r *Registry) *polled {
	ctx, cancel := context.WithCancel(t.Context())
	p := &polled{began: time.Now()}
	group, ctx := errgroup.WithContext(ctx)
	poller := newPoller(r)
	poller.start(ctx, group, &lookup{ask: z})
	group.Go(func() error {
		return poller.run(ctx, func(v registry.View) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.views, p.at = append(p.views, text(v)), append(p.at, time.Since(p.began))
			if err := v.Validate(); err != nil {
				t.Error(err)
			}
		})
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := group.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended = err
	}()
	p.stop = func() { cancel(); <-done }
	return p
}

// text is a view in one line: "name=id,id … !problem".
func text(v registry.View) string {
	var words []string
	for _, s := range v.Services {
		var ids []string
		for _, e := range s.Endpoints {
			ids = append(ids, e.ID)
		}
		words = append(words, s.Name.Name+"="+strings.Join(ids, ","))
	}
	for _, p := range v.Problems {
		words = append(words, "!"+p.Object+": "+p.Reason)
	}
	return strings.Join(words, " ")
}

func (p *polled) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.views) == 0 {
		return "no view"
	}
	return p.views[len(p.views)-1]
}

func (p *polled) want(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	if got := p.last(); got != want {
		t.Errorf("after %s: got %q, want %q", time.Since(p.began), got, want)
	}
}

func (p *polled) err() error {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

func hosts(names ...string) []Service {
	var services []Service
	for _, n := range names {
		services = append(services, Service{Name: n, Host: n + ".example", Port: 80, Family: IPv4})
	}
	return services
}

var errServfail = refusal(dns.RcodeServerFailure)

func TestEachNameAtItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "a.example. 100 A 192.0.2.1\nb.example. 0 A 192.0.2.2")
		p := poll(t, z, Config{Services: hosts("a", "b")})
		defer p.stop()
		p.want(t, "a=192.0.2.1:80 b=192.0.2.2:80")
		time.Sleep(99 * time.Second)
		if a, b := z.count("A a.example."), z.count("A b.example."); a != 1 || b < 90 || b > 100 {
			t.Errorf("a was asked for %d times, want once; b %d times, want about once a second", a, b)
		}
		z.set(t, "a.example. 100 A 192.0.2.3\nb.example. 0 A 192.0.2.2")
		time.Sleep(9 * time.Second) // its TTL, and a sixteenth at most
		p.want(t, "a=192.0.2.3:80 b=192.0.2.2:80")
		if len(p.views) != 2 {
			t.Errorf("%d views, want none that says the same again: %q", len(p.views), p.views)
		}
	})
}

func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "a.example. 86400 A 192.0.2.1")
		p := poll(t, z, Config{Services: hosts("a"), Interval: 10 * time.Second})
		defer p.stop()
		time.Sleep(100 * time.Second)
		if n := z.count("A a.example."); n < 9 || n > 11 {
			t.Errorf("asked %d times in 100 s, want about 10", n)
		}
	})
}

func TestNoSuchNameIsAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "a.example. 1 A 192.0.2.1")
		p := poll(t, z, Config{Services: hosts("a", "b")})
		defer p.stop()
		p.want(t, "a=192.0.2.1:80 b=")
		z.set(t, "b.example. 1 A 192.0.2.2")
		time.Sleep(1100 * time.Millisecond)
		p.want(t, "a= b=192.0.2.2:80")
	})
}

// TestOneNameFails shows that it keeps its last answer, is told, and that its neighbours go on.
func TestOneNameFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "a.example. 1 A 192.0.2.1\nb.example. 300 A 192.0.2.2\nc.example. 1 A 192.0.2.3")
		p := poll(t, z, Config{Services: hosts("a", "b", "c")})
		defer p.stop()
		p.want(t, "a=192.0.2.1:80 b=192.0.2.2:80 c=192.0.2.3:80")
		z.broken("a.example.", errServfail)
		time.Sleep(1100 * time.Millisecond)
		p.want(t, "a=192.0.2.1:80 b=192.0.2.2:80 c=192.0.2.3:80 !default/a at a.example.:80: SERVFAIL")
		z.set(t, "a.example. 1 A 192.0.2.1\nb.example. 300 A 192.0.2.2\nc.example. 1 A 192.0.2.4")
		time.Sleep(time.Minute)
		p.want(t, "a=192.0.2.1:80 b=192.0.2.2:80 c=192.0.2.4:80 !default/a at a.example.:80: SERVFAIL")
		if err := p.err(); err != nil {
			t.Errorf("Watch fails although others are answered: %v", err)
		}
		z.broken("a.example.", nil)
		time.Sleep(700 * time.Millisecond)
		p.want(t, "a=192.0.2.1:80 b=192.0.2.2:80 c=192.0.2.4:80")
	})
}

// TestOneOfTwoLongLivedNamesFails: nobody would ask about the other for minutes, so it is asked as a witness.
func TestOneOfTwoLongLivedNamesFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "a.example. 1 A 192.0.2.1\nb.example. 300 A 192.0.2.2")
		p := poll(t, z, Config{Services: hosts("a", "b")})
		defer p.stop()
		z.broken("a.example.", errServfail)
		time.Sleep(10 * time.Second)
		if err := p.err(); err != nil {
			t.Errorf("Watch fails although b is answered: %v", err)
		}
		z.broken("*", errServfail)
		time.Sleep(4 * time.Second)
		if err := p.err(); err == nil {
			t.Error("nothing is answered and Watch has not failed")
		}
		if strings.Contains(p.last(), "a= ") || strings.Contains(p.last(), "b= ") {
			t.Errorf("lost: %s", p.last())
		}
	})
}

func TestAllNamesFail(t *testing.T) {
	refused := fmt.Errorf("%w: REFUSED", registry.ErrPermission)
	for _, c := range []struct {
		name       string
		first, all error
		permission bool
	}{
		{"silence", errServfail, errServfail, false},
		{"refused", refused, refused, true},
		{"some refused", errServfail, refused, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z := newZone(t, "")
				z.broken("b.example.", c.first)
				z.broken("a.example.", c.all)
				p := poll(t, z, Config{Services: hosts("a", "b")})
				defer p.stop()
				time.Sleep(2500 * time.Millisecond)
				err := p.err()
				if err == nil || errors.Is(err, registry.ErrPermission) != c.permission {
					t.Errorf("got error %v, want one about permission: %t", err, c.permission)
				}
				if got := p.last(); got != "no view" {
					t.Errorf("published %q, want nothing", got)
				}
			})
		})
	}
}

// TestFirstView waits for each name, but not for ever; what failed keeps its last answer when Watch is called again.
func TestFirstView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(t, "a.example. 1 A 192.0.2.1\nb.example. 1 A 192.0.2.2")
		z.broken("b.example.", errServfail)
		r, err := New(Config{Services: hosts("a", "b")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := pollAgain(t, z, r)
		time.Sleep(4900 * time.Millisecond)
		p.want(t, "no view")
		time.Sleep(200 * time.Millisecond)
		p.want(t, "a=192.0.2.1:80 !default/b at b.example.:80: SERVFAIL")
		z.broken("b.example.", nil)
		time.Sleep(time.Second)
		p.want(t, "a=192.0.2.1:80 b=192.0.2.2:80")
		p.stop()

		z.broken("b.example.", errServfail)
		z.set(t, "a.example. 1 A 192.0.2.9")
		p = pollAgain(t, z, r)
		defer p.stop()
		time.Sleep(5100 * time.Millisecond)
		p.want(t, "a=192.0.2.9:80 b=192.0.2.2:80 !default/b at b.example.:80: SERVFAIL")
	})
}

// TestManyFailingNames bounds what is asked for in vain.
func TestManyFailingNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range 2000 {
			names = append(names, fmt.Sprintf("n%d", i))
		}
		z := newZone(t, "ok.example. 1 A 192.0.2.1")
		for _, n := range names {
			z.broken(n+".example.", errServfail)
		}
		p := poll(t, z, Config{Services: append(hosts(names...), hosts("ok")...)})
		defer p.stop()
		time.Sleep(30 * time.Second)
		before := 0
		for _, n := range names {
			before += z.count("A " + n + ".example.")
		}
		time.Sleep(30 * time.Second)
		after := 0
		for _, n := range names {
			after += z.count("A " + n + ".example.")
		}
		if asked := after - before; asked > 30*200+2000 {
			t.Errorf("2000 names that fail were asked for %d times in 30 s, want about 200 a second", asked)
		}
		if p.err() != nil {
			t.Error(p.err())
		}
	})
}
