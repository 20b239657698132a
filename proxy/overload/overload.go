// Package overload watches what a process has too little of, and says which loads it is to be spared (Envoy's overload
// manager).
package overload

import (
	"context"
	"log/slog"
	"math"
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const defaultInterval = time.Second

// State says how much of each action is to be done: 0 nothing, 1 all of it.
type State [config.NumOverloadKinds]float64

// Full reports whether all of an action is to be done.
func (s *State) Full(k config.OverloadKind) bool { return s[k] >= 1 }

// Stat is a figure, by Envoy's name below "overload".
type Stat struct {
	Name  string
	Value uint64
	Gauge bool
}

// Default is what is done without a configuration of it, where the control group allows so many bytes: in this order
// requests are refused, connections are not kept, none is accepted, and those that hold most are reset. It begins where the
// Go runtime, which is to stay below nine tenths, cannot: garbage is no pressure.
func Default(limit uint64) *config.Overload {
	o := &config.Overload{Interval: 250 * time.Millisecond, MaxHeap: limit}
	for _, step := range []struct {
		kind     config.OverloadKind
		from, to float64
	}{
		{config.ShedRequests, 0.92, 0.92},
		{config.ShedKeepAlive, 0.93, 0.93},
		{config.ShedAccepting, 0.94, 0.94},
		{config.ShedStreams, 0.95, 0.98},
	} {
		o.Actions = append(o.Actions, config.OverloadAction{Kind: step.kind, Triggers: []config.OverloadTrigger{{Resource: config.ResourceHeap, From: step.from, To: step.to}}})
	}
	return o
}

// Monitor looks at the resources.
type Monitor struct {
	cfg      config.Overload
	log      *slog.Logger
	cgroup   *cgroup
	samples  []metrics.Sample
	pressure [config.NumOverloadResources]atomic.Uint64 // in per cent
	failed   [config.NumOverloadResources]atomic.Uint64 // looks
	scale    [config.NumOverloadKinds]atomic.Uint64     // in per cent
	told     [config.NumOverloadResources]bool          // that it cannot be looked at
}

// New makes a Monitor.
func New(cfg config.Overload, log *slog.Logger) *Monitor {
	if cfg.Interval <= 0 {
		cfg.Interval = defaultInterval
	}
	return &Monitor{
		cfg: cfg, log: log, cgroup: findCgroup("/"),
		samples: []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}},
	}
}

// Run looks until ctx ends. apply is told the state when it has changed, and at every look while something is done in
// part or streams are to be reset.
func (m *Monitor) Run(ctx context.Context, apply func(State)) {
	if len(m.cfg.Actions) == 0 {
		return
	}
	tick := time.NewTicker(m.cfg.Interval)
	defer tick.Stop()
	var last State
	for {
		now := m.look()
		if now != last || now[config.ShedStreams] > 0 || now[config.ShrinkHeap] > 0 {
			m.tell(&last, &now)
			apply(now)
		}
		last = now
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// tell logs what begins and what ends.
func (m *Monitor) tell(last, now *State) {
	for k := range now {
		switch {
		case now[k] > 0 && last[k] == 0:
			m.log.Warn("overload action begins", "action", config.OverloadKind(k))
		case now[k] == 0 && last[k] > 0:
			m.log.Info("overload action has ended", "action", config.OverloadKind(k))
		}
	}
}

// look returns what is to be done now. A resource that cannot be looked at wants nothing.
func (m *Monitor) look() State {
	var pressure [config.NumOverloadResources]float64
	for r := range pressure {
		p, watched, err := m.read(config.OverloadResource(r))
		if err != nil {
			m.failed[r].Add(1)
			if !m.told[r] {
				m.told[r] = true
				m.log.Error("overload cannot be seen", "resource", config.OverloadResource(r), "err", err)
			}
			continue
		}
		if watched {
			m.told[r] = false
			pressure[r] = p
		}
		m.pressure[r].Store(percent(p))
	}
	state := evaluate(m.cfg.Actions, &pressure)
	for k, v := range state {
		m.scale[k].Store(percent(v))
	}
	return state
}

// evaluate is the state that pressures make.
func evaluate(actions []config.OverloadAction, pressure *[config.NumOverloadResources]float64) State {
	var state State
	for _, a := range actions {
		for _, t := range a.Triggers {
			v, p := 0.0, pressure[t.Resource]
			switch {
			case p >= t.To:
				v = 1
			case p > t.From:
				v = (p - t.From) / (t.To - t.From)
			}
			state[a.Kind] = max(state[a.Kind], v)
		}
	}
	return state
}

func percent(v float64) uint64 { return uint64(math.Round(v * 100)) }

// read returns a pressure, and whether it is watched at all.
func (m *Monitor) read(r config.OverloadResource) (pressure float64, watched bool, err error) {
	switch {
	case r == config.ResourceHeap && m.cfg.MaxHeap > 0:
		metrics.Read(m.samples)
		return float64(m.samples[0].Value.Uint64()-m.samples[1].Value.Uint64()) / float64(m.cfg.MaxHeap), true, nil
	case r == config.ResourceCgroup && m.cfg.Cgroup:
		used, limit, err := m.cgroup.memory()
		if m.cfg.MaxCgroup > 0 && (limit == 0 || m.cfg.MaxCgroup < limit) {
			limit = m.cfg.MaxCgroup
		}
		if err != nil || limit == 0 {
			return 0, true, err
		}
		return float64(used) / float64(limit), true, nil
	case r == config.ResourceInjected && m.cfg.Injected != "":
		data, err := os.ReadFile(m.cfg.Injected)
		if err != nil {
			return 0, true, err
		}
		p, err := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
		if err == nil && (math.IsNaN(p) || p < 0 || p > 1) {
			err = strconv.ErrRange
		}
		return p, true, err
	}
	return 0, false, nil
}

// Stats are the figures of what is watched and done.
func (m *Monitor) Stats() []Stat {
	var out []Stat
	for _, a := range m.cfg.Actions {
		v := m.scale[a.Kind].Load()
		active := uint64(0)
		if v >= 100 {
			active = 1
		}
		out = append(out, Stat{a.Kind.String() + ".active", active, true}, Stat{a.Kind.String() + ".scale_percent", v, true})
	}
	for r, on := range map[config.OverloadResource]bool{
		config.ResourceHeap: m.cfg.MaxHeap > 0, config.ResourceCgroup: m.cfg.Cgroup, config.ResourceInjected: m.cfg.Injected != "",
	} {
		if on {
			out = append(out, Stat{r.String() + ".pressure", m.pressure[r].Load(), true}, Stat{r.String() + ".failed_updates", m.failed[r].Load(), false})
		}
	}
	return out
}
