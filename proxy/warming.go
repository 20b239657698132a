package proxy

import (
	"slices"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/health"
)

// warmingTime is how long a new cluster's first checks are waited for; xDS waits as long for endpoints, and the resolver for
// names. With hosts whose checks all end in their timeouts they could take for ever.
const warmingTime = 15 * time.Second

// warming is the wait for the first checks of a cluster.
type warming struct {
	until time.Time // zero: not begun, or over
	over  bool      // whatever is not checked by now
	count uint64    // waits that ended so
}

// warmed reports whether every host of a cluster was checked once, or has had the time for that. Those that were not are
// unhealthy, as any that fails.
func (f *fleet) warmed(m *member) bool {
	hosts, _ := f.checker.Hosts(m.from.Name)
	unchecked := 0
	for _, h := range hosts {
		if h.Flags&health.Pending != 0 {
			unchecked++
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &m.warming
	switch {
	case unchecked == 0:
		w.until = time.Time{}
		return true
	case w.over:
		w.over = false
		w.count++
		f.log.Warn("cluster is used before all of its hosts were checked: those that were not are unhealthy", "cluster", m.from.Name, "hosts", len(hosts), "unchecked", unchecked)
		return true
	case w.until.IsZero():
		w.until = time.Now().Add(f.warmingTime)
		signal(f.wake)
	}
	return false
}

// look ends the wait when its time is over, and returns when it will be. It is called with fleet.mu held.
func (w *warming) look(now time.Time) (ended bool, next time.Time) {
	if w.until.IsZero() || now.Before(w.until) {
		return false, w.until
	}
	w.until, w.over = time.Time{}, true
	return true, w.until
}

// holdBack returns the listeners as the loops are to have them while clusters are cold: those that lead to one stay as they were,
// or away, and so does what would take their addresses. All others are as they come. held reports that there are such.
func holdBack(all, before []*config.Listener, cold map[string]bool) (next []*config.Listener, held bool) {
	waits := map[string]bool{} // of all
	claimed := map[config.Address]bool{}
	hold := func(l *config.Listener) {
		held, waits[l.Name] = true, true
		for _, addr := range addressesOf(l) {
			claimed[addr] = true
		}
	}
	for _, l := range all {
		if l.LeadsToAny(func(cluster string) bool { return cold[cluster] }) {
			hold(l)
		}
	}
	if !held {
		return all, false
	}
	claims := func(l *config.Listener) bool {
		return slices.ContainsFunc(addressesOf(l), func(addr config.Address) bool { return claimed[addr] })
	}
	stays := map[*config.Listener]bool{} // of before
	for more := true; more; {
		more = false
		for _, l := range before {
			if !stays[l] && (waits[l.Name] || claims(l)) {
				stays[l], more = true, true
				hold(l)
			}
		}
		for _, l := range all {
			if !waits[l.Name] && claims(l) {
				more = true
				hold(l)
			}
		}
	}
	for _, l := range before {
		if stays[l] {
			next = append(next, l)
		}
	}
	for _, l := range all {
		if !waits[l.Name] {
			next = append(next, l)
		}
	}
	slices.SortFunc(next, func(a, b *config.Listener) int { return strings.Compare(a.Name, b.Name) })
	return next, true
}
