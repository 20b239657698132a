package consul

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/registry"
)

func instance(id, service, checks string) string {
	return fmt.Sprintf(`{"Node":{"Node":"n1","Address":"10.0.0.1","Datacenter":"dc1"},"Service":{"ID":%q,"Service":"web",%s},"Checks":[%s]}`, id, service, checks)
}

func TestParse(t *testing.T) {
	passing := `{"CheckID":"c","Status":"passing"}`
	type result struct {
		Endpoints []string // ID address ports weight health
		Ports     []registry.Port
		Problems  int
	}
	for name, test := range map[string]struct {
		entries []string
		want    result
	}{
		"none": {},
		"plain": {
			[]string{instance("a", `"Port":80`, passing)},
			result{Endpoints: []string{"dc1/n1/a 10.0.0.1 [{ 80}] 1 healthy"}, Ports: []registry.Port{{}}},
		},
		"siblings of what does not decode stay": {
			[]string{instance("a", `"Port":"80"`, passing), `7`, `"x"`, `null`, instance("b", `"Port":81`, passing)},
			result{Endpoints: []string{"dc1/n1/b 10.0.0.1 [{ 81}] 1 healthy"}, Ports: []registry.Port{{}}, Problems: 4},
		},
		"bad values": {
			[]string{
				instance("a", `"Port":-1`, passing), instance("b", `"Port":65536`, passing), instance("c", `"Port":1,"Address":"0.0.0.0"`, passing),
				instance("d", `"Port":1`, `{"CheckID":"c","Status":"fine"}`), instance("e", `"Port":1,"Weights":{"Passing":-5}`, passing),
				instance("", `"Port":1`, passing), instance("f", `"Port":1,"Address":"fe80::1%eth0"`, passing), instance("g", `"Ports":[{"Name":"x","Port":1},{"Name":"x","Port":2}]`, passing),
			},
			result{Problems: 8},
		},
		"another service's":  {[]string{strings.Replace(instance("a", `"Port":80`, passing), `"web"`, `"db"`, 1)}, result{Problems: 1}},
		"twice":              {[]string{instance("a", `"Port":80`, passing), instance("a", `"Port":80`, passing)}, result{Endpoints: []string{"dc1/n1/a 10.0.0.1 [{ 80}] 1 healthy"}, Ports: []registry.Port{{}}, Problems: 1}},
		"conflict":           {[]string{instance("a", `"Port":80,"Meta":{"protocol":"http"}`, ""), instance("b", `"Port":80,"Tags":["protocol=grpc"]`, "")}, result{Endpoints: []string{"dc1/n1/a 10.0.0.1 [{ 80}] 1 unknown", "dc1/n1/b 10.0.0.1 [{ 80}] 1 unknown"}, Ports: []registry.Port{{Protocol: registry.GRPC}}, Problems: 1}},
		"one of three":       {[]string{instance("a", `"Port":80,"Meta":{"protocol":"grpc"}`, ""), instance("b", `"Port":80,"Tags":["protocol=http"]`, ""), instance("c", `"Port":80,"Meta":{"protocol":"http"}`, "")}, result{Endpoints: []string{"dc1/n1/a 10.0.0.1 [{ 80}] 1 unknown", "dc1/n1/b 10.0.0.1 [{ 80}] 1 unknown", "dc1/n1/c 10.0.0.1 [{ 80}] 1 unknown"}, Ports: []registry.Port{{Protocol: registry.HTTP}}, Problems: 1}},
		"named ports":        {[]string{instance("a", `"Ports":[{"Name":"http","Port":80,"Default":true},{"Name":"admin","Port":81}]`, passing)}, result{Endpoints: []string{"dc1/n1/a 10.0.0.1 [{admin 81} {http 80}] 1 healthy"}, Ports: []registry.Port{{Name: "admin"}, {Name: "http"}}}},
		"node maintenance":   {[]string{instance("a", `"Port":80`, passing+`,{"CheckID":"_node_maintenance","Status":"critical"}`)}, result{Endpoints: []string{"dc1/n1/a 10.0.0.1 [{ 80}] 1 draining"}, Ports: []registry.Port{{}}}},
		"nothing on warning": {[]string{instance("a", `"Port":80,"Weights":{"Passing":4,"Warning":0}`, `{"CheckID":"c","Status":"warning"}`)}, result{Endpoints: []string{"dc1/n1/a 10.0.0.1 [{ 80}] 1 unhealthy"}, Ports: []registry.Port{{}}}},
		"huge weight":        {[]string{instance("a", `"Port":80,"Weights":{"Passing":99999999,"Warning":0}`, passing)}, result{Endpoints: []string{"dc1/n1/a 10.0.0.1 [{ 80}] 65535 healthy"}, Ports: []registry.Port{{}}}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{}.withDefaults()
			p, err := cfg.parse("web", []byte("["+strings.Join(test.entries, ",")+"]"), nil)
			if err != nil {
				t.Fatal(err)
			}
			got := result{Ports: p.ports, Problems: len(p.problems)}
			for _, e := range p.endpoints {
				got.Endpoints = append(got.Endpoints, fmt.Sprintf("%s %s %v %d %s", e.ID, e.Addr, e.Ports, e.Weight, e.Health))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\nproblems: %v", diff, p.problems)
			}
			if p.instances != len(test.entries) {
				t.Errorf("%d instances, want %d", p.instances, len(test.entries))
			}
		})
	}
}

