package registrytest_test

import (
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

func harness(breakage string) registrytest.Harness {
	settle := 10 * time.Second
	if breakage != "" && breakage != "recovers late" {
		settle = 2 * time.Second
	}
	return registrytest.Harness{
		Settle:   settle,
		Services: 100,
		Parallel: 2,
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
				PutAll: func(_ *testing.T, all []*registry.Service) {
					m.update(func(t *truth) {
						for _, s := range all {
							t.services[s.Name] = s
						}
					})
				},
				Faults: m.faults(),
				Down:   func(*testing.T) { m.update(func(t *truth) { t.down = true }) },
				Up:     func(*testing.T) { m.update(func(t *truth) { t.down = false }) },
				Deny:   func(*testing.T) { m.update(func(t *truth) { t.denied = true }) },
				Allow:  func(*testing.T) { m.update(func(t *truth) { t.denied = false }) },
			}
		},
	}
}

// injections are the faults of memory. Most must be noticed.
func injections() map[registrytest.Fault]registrytest.Injection {
	return map[registrytest.Fault]registrytest.Injection{
		registrytest.ServerKilled: {},
		registrytest.LeaderKilled: {Writable: true, Blameless: true},
		registrytest.ServerPaused: {},
		registrytest.Partition:    {Writable: true},
		registrytest.SlowAnswers:  {Writable: true, Blameless: true},
		registrytest.Truncated:    {Writable: true},
		registrytest.Garbage:      {Writable: true},
		registrytest.HistoryLost:  {Writable: true},
	}
}

func (m *memory) faults() map[registrytest.Fault]registrytest.Injection {
	faults := injections()
	for f, i := range faults {
		i.Begin = func(*testing.T) { m.update(func(t *truth) { t.fault = f }) }
		i.End = func(*testing.T) { m.update(func(t *truth) { t.fault = "" }) }
		faults[f] = i
	}
	return faults
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
	case "no injection":
		sound := harness("").New
		h.New = func(t *testing.T) (registry.Registry, registrytest.Driver) {
			r, d := sound(t)
			delete(d.Faults, registrytest.Partition)
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
		{"sees without permission", registrytest.PermissionLost, "the view while permission is lost: service default/web: no endpoint"},
		{"forgets without permission", registrytest.PermissionLost, "what was removed without permission to see it is gone: not seen"},
		{"new pointers", registrytest.PointerIdentity, "but its pointer did"},
		{"changes in place", registrytest.PointerIdentity, "after it was published"},
		{"leaves a goroutine", registrytest.NoGoroutineLeft, "left goroutines behind"},
		{"outlives its context", registrytest.NoGoroutineLeft, "after its context ended"},
		{"late publish", registrytest.NoGoroutineLeft, "after Watch returned"},
		{"no reason", registrytest.Add, "gives no reason"},
		{"no such case", "", "which is no case"},
		{"no driver function", registrytest.DownAndUp, "has no Down and Up"},
		{"lists problems", registrytest.FirstView, "1 problems are listed"},
		{"drops an endpoint for a moment", registrytest.Partition, "lost what was there"},
		{"turns all unhealthy", registrytest.ServerPaused, "is unhealthy"},
		{"publishes a part after a fault", registrytest.ServerKilled, "lost what was there"},
		{"never recovers", registrytest.Truncated, "not seen within"},
		{"recovers late", registrytest.ServerKilled, "it was late before"},
		{"rides a fault out", registrytest.Partition, "has not returned an error"},
		{"loses what changed meanwhile", registrytest.SlowAnswers, "what was true when the fault ended: not seen within"},
		{"goes back in time", registrytest.LeaderKilled, "removed"},
		{"never removes after a fault", registrytest.HistoryLost, "what was true when the fault ended: not seen within"},
		{"believes garbage", registrytest.Garbage, "was never there"},
		{"leaves a goroutine at a failure", registrytest.ServerKilled, "left goroutines behind"},
		{"partial first", registrytest.Large, "first view is not complete"},
		{"flaps", registrytest.Churn, "lost what was there"},
		{"sleeps through a burst", registrytest.Churn, "not seen within"},
		{"new pointers", registrytest.Churn, "but its pointer did"},
		{"hangs in a fault", registrytest.SlowAnswers, "after its context ended"},
		{"drops an endpoint for a moment", registrytest.Chaos, "lost what was there"},
		{"never recovers", registrytest.Chaos, "not seen within"},
		{"empties without permission", registrytest.Chaos, "lost what was there"},
		{"no injection", registrytest.Partition, "has no Faults[Partition]"},
	} {
		t.Run(c.breakage+" in "+string(c.failed), func(t *testing.T) {
			t.Parallel()
			run := "^TestSoundRegistryPasses$"
			if c.failed != "" {
				run += "/^" + string(c.failed) + "$"
			}
			env := append(os.Environ(), breakageVariable+"="+c.breakage)
			tries := 1
			if c.failed == registrytest.Chaos { // a fault that comes while Watch pauses may be over before it is met
				env = append(env, "HOSTMESH_SOAK=20s") // each fault more than once
				tries = 4
			}
			var out []byte
			var err error
			for range tries {
				child := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+run, "-test.timeout=2m")
				child.Env = env
				if out, err = child.CombinedOutput(); err != nil {
					break
				}
			}
			if err == nil {
				t.Fatalf("the suite passes a registry that is broken: %s\n%s", c.breakage, out)
			}
			if c.failed != "" && !strings.Contains(string(out), "--- FAIL: TestSoundRegistryPasses/"+string(c.failed)) || !strings.Contains(string(out), c.why) {
				t.Errorf("the suite fails otherwise than in %s with %q:\n%s", c.failed, c.why, out)
			}
		})
	}
}
