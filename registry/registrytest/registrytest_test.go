package registrytest_test

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

// memory is a registry whose truth is in this process. Its breakage makes it break one promise of Registry.
type memory struct {
	breakage string
	mu       sync.Mutex
	truth    watch.Value[truth]
}

type truth struct {
	services     map[registry.Name]*registry.Service
	down, denied bool
}

func (m *memory) Watch(ctx context.Context, publish func(registry.View)) error {
	last := map[registry.Name]*registry.Service{}
	for {
		now, changed := m.truth.Get()
		switch {
		case m.breakage == "rides an outage out" && now.down:
		case m.breakage == "empties on an outage" && now.down:
			publish(registry.View{})
			return errors.New("connection refused")
		case now.down:
			return errors.New("connection refused")
		case m.breakage == "hides the permission" && now.denied:
			return errors.New("403")
		case m.breakage == "empties without permission" && now.denied:
			publish(registry.View{})
		case now.denied:
			return registry.ErrPermission
		default:
			next := map[registry.Name]*registry.Service{}
			v := registry.View{}
			for _, name := range slices.SortedFunc(maps.Keys(now.services), registry.Name.Compare) {
				s := m.see(now.services[name])
				if old := last[name]; old != nil && reflect.DeepEqual(old, s) && m.breakage != "new pointers" {
					s = old
				} else if old != nil && m.breakage == "changes in place" {
					*old = *s
					s = old
				}
				next[name] = s
				v.Services = append(v.Services, s)
			}
			if m.breakage == "unsorted" {
				slices.Reverse(v.Services)
			}
			if m.breakage == "partial first" && len(last) == 0 && len(v.Services) > 1 {
				publish(registry.View{Services: v.Services[:1]})
			}
			if m.breakage != "never removes" || len(next) >= len(last) {
				publish(v)
			}
			if m.breakage == "late publish" {
				defer time.AfterFunc(50*time.Millisecond, func() { publish(v) })
			}
			last = next
		}
		if m.breakage == "leaves a goroutine" {
			go func() { <-changed; time.Sleep(time.Hour) }()
			go func() { time.Sleep(time.Hour) }()
		}
		select {
		case <-ctx.Done():
			if m.breakage == "outlives its context" {
				time.Sleep(time.Hour)
			}
			return ctx.Err()
		case <-changed:
		}
	}
}

// see copies a service as this registry sees it.
func (m *memory) see(s *registry.Service) *registry.Service {
	c := *s
	c.Endpoints = nil
	for _, e := range s.Endpoints {
		e := *e
		switch m.breakage {
		case "drops health":
			e.Health = registry.Healthy
		case "drops labels":
			e.Labels = nil
		case "drops weight":
			e.Weight = 1
		case "zero weight":
			e.Weight = 0
		case "drops port changes":
			e.Ports = []registry.EndpointPort{{Number: 18080}}
		}
		c.Endpoints = append(c.Endpoints, &e)
	}
	if m.breakage == "drops protocol" {
		c.Ports = []registry.Port{{}}
	}
	return &c
}

// update changes the truth.
func (m *memory) update(change func(*truth)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.truth.Load()
	now.services = maps.Clone(now.services)
	if now.services == nil {
		now.services = map[registry.Name]*registry.Service{}
	}
	change(&now)
	m.truth.Set(now)
}

func harness(breakage string) registrytest.Harness {
	settle := 10 * time.Second
	if breakage != "" {
		settle = 300 * time.Millisecond
	}
	return registrytest.Harness{
		Settle: settle,
		New: func(*testing.T) (registry.Registry, registrytest.Driver) {
			m := &memory{breakage: breakage}
			return m, registrytest.Driver{
				Put: func(_ *testing.T, s *registry.Service) {
					m.update(func(t *truth) { t.services[s.Name] = s })
				},
				Delete: func(_ *testing.T, name registry.Name) {
					m.update(func(t *truth) { delete(t.services, name) })
				},
				SetHealth: func(_ *testing.T, name registry.Name, addr netip.Addr, h registry.Health) {
					m.update(func(t *truth) {
						s := *t.services[name]
						s.Endpoints = slices.Clone(s.Endpoints)
						for i, e := range s.Endpoints {
							if e.Addr == addr {
								e := *e
								e.Health = h
								s.Endpoints[i] = &e
							}
						}
						t.services[name] = &s
					})
				},
				Down:  func(*testing.T) { m.update(func(t *truth) { t.down = true }) },
				Up:    func(*testing.T) { m.update(func(t *truth) { t.down = false }) },
				Deny:  func(*testing.T) { m.update(func(t *truth) { t.denied = true }) },
				Allow: func(*testing.T) { m.update(func(t *truth) { t.denied = false }) },
			}
		},
	}
}

