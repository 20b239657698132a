package gossip

import (
	"strings"
	"testing"
	"time"

	ring "github.com/hostmesh/hostmesh/internal/gossip"
)

func TestObserver(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	type step struct {
		at    float64 // seconds
		hosts string  // "a" alive, "a:-3" dead since that second, "a/4" left, "a~" leaving
		want  string  // "a" as announced, "a-" unhealthy, "a†" dead and unhealthy, "a~" draining, "!" first when in doubt, "x" after "×" forgotten
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"the only host's death is seen", []step{{0, "a", "a"}, {3, "a:3", "a†"}, {62, "a:3", "a†"}, {63, "a:3", "×a"}}},
		{"one of two", []step{{0, "a b", "a b"}, {3, "a:3 b", "a† b"}}},
		{"one of three", []step{{3, "a:3 b c", "a† b c"}}},
		{"two of three", []step{{3, "a:3 b c", "a† b c"}, {4, "a:3 b:4 c", "!a b c"}}},
		{"slowly, one by one", []step{
			{3, "a:3 b c", "a† b c"}, {13, "a:3 b:13 c", "a† b† c"}, {23, "a:3 b:13 c:23", "a† b† c†"},
		}},
		{"doubt outlasts the window, and removes nothing", []step{
			{3, "a:3 b:3 c", "!a b c"}, {30, "a:3 b:3 c", "!a b c"}, {63, "a:3 b:3 c", "!a- b- c"}, {900, "a:3 b:3 c", "!a- b- c"},
		}},
		{"one that died before is dead in a doubt too", []step{
			{3, "a:3 b c d e", "a† b c d e"}, {20, "a:3 b:20 c:20 d e", "!a† b c d e"}, {40, "a:3 b c:20 d e", "a† b c† d e"},
		}},
		{"enough come back", []step{
			{3, "a:3 b:3 c d", "!a b c d"}, {20, "a b:3 c d", "a b† c d"}, {63, "a b:3 c d", "a c d×b"},
		}},
		{"another one dies during a doubt", []step{
			{3, "a:3 b:3 c d", "!a b c d"}, {40, "a:3 b:3 c:40 d", "!a b c d"},
		}},
		{"leaving in order is no death", []step{
			{1, "a~ b~ c", "a~ b~ c"}, {2, "a/2 b/2 c", "a~ b~ c"}, {4, "a/2 b/2 c", "c×a b"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newObserver(time.Minute)
			for _, s := range c.steps {
				j := o.judge(parseHosts(t, s.hosts, at), at(s.at))
				var got []string
				for _, h := range j.hosts {
					mark := map[effect]string{unhealthy: "-", draining: "~"}[h.effect]
					if h.dead {
						mark = strings.Replace(mark+"†", "-†", "†", 1)
					}
					got = append(got, h.host.ID+mark)
				}
				text := strings.Join(got, " ")
				if j.doubt != "" {
					text = "!" + text
				}
				if len(j.forget) > 0 {
					text += "×" + strings.Join(j.forget, " ")
				}
				if text != s.want {
					t.Errorf("at %v of %q: got %q, want %q", s.at, s.hosts, text, s.want)
				}
				if !j.next.After(at(s.at)) {
					t.Errorf("at %v: next look at %v is not later", s.at, j.next)
				}
			}
		})
	}
}

func parseHosts(t *testing.T, text string, at func(float64) time.Time) []ring.Host {
	t.Helper()
	var hosts []ring.Host
	for _, word := range strings.Fields(text) {
		h := ring.Host{ID: word[:1], State: ring.Alive, Since: at(0)}
		if len(word) > 1 {
			var since time.Duration
			if word[1] != '~' {
				var err error
				if since, err = time.ParseDuration(word[2:] + "s"); err != nil {
					t.Fatal(err)
				}
			}
			h.Since = at(since.Seconds())
			h.State = map[byte]ring.State{':': ring.Dead, '/': ring.Left, '~': ring.Leaving}[word[1]]
		}
		hosts = append(hosts, h)
	}
	return hosts
}
