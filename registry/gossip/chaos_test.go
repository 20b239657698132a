package gossip

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	ring "github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/registry"
)

// TestHostsComeAndGo kills hosts, starts them again and has them announce something else, at random: nothing of theirs
// vanishes from any view, and in the end the view is what the hosts say.
func TestHostsComeAndGo(t *testing.T) {
	t.Parallel()
	at := freePort(t)
	w := watch(t, Config{Config: ring.Config{Bind: at}, HostID: "control"})
	ids := []string{"a", "b", "c", "d", "e", "f"}
	hosts := make(map[string]*host) // those that live
	health := make(map[string]ring.Health)
	for _, id := range ids {
		health[id] = ring.Healthy
		hosts[id] = startHost(t, id, at, web(id, ring.Healthy))
	}
	want := func() string {
		var all []string
		for _, id := range ids {
			all = append(all, id+"="+string(health[id]))
		}
		return strings.Join(all, " ")
	}
	w.await(t, want())
	w.mu.Lock()
	seen := len(w.views) // the first hosts came one by one
	w.mu.Unlock()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 40 {
		id := ids[random.IntN(len(ids))]
		if random.IntN(2) == 0 {
			health[id] = [...]ring.Health{ring.Healthy, ring.Unhealthy, ring.Draining}[random.IntN(3)]
		}
		switch h := hosts[id]; {
		case h == nil:
			hosts[id] = startHost(t, id, at, web(id, health[id]))
		case random.IntN(2) == 0:
			h.kill(t)
			delete(hosts, id)
		default:
			h.announce(t, web(id, health[id]))
		}
		time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
	}
	for _, id := range ids {
		if hosts[id] == nil {
			hosts[id] = startHost(t, id, at, web(id, health[id]))
		}
	}
	w.await(t, want())
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, v := range w.views[seen-1:] {
		if len(v.Services) != 1 || len(v.Services[0].Endpoints) != len(ids) || len(v.Hosts) != len(ids) {
			t.Fatalf("view %d of %d is %q, of the hosts %q: something vanished", i, len(w.views)-seen+1, summary(v), hostsText(v))
		}
	}
}

// TestGate holds the first view back while announcements are late, but not for ever.
func TestGate(t *testing.T) {
	const settle = 5 * time.Second
	present := func(id string, state ring.State) ring.Host { return ring.Host{ID: id, State: state, Current: true} }
	late := func(id string, state ring.State) ring.Host { return ring.Host{ID: id, State: state} }
	member, alone, cut := ring.Status{Members: 2}, ring.Status{}, ring.Status{Problem: "join x: refused"}
	for name, test := range map[string]struct {
		seeds  bool
		all    []ring.Host
		status ring.Status
		opens  time.Duration
		err    string
	}{
		"all is there":                        {all: []ring.Host{present("a", ring.Alive)}, status: member, opens: quiet},
		"one is late":                         {all: []ring.Host{present("a", ring.Alive), late("b", ring.Alive)}, status: member, opens: 2 * settle},
		"one that leaves is late":             {all: []ring.Host{present("a", ring.Alive), late("b", ring.Leaving)}, status: member, opens: 2 * settle},
		"who is dead is not waited for":       {all: []ring.Host{present("a", ring.Alive), late("b", ring.Dead)}, status: member, opens: quiet},
		"nobody":                              {status: alone, opens: settle},
		"nobody, though seeds are there":      {seeds: true, status: member, opens: settle},
		"no seed is there":                    {seeds: true, status: cut, err: "join x: refused"},
		"no seed is there, which need not be": {status: cut, opens: settle},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Unix(1_000_000, 0)
			g := gate{start: start, settle: settle, seeds: test.seeds}
			for now := start; ; {
				open, wait, err := g.open(now, test.all, test.status)
				switch after := now.Sub(start); {
				case err != nil && err.Error() != test.err:
					t.Fatalf("got %v after %v, want %q", err, after, test.err)
				case err != nil && after < settle:
					t.Fatalf("gave up after %v", after)
				case err != nil:
					return
				case open && (after != test.opens || test.err != ""):
					t.Fatalf("opened after %v, want %v", after, test.opens)
				case open:
					return
				case wait <= 0 || after > 10*settle:
					t.Fatalf("asks to wait %v after %v", wait, after)
				}
				now = now.Add(wait)
			}
		})
	}
}

// TestLateAnnouncementIsAProblem tells of a host that lives and whose announcement is not there.
func TestLateAnnouncementIsAProblem(t *testing.T) {
	all := []ring.Host{{ID: "a", State: ring.Alive}, {ID: "b", State: ring.Dead}, {ID: "c", State: ring.Alive, Current: true, Body: &ring.Announcement{}}}
	got := problems(all, judgement{}, ring.Status{})
	if len(got) != 1 || got[0].Object != "host a" {
		t.Errorf("got %v, want a problem of host a", got)
	}
	if view := newCatalogue().update([]judged{{host: all[0]}}); len(view.Services) > 0 || view.Validate() != nil {
		t.Errorf("got %v, want a view without services", registry.View{Services: view.Services})
	}
}
