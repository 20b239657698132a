package registry_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// What is doubted in many views has one reason in the end, with the numbers of the whole, wherever one looks.
func TestReasonsTellTheWholeBurst(t *testing.T) {
	for _, c := range []struct {
		name string
		view func(gone int) registry.View
		gone int
		want string
	}{
		{"of the registry", func(gone int) registry.View { return view(1, services(100)[gone:]...) }, 50, "50 of 100 endpoints of the registry left within 1s"},
		{"service by service", func(gone int) registry.View {
			var ids []string
			for i := range gone {
				ids = append(ids, fmt.Sprintf("s%03d-%d", i/2, i%2))
			}
			return without(view(2, services(50)...), ids...)
		}, 50, "50 of 100 endpoints of the registry left within 1s"},
		{"of a service", func(gone int) registry.View {
			return without(view(10, services(10)...), []string{"s003-1", "s003-2", "s003-3", "s003-4", "s003-5", "s003-6"}[:gone]...)
		}, 6, "6 of 10 endpoints of the service left within 100ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := make(script)
				catalog := newCatalog(t, registry.Options{Interval: time.Millisecond}, registry.Source{Name: "dc1", Kind: "script", Registry: s})
				t.Cleanup(start(t, catalog))
				s.publish(c.view(0))
				time.Sleep(time.Minute)
				for i := range c.gone {
					s.publish(c.view(i + 1))
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(2 * time.Second)
				doubts, _ := catalog.Doubts()
				if len(doubts) != c.gone {
					t.Errorf("%d are doubted, want %d", len(doubts), c.gone)
				}
				for _, d := range doubts {
					served := current(catalog).Service(d.Service)
					at := slices.IndexFunc(served.Endpoints, func(e *registry.Endpoint) bool { return e.ID == d.Endpoint.ID })
					for _, doubt := range []*registry.Doubt{d.Endpoint.Doubt, served.Endpoints[at].Doubt} {
						if doubt.Reason != c.want {
							t.Fatalf("%s: %q, want %q", d.Endpoint.ID, doubt.Reason, c.want)
						}
					}
				}
				if status := catalog.Sources()[0]; status.DoubtReason != c.want {
					t.Errorf("status: %q, want %q", status.DoubtReason, c.want)
				}
			})
		})
	}
}
