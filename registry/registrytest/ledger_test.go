package registrytest

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/registry"
)

// TestLedger judges sequences of puts and views of one service. An endpoint is written as the last byte of its address.
func TestLedger(t *testing.T) {
	type event struct {
		put, view []byte
		ill       bool // of a view: its endpoints do not serve
	}
	put := func(at ...byte) event { return event{put: append([]byte{}, at...)} }
	view := func(at ...byte) event { return event{view: append([]byte{}, at...)} }
	for name, c := range map[string]struct {
		before []byte // in the truth when Watch begins
		events []event
		want   string // of the last view; all before it are right
	}{
		"all that was before Watch":        {before: []byte{1, 2}, events: []event{view(1, 2)}},
		"less than was before Watch":       {before: []byte{1, 2}, events: []event{view(1)}, want: "127.20.0.2:80, which nobody removed"},
		"nothing of what was before":       {before: []byte{1}, events: []event{view()}, want: "lost what was there"},
		"lags behind what is added":        {events: []event{put(1), view(), view(), view(1)}},
		"loses what it has shown":          {events: []event{put(1), view(1), view()}, want: "which nobody removed"},
		"lags behind what is removed":      {before: []byte{1, 2}, events: []event{put(1), view(1, 2), view(1, 2), view(1)}},
		"shows again what it removed":      {before: []byte{1, 2}, events: []event{put(1), view(1), view(1, 2)}, want: "is back"},
		"skips a removal and its return":   {before: []byte{1}, events: []event{put(), put(1), view(1), view(1)}},
		"tells a removal after the return": {before: []byte{1}, events: []event{put(), put(1), view(1), view(), view(1)}},
		"tells one removal twice":          {before: []byte{1}, events: []event{put(), put(1), view(), view(1), view()}, want: "which nobody removed"},
		"shows what was never put":         {events: []event{put(1), view(1, 9)}, want: "127.20.0.9:80 was never there"},
		"takes no part of a change":        {before: []byte{1}, events: []event{put(2), view(1), view(1, 2), view(2)}},
		"is between two puts":              {before: []byte{1}, events: []event{put(2), view(), view(2)}},
		"does not serve":                   {before: []byte{1}, events: []event{{view: []byte{1}, ill: true}}, want: "is unhealthy"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(netip.MustParsePrefix("127.20.0.0/16"))
			l.put(plain(c.before, registry.Healthy))
			r := l.newReader()
			for i, e := range c.events {
				if e.put != nil {
					l.put(plain(e.put, registry.Healthy))
					continue
				}
				health := registry.Healthy
				if e.ill {
					health = registry.Unhealthy
				}
				var got []string
				r.judge(registry.View{Services: []*registry.Service{plain(e.view, health)}}, func(format string, args ...any) {
					got = append(got, fmt.Sprintf(format, args...))
				})
				want := ""
				if i == len(c.events)-1 {
					want = c.want
				}
				if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
					t.Errorf("event %d: the verdict is %q, want %q", i+1, got, want)
				}
			}
		})
	}
}

// TestNames shows that no two services of the suite share an address.
func TestNames(t *testing.T) {
	s := &suite{h: Harness{Prefix: netip.MustParsePrefix("10.20.0.0/16")}}
	taken := make(map[netip.Addr]string)
	for _, name := range Names() {
		for _, e := range s.service(name, 80, maxEndpoints).Endpoints {
			if other, ok := taken[e.Addr]; ok || !s.h.Prefix.Contains(e.Addr) {
				t.Errorf("%s has %s, which is outside of %s or of %q too", name, e.Addr, s.h.Prefix, other)
			}
			taken[e.Addr] = name
		}
	}
}

func plain(at []byte, health registry.Health) *registry.Service {
	s := &registry.Service{Name: registry.Name{Namespace: registry.DefaultNamespace, Name: "web"}}
	for _, b := range at {
		s.Endpoints = append(s.Endpoints, &registry.Endpoint{
			ID: fmt.Sprint(b), Addr: netip.AddrFrom4([4]byte{127, 20, 0, b}),
			Ports: []registry.EndpointPort{{Number: 80}}, Health: health,
		})
	}
	return s
}
