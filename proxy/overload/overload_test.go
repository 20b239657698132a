package overload

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestEvaluate(t *testing.T) {
	at := func(r config.OverloadResource, from, to float64) config.OverloadTrigger {
		return config.OverloadTrigger{Resource: r, From: from, To: to}
	}
	actions := []config.OverloadAction{
		{Kind: config.ShedRequests, Triggers: []config.OverloadTrigger{at(config.ResourceHeap, 0.9, 0.9), at(config.ResourceInjected, 0.5, 0.5)}},
		{Kind: config.ShedStreams, Triggers: []config.OverloadTrigger{at(config.ResourceHeap, 0.8, 1)}},
	}
	for _, c := range []struct {
		name           string
		heap, injected float64
		want           State
	}{
		{"nothing", 0, 0, State{}},
		{"below", 0.8, 0.49, State{}},
		{"half", 0.9 - 1e-9, 0, State{config.ShedStreams: 0.5}},
		{"at the threshold", 0.9, 0, State{config.ShedRequests: 1, config.ShedStreams: 0.5}},
		{"by another resource", 0.1, 0.5, State{config.ShedRequests: 1}},
		{"beyond", 1.7, 0, State{config.ShedRequests: 1, config.ShedStreams: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pressure := [config.NumOverloadResources]float64{config.ResourceHeap: c.heap, config.ResourceInjected: c.injected}
			got := evaluate(actions, &pressure)
			for k := range got {
				if d := got[k] - c.want[k]; d > 1e-6 || d < -1e-6 {
					t.Errorf("%v: got %v, want %v", config.OverloadKind(k), got[k], c.want[k])
				}
			}
		})
	}
}

// TestMonitor: a change is told once, a partial action at each look, and a resource that cannot be seen wants nothing.
func TestMonitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "pressure")
		press := func(v string) {
			if err := os.WriteFile(file, []byte(v), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var log strings.Builder
		m := New(config.Overload{Injected: file, Actions: []config.OverloadAction{
			{Kind: config.ShedRequests, Triggers: []config.OverloadTrigger{{Resource: config.ResourceInjected, From: 0.5, To: 0.5}}},
			{Kind: config.ShedStreams, Triggers: []config.OverloadTrigger{{Resource: config.ResourceInjected, From: 0.8, To: 1}}},
		}}, slog.New(slog.NewTextHandler(&log, nil)))
		var told []State
		ctx, cancel := context.WithCancel(t.Context())
		press("0")
		go m.Run(ctx, func(s State) { told = append(told, s) })
		for _, c := range []struct {
			pressure string
			want     []State // of three looks
		}{
			{"0", nil},
			{"0.6", []State{{config.ShedRequests: 1}}},
			{"1", []State{{config.ShedRequests: 1, config.ShedStreams: 1}, {config.ShedRequests: 1, config.ShedStreams: 1}, {config.ShedRequests: 1, config.ShedStreams: 1}}},
			{"0.2", []State{{}}},
			{"nonsense", nil},
			{"7", nil},
			{"0.7", []State{{config.ShedRequests: 1}}},
			{"NaN", []State{{}}},
		} {
			synctest.Wait()
			told = nil
			press(c.pressure)
			time.Sleep(3 * defaultInterval)
			synctest.Wait()
			if diff := cmp.Diff(c.want, told); diff != "" {
				t.Errorf("pressure %s (-want +got):\n%s", c.pressure, diff)
			}
		}
		cancel()
		synctest.Wait()
		for want, n := range map[string]int{"overload action begins": 3, "overload action has ended": 3, "overload cannot be seen": 2} {
			if got := strings.Count(log.String(), want); got != n {
				t.Errorf("%q was logged %d times, want %d:\n%s", want, got, n, log.String())
			}
		}
	})
}

func TestHeapIsSeen(t *testing.T) {
	m := New(config.Overload{MaxHeap: 1 << 20}, slog.New(slog.DiscardHandler))
	if p, watched, err := m.read(config.ResourceHeap); !watched || err != nil || p < 1 {
		t.Errorf("a test program on one MiB: pressure %v, %v, %v", p, watched, err)
	}
	if p, watched, _ := m.read(config.ResourceCgroup); watched || p != 0 {
		t.Errorf("what is not configured is watched: %v", p)
	}
}

func TestCgroup(t *testing.T) {
	for _, c := range []struct {
		name         string
		files        map[string]string
		limit        uint64
		used, allows uint64 // where least is left
		err          bool
	}{
		{"none", nil, 0, 0, 0, true},
		{"version 2", map[string]string{
			"proc/self/cgroup": "0::/system.slice/mesh-proxy.service\n", "sys/fs/cgroup/system.slice/mesh-proxy.service/memory.max": "1000\n",
			"sys/fs/cgroup/system.slice/mesh-proxy.service/memory.current": "400\n", "sys/fs/cgroup/system.slice/memory.max": "max\n", "sys/fs/cgroup/system.slice/memory.current": "5000\n",
		}, 1000, 400, 1000, false},
		{"a limit above", map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "10\n",
			"sys/fs/cgroup/a/memory.max": "500\n", "sys/fs/cgroup/a/memory.current": "450\n",
		}, 500, 450, 500, false},
		{"a container", map[string]string{
			"proc/self/cgroup": "0::/docker/x\n", "sys/fs/cgroup/memory.max": "300\n", "sys/fs/cgroup/memory.current": "30\n",
		}, 300, 30, 300, false},
		{"version 1", map[string]string{
			"proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "700", "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "7",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712", "sys/fs/cgroup/memory/memory.usage_in_bytes": "900",
		}, 700, 7, 700, false},
		{"nonsense", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "lots\n", "sys/fs/cgroup/memory.current": "1\n"}, 0, 0, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			for name, text := range c.files {
				file := filepath.Join(root, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			g := findCgroup(root)
			used, allows, err := g.memory()
			if g.limit() != c.limit || used != c.used || allows != c.allows || err != nil != c.err {
				t.Errorf("got limit %d, %d of %d, %v", g.limit(), used, allows, err)
			}
		})
	}
	if MemoryLimit() > 1<<62 {
		t.Error("no limit is taken for one")
	}
}

// TestDefaultKeepsTheOrder: what costs clients least is done first.
func TestDefaultKeepsTheOrder(t *testing.T) {
	o := Default(1000)
	last := 0.9 // where the Go runtime is held
	for i, want := range []config.OverloadKind{config.ShedRequests, config.ShedKeepAlive, config.ShedAccepting, config.ShedStreams} {
		a := o.Actions[i]
		if a.Kind != want || a.Triggers[0].From <= last || a.Triggers[0].To > 1 {
			t.Errorf("step %d: got %v at %v after %v", i, a.Kind, a.Triggers, last)
		}
		last = a.Triggers[0].From
	}
}
