package registry

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMergeByStepsIsMergeAtOnce changes random views of three sources step by step: what the merger keeps must be what
// a fresh one makes of the same views, valid, without a place in two endpoints, and without a lost one.
func TestMergeByStepsIsMergeAtOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c"}
	steps := newMerger(names, Rules{})
	views := make([][]*Service, len(names))
	for step := range 2000 {
		i := random.IntN(len(names))
		views[i] = randomView(random)
		if err := (View{Services: views[i]}).Validate(); err != nil {
			t.Fatalf("view of the test: %v", err)
		}
		steps.set(i, views[i])
		got, _ := steps.merge()
		fresh := newMerger(names, Rules{})
		for i, v := range views {
			fresh.set(i, v)
		}
		want, _ := fresh.merge()
		if !slices.EqualFunc(want, got, (*Service).equal) {
			t.Fatalf("step %d (-at once +by steps):\n%s", step, cmp.Diff(want, got, compareValues))
		}
		if err := (View{Services: got}).Validate(); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		for _, s := range got {
			checkPlaces(t, names, views, s)
		}
	}
}

// checkPlaces wants each place that a source reports in exactly one endpoint, which names the source.
func checkPlaces(t *testing.T, names []string, views [][]*Service, s *Service) {
	t.Helper()
	at := make(map[place]*Endpoint)
	for _, e := range s.Endpoints {
		for p := range places(e) {
			if at[p] != nil && at[p] != e {
				t.Fatalf("%s: %v is in %s and %s", s.Name, p, at[p].ID, e.ID)
			}
			at[p] = e
		}
	}
	for i, view := range views {
		for _, own := range view {
			if own.Name != s.Name {
				continue
			}
			for _, e := range own.Endpoints {
				for p := range places(e) {
					if in := at[p]; in == nil || !slices.Contains(in.Sources, names[i]) {
						t.Fatalf("%s: %v of %s is in %+v", s.Name, p, names[i], in)
					}
				}
			}
		}
	}
}

// randomView returns a small view in which much clashes.
func randomView(random *rand.Rand) []*Service {
	var view []*Service
	for _, name := range []string{"api", "db", "web"} {
		if random.IntN(4) == 0 {
			continue
		}
		s := &Service{Name: Name{DefaultNamespace, name}, Ports: []Port{{"admin", 90, HTTP}, {"main", uint16(80 + random.IntN(2)), TCP}}}
		for id := range random.IntN(4) {
			e := &Endpoint{
				ID: string(rune('k' + id)), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(random.IntN(3))}),
				Weight: uint32(1 + random.IntN(2)), Health: Health(random.IntN(4)), Labels: map[string]string{"v": string(rune('0' + random.IntN(3)))},
			}
			if random.IntN(2) == 0 {
				e.Ports = append(e.Ports, EndpointPort{"admin", 9000})
			}
			if e.Ports == nil || random.IntN(2) == 0 {
				e.Ports = append(e.Ports, EndpointPort{"main", 8000})
			}
			s.Endpoints = append(s.Endpoints, e)
		}
		view = append(view, s)
	}
	return view
}