func TestBadEntryKeepsWhatItSaid(t *testing.T) {
	cfg := Config{}.withDefaults()
	before, err := cfg.parse("web", []byte("["+instance("a", `"Port":80`, "")+","+instance("b", `"Port":81`, "")+"]"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{"type": `"Port":"80"`, "value": `"Port":70000`, "address": `"Port":80,"Address":"web.example"`} {
		p, err := cfg.parse("web", []byte("["+instance("a", bad, "")+","+instance("b", `"Port":82`, "")+"]"), before)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.endpoints) != 2 || p.endpoints[0] != before.endpoints[0] || p.endpoints[1].Ports[0].Number != 82 || len(p.problems) != 1 {
			t.Errorf("%s: got %d endpoints, problems %v, want the old one, the changed one and one problem", name, len(p.endpoints), p.problems)
		} else if fresh, err := cfg.parse("web", []byte("["+instance("a", bad, "")+"]"), nil); err != nil || !p.problems[0].Stale || fresh.problems[0].Stale {
			t.Errorf("%s: %v; stale only where the old one stands: %v, %v", name, err, p.problems, fresh.problems)
		}
		if p.lost(before) {
			t.Errorf("%s: it counts as lost", name)
		}
	}
}

func TestToLabel(t *testing.T) {
	for name, want := range map[string]string{
		"web": "web", "Web": "web", "web_shop": "web-shop", "a.b/c": "a-b-c", "-web-": "web", "___": "", "": "", "wéb": "w-b", "9": "9",
		strings.Repeat("x", 62) + "-yz": strings.Repeat("x", 62), strings.Repeat("x", 70): strings.Repeat("x", 63),
	} {
		if got := registry.Label(name); got != want {
			t.Errorf("registry.Label(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestLimiter holds a query that is answered all the time to its rate, and one that is not to nothing.
func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, began := limiter{perSecond: 20}, time.Now()
		for range 100 {
			if err := l.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 3500*time.Millisecond || took > 4500*time.Millisecond {
			t.Errorf("100 answers at 20 a second after 20 at once took %s, want about 4 s", took)
		}
		time.Sleep(2 * time.Second)
		began = time.Now()
		for range 10 {
			_ = l.wait(t.Context())
			time.Sleep(60 * time.Millisecond)
		}
		if took := time.Since(began); took != 600*time.Millisecond {
			t.Errorf("10 answers at less than the rate took %s, want no wait", took)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("["+instance("a", `"Port":80,"Tags":["x","k=v"],"Meta":{"protocol":"http"}`, `{"CheckID":"c","Status":"passing"}`)+"]"), "web")
	f.Add([]byte(`[null,{},7,{"Service":{"ID":"a"},"Node":{"Node":"n"}}]`), "Web_1")
	f.Add([]byte("["+instance("a", `"Ports":[{"Name":"b","Port":1},{"Name":"a","Port":2}]`, "")+"]"), "web")
	before := &part{name: "web", label: "web", endpoints: []*registry.Endpoint{{ID: "dc1/n1/a", Addr: netip.MustParseAddr("10.0.0.9"), Weight: 1}}}
	f.Fuzz(func(t *testing.T, body []byte, name string) {
		cfg := Config{}.withDefaults()
		p, err := cfg.parse(name, body, before)
		if err != nil || registry.Label(name) == "" {
			return
		}
		if !json.Valid(body) {
			t.Fatal("what is no JSON was taken")
		}
		b := newBoard("default", []string{"dc1"})
		view := b.view(map[string][]*part{p.label: {p}}, nil)
		if err := view.Validate(); err != nil {
			t.Fatal(err)
		}
		if again, err := cfg.parse(name, body, before); err != nil || !again.equal(p) {
			t.Fatalf("parsed twice it is not the same: %v", err)
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add([]byte(`{"consul":[],"Web":["a"],"../x":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		names, err := decodeNames(body)
		if err == nil && !json.Valid(body) {
			t.Fatalf("what is no JSON was taken: %v", names)
		}
	})
}