const breakageVariable = "REGISTRYTEST_BREAKAGE"

// TestSoundRegistryPasses runs the suite on a registry that keeps every promise; as a child of TestSuiteBites, on one
// that breaks the promise that the environment names.
func TestSoundRegistryPasses(t *testing.T) {
	breakage := os.Getenv(breakageVariable)
	h := harness(breakage)
	switch breakage {
	case "no reason":
		h.Cannot = map[registrytest.Case]string{registrytest.Add: ""}
	case "no such case":
		h.Cannot = map[registrytest.Case]string{"Fly": "it is no bird"}
	case "no driver function":
		sound := harness("").New
		h.New = func(t *testing.T) (registry.Registry, registrytest.Driver) {
			r, d := sound(t)
			d.Down = nil
			return r, d
		}
	}
	registrytest.Run(t, h)
}

// TestSuiteBites runs the suite in a child process on registries that each break one promise: it must fail in the
// case that is there for it.
func TestSuiteBites(t *testing.T) {
	for _, c := range []struct {
		breakage string
		failed   registrytest.Case
		why      string
	}{
		{"unsorted", registrytest.FirstView, "want sorted by name"},
		{"zero weight", registrytest.FirstView, "weight 0"},
		{"partial first", registrytest.FirstView, "first view is not complete"},
		{"drops port changes", registrytest.Change, "is not wanted"},
		{"never removes", registrytest.Remove, "not seen within"},
		{"drops labels", registrytest.Labels, `label version is ""`},
		{"drops weight", registrytest.Weight, "want 7"},
		{"drops protocol", registrytest.Protocol, "want one of protocol http"},
		{"drops health", registrytest.HealthChange, "is healthy, want unhealthy"},
		{"rides an outage out", registrytest.DownAndUp, "has not returned an error"},
		{"empties on an outage", registrytest.DownAndUp, "lost what was there"},
		{"hides the permission", registrytest.PermissionLost, "does not wrap ErrPermission"},
		{"empties without permission", registrytest.PermissionLost, "lost what was there"},
		{"new pointers", registrytest.PointerIdentity, "but its pointer did"},
		{"changes in place", registrytest.PointerIdentity, "after it was published"},
		{"leaves a goroutine", registrytest.NoGoroutineLeft, "left goroutines behind"},
		{"outlives its context", registrytest.NoGoroutineLeft, "after its context ended"},
		{"late publish", registrytest.NoGoroutineLeft, "after Watch returned"},
		{"no reason", registrytest.Add, "gives no reason"},
		{"no such case", "", "which is no case"},
		{"no driver function", registrytest.DownAndUp, "has no Down and Up"},
	} {
		t.Run(c.breakage, func(t *testing.T) {
			t.Parallel()
			run := "^TestSoundRegistryPasses$"
			if c.failed != "" {
				run += "/^" + string(c.failed) + "$"
			}
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+run)
			child.Env = append(os.Environ(), breakageVariable+"="+c.breakage)
			out, err := child.CombinedOutput()
			if err == nil {
				t.Fatalf("the suite passes a registry that is broken: %s\n%s", c.breakage, out)
			}
			if c.failed != "" && !strings.Contains(string(out), "--- FAIL: TestSoundRegistryPasses/"+string(c.failed)) || !strings.Contains(string(out), c.why) {
				t.Errorf("the suite fails otherwise than in %s with %q:\n%s", c.failed, c.why, out)
			}
		})
	}
}
