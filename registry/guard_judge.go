package registry

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// mostHolds is how many Holds a burst lasts: a registry that always loses something still gets its word.
const mostHolds = 8

// judgeService says what becomes of what a service has lost just now.
func (g *guard) judgeService(now time.Time, fresh []*loss) {
	lost := g.losses[fresh[0].service.Name]
	var recent []*loss
	since := now
	for _, l := range lost.byID {
		if l.recent {
			recent = append(recent, l)
			since = earlier(since, l.since)
		}
	}
	n, all := len(recent), lost.rest+len(recent)
	switch {
	case g.more(n, all):
		g.doubtAll(now, fresh[0].service.Name.String(), recent, n,
			fmt.Sprintf("%d of %d endpoints of the service left within %v", n, all, within(now, since)))
		g.burst(now)
	case n == 1 && g.large(1, all) && (fresh[0].endpoint.Health.Serving() || lost.rest == 0):
		g.hold(now, fresh[0])
	}
}

// judgeSource doubts what is sudden in the source as a whole.
func (g *guard) judgeSource(now time.Time, fresh [][]*loss) {
	if n, all := g.sudden, g.endpoints+g.sudden; g.more(n, all) {
		gone := slices.DeleteFunc(slices.Clone(g.recent[g.judged:]), func(l *loss) bool { return !l.recent })
		g.doubtAll(now, "endpoints", gone, n,
			fmt.Sprintf("%d of %d endpoints of the registry left within %v", n, all, within(now, g.firstRecent(now))))
		g.judged = len(g.recent)
		return // every service that is emptied is one of them
	}
	if slices.ContainsFunc(fresh, func(lost []*loss) bool { return g.losses[lost[0].service.Name].rest == 0 }) {
		g.judgeServices(now)
	}
}

// judgeServices doubts what is sudden in services that have lost all.
func (g *guard) judgeServices(now time.Time) {
	var gone []*loss
	empty := make(map[*serviceLosses]struct{})
	all := g.services
	for _, l := range g.recent {
		lost := g.losses[l.service.Name]
		if !l.recent || lost.rest > 0 {
			continue
		}
		gone = append(gone, l)
		if _, counted := empty[lost]; !counted && lost.used == 0 {
			all++
		}
		empty[lost] = struct{}{}
	}
	if n := len(empty); g.more(n, all) {
		g.doubtAll(now, "services", gone, n,
			fmt.Sprintf("%d of %d services of the registry lost their last endpoint within %v", n, all, within(now, gone[0].since)))
	}
}

// firstRecent returns when the first of what counts as sudden was lost.
func (g *guard) firstRecent(now time.Time) time.Time {
	if i := slices.IndexFunc(g.recent, func(l *loss) bool { return l.recent }); i >= 0 {
		return g.recent[i].since
	}
	return now
}

// hold keeps what was lost until its burst has ended.
func (g *guard) hold(now time.Time, l *loss) {
	if l.state != left {
		return
	}
	g.burst(now)
	l.state = held
	g.holding = append(g.holding, l)
	g.kept[l] = struct{}{}
	g.dirty[l.service.Name] = struct{}{}
}

// burst says that a service has lost no small part of itself: what is held waits on.
func (g *guard) burst(now time.Time) {
	if now.Sub(g.burstLast) >= g.rules.Hold || len(g.holding) == 0 && !now.Before(g.burstEnd()) {
		g.burstBegan = now
	}
	g.burstLast = now
}

// doubt keeps what was lost, or keeps what was to leave soon until the source has repeated its word.
func (g *guard) doubt(now time.Time, l *loss, reason string) {
	if l.state == doubted && l.until.IsZero() {
		return
	}
	e := *l.endpoint
	e.Doubt = &Doubt{Since: l.since.Round(0), Reason: reason}
	l.endpoint, l.state, l.marked, l.until = &e, doubted, now, time.Time{}
	g.kept[l] = struct{}{}
	g.dirty[l.service.Name] = struct{}{}
	g.began[reason]++
	g.enqueue(l)
}

// strike forgets a loss: what was kept for it leaves, and it counts no more.
func (g *guard) strike(l *loss, why string) {
	if g.struck(l) {
		return
	}
	name := l.service.Name
	lost := g.losses[name]
	if delete(lost.byID, l.endpoint.ID); len(lost.byID) == 0 {
		delete(g.losses, name)
	}
	if l.recent {
		l.recent = false
		g.sudden--
	}
	if l.state == doubted {
		g.ended[why]++
	}
	for p := range places(l.endpoint) {
		if g.at[p] = slices.DeleteFunc(g.at[p], func(o *loss) bool { return o == l }); len(g.at[p]) == 0 {
			delete(g.at, p)
		}
	}
	g.drop(l)
}

// struck reports whether a loss is forgotten.
func (g *guard) struck(l *loss) bool {
	lost := g.losses[l.service.Name]
	return lost == nil || lost.byID[l.endpoint.ID] != l
}

// drop takes out of what is served what was kept.
func (g *guard) drop(l *loss) {
	if _, ok := g.kept[l]; ok {
		delete(g.kept, l)
		g.dirty[l.service.Name] = struct{}{}
		if l.unclear {
			l.unclear = false
			g.unclear--
		}
	}
}

// expire forgets what is longer ago than Window.
func (g *guard) expire(now time.Time) {
	old := 0
	for ; old < len(g.recent) && now.Sub(g.recent[old].since) >= g.rules.Window; old++ {
		if l := g.recent[old]; l.recent {
			if l.state == left {
				g.strike(l, "")
			} else {
				l.recent = false
				g.sudden--
			}
		}
	}
	g.judged = max(g.judged-old, 0)
	if g.recent = g.recent[old:]; len(g.recent) == 0 {
		g.recent = nil
	}
	if g.sweep.IsZero() || now.Before(g.sweep) {
		return
	}
	g.sweep = time.Time{}
	g.forget(now, g.young)
	g.forget(now, g.sick)
	if len(g.recent) > 0 {
		g.sweepLater(now)
	}
}

// forget takes out of times, by service and endpoint, what is longer ago than Window.
func (g *guard) forget(now time.Time, times map[Name]map[string]time.Time) {
	for name, byID := range times {
		maps.DeleteFunc(byID, func(_ string, at time.Time) bool { return !at.IsZero() && now.Sub(at) > g.rules.Window })
		for _, at := range byID {
			if !at.IsZero() {
				g.sweepLater(now)
			}
		}
		if len(byID) == 0 {
			delete(times, name)
		}
	}
}

// sweepLater has what is remembered for Window looked through when that has passed.
func (g *guard) sweepLater(now time.Time) {
	if g.sweep.IsZero() {
		g.sweep = now.Add(g.rules.Window)
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// within is a time for people: a tenth of a second, or whole seconds, rounded up.
func within(now, since time.Time) time.Duration {
	unit := 100 * time.Millisecond
	d := now.Sub(since)
	if d > time.Second {
		unit = time.Second
	}
	return max((d+unit-1)/unit*unit, unit)
}
