package proxy

import (
	"maps"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// limit counts connections over all loops, and bounds them. It counts without a bound as well, so that one that comes
// later is exact.
type limit struct {
	active  atomic.Int64
	most    atomic.Int64 // 0: no bound
	refused atomic.Uint64
}

// take counts one more, unless that would be too many.
func (l *limit) take() bool {
	for {
		n, most := l.active.Load(), l.most.Load()
		if most > 0 && n >= most {
			l.refused.Add(1)
			return false
		}
		if l.active.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// force counts n more, or fewer if n is negative.
func (l *limit) force(n int) { l.active.Add(int64(n)) }

// limits are those of listeners and of chains by name. They are the binder's; one that has connections is never forgotten.
type limits map[string]*limit

// get returns the limit of a name, which is most from now on.
func (l limits) get(name string, most uint64) *limit {
	found := l[name]
	if found == nil {
		found = &limit{}
		l[name] = found
	}
	found.most.Store(int64(min(most, 1<<62)))
	return found
}

// prune forgets those that nobody uses: neither a listener of the configuration nor a connection.
func (l limits) prune(used map[*limit]bool) {
	for name, one := range l {
		if !used[one] && one.active.Load() == 0 {
			delete(l, name)
		}
	}
}

// takeLimits counts a fresh connection, or refuses it. That is what Envoy does: accept and close.
func (a *acceptor) takeLimits() bool {
	switch {
	case a.w.shed.reject:
		a.stats.count[listenerOverloadReject]++
	case !a.w.global.take():
		a.stats.count[listenerGlobalOverflow]++
	case !a.reception.limit.take():
		a.w.global.force(-1)
		a.stats.count[listenerCxOverflow]++
	default:
		return true
	}
	return false
}

// release counts a connection out that was counted when it came.
func (a *acceptor) release() {
	a.taken--
	a.w.global.force(-1)
	a.reception.limit.force(-1)
	a.crowd.leave(a.w.slot)
}

// refused is a connection beyond the limit of its chain, which is closed a while later.
type refused struct {
	b     *branch
	fd    int
	timer loop.Timer
}

// refuse closes a connection that the chain has no room for.
func (b *branch) refuse(fd int) {
	delay := time.Duration(0)
	if l := b.served.cfg.Limit; l != nil {
		delay = l.Delay
	}
	if delay <= 0 {
		_ = syscall.Close(fd)
		b.stats.count[listenerCxDestroy]++
		b.release()
		return
	}
	r := &refused{b: b, fd: fd}
	b.active++
	b.conns++
	b.stats.count[listenerCxActive]++
	b.w.refused[r] = struct{}{}
	b.w.loop.Start(&r.timer, delay, r)
}

// Expired closes it.
func (r *refused) Expired(*loop.Timer) { r.close() }

func (r *refused) close() {
	r.timer.Stop()
	delete(r.b.w.refused, r)
	_ = syscall.Close(r.fd)
	r.b.ended()
}

// chainLimit is the limit of a chain as it is configured.
func chainLimit(c *config.FilterChain) uint64 {
	if c.Limit == nil {
		return 0
	}
	return c.Limit.Max
}

// pruneLimits forgets the limits of listeners and chains that are gone.
func (b *binder) pruneLimits(wanted map[config.Address]*reception) {
	used := map[*limit]bool{}
	for _, r := range wanted {
		used[r.limit] = true
		for _, s := range r.served {
			used[s.limit] = true
		}
	}
	b.limits.prune(used)
}

// limitSamples are the figures of the chains that have a limit.
func (b *binder) limitSamples() []sample {
	type figures struct{ active, refused uint64 }
	sums := map[string]figures{}
	seen := map[*limit]bool{}
	for _, at := range b.listeners() {
		for _, s := range at.served.served {
			if s.cfg.Limit == nil || seen[s.limit] {
				continue
			}
			seen[s.limit] = true
			f := sums[s.cfg.Limit.StatPrefix]
			f.active += uint64(max(0, s.limit.active.Load()))
			f.refused += s.limit.refused.Load()
			sums[s.cfg.Limit.StatPrefix] = f
		}
	}
	var out []sample
	for _, prefix := range slices.Sorted(maps.Keys(sums)) {
		put := func(name string, v uint64, gauge bool) {
			out = append(out, sample{scope: "connection_limit", label: "envoy_connection_limit_prefix", owner: prefix, name: name, value: v, gauge: gauge})
		}
		put("active_connections", sums[prefix].active, true)
		put("limited_connections", sums[prefix].refused, false)
	}
	return out
}
