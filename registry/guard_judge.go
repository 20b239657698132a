package registry

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// mostHolds is how many Holds a burst lasts: a registry that always loses something still gets its word.
const mostHolds = 8

// judgePartial doubts all that is missing in a first view in which something could not be read.
func (g *guard) judgePartial(now time.Time, fresh [][]*loss) {
	for _, lost := range fresh {
		for _, l := range lost {
			g.doubt(now, l, "missing in a first view in which other entries could not be read")
		}
	}
	for l := range g.kept {
		l.unclear = l.unclear || l.state == doubted // those of a seal are still missing
	}
}

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
		reason := fmt.Sprintf("%d of %d endpoints of the service left within %v", n, all, within(now, since))
		for _, l := range recent {
			g.doubt(now, l, reason)
		}
		g.burst(now)
	case n == 1 && g.large(1, all) && (fresh[0].endpoint.Health.Serving() || lost.rest == 0):
		g.hold(now, fresh[0])
	}
}

// judgeSource doubts what is sudden in the source as a whole.
func (g *guard) judgeSource(now time.Time, fresh [][]*loss) {
	if n, all := g.sudden, g.endpoints+g.sudden; g.more(n, all) {
		i := slices.IndexFunc(g.recent, func(l *loss) bool { return l.recent })
		reason := fmt.Sprintf("%d of %d endpoints of the registry left within %v", n, all, within(now, g.recent[i].since))
		for _, l := range g.recent[i:] {
			if l.recent {
				g.doubt(now, l, reason)
			}
		}
		return // every service that is emptied is one of them
	}
	if !slices.ContainsFunc(fresh, func(lost []*loss) bool { return g.losses[lost[0].service.Name].rest == 0 }) {
		return
	}
	since, all := now, g.services
	var empty []*serviceLosses
	for _, lost := range g.losses {
		if lost.rest > 0 {
			continue
		}
		any := false
		for _, l := range lost.byID {
			if l.recent {
				any, since = true, earlier(since, l.since)
			}
		}
		if any {
			empty = append(empty, lost)
			if lost.used == 0 {
				all++
			}
		}
	}
	if n := len(empty); g.more(n, all) {
		reason := fmt.Sprintf("%d of %d services of the registry lost their last endpoint within %v", n, all, within(now, since))
		for _, lost := range empty {
			for _, l := range lost.byID {
				if l.recent {
					g.doubt(now, l, reason)
				}
			}
		}
	}
}

// hold keeps what was lost until its burst has ended.
func (g *guard) hold(now time.Time, l *loss) {
	if l.state != left {
		return
	}
	g.burst(now)
	l.state = held
	g.kept[l] = struct{}{}
	g.dirty[l.service.Name] = struct{}{}
}

// burst says that a service has lost no small part of itself: what is held waits on.
func (g *guard) burst(now time.Time) {
	if now.Sub(g.burstLast) >= g.rules.Hold {
		g.burstBegan = now
	}
	g.burstLast, g.moved = now, true
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
	g.moved = true
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
		g.moved = true
	}
}

// pass lets leave what is due and returns what is served.
func (g *guard) pass(now time.Time) []*Service {
	g.expire(now)
	if !g.word.IsZero() && (g.moved || !g.due.IsZero() && !now.Before(g.due)) {
		g.moved = false
		if end := g.burstEnd(); !now.Before(end) {
			g.endBurst(now)
		}
		g.due = time.Time{}
		for l := range g.kept {
			at, why := g.leaves(l)
			switch {
			case at.IsZero():
			case !now.Before(at):
				g.strike(l, why)
			case g.due.IsZero() || at.Before(g.due):
				g.due = at
			}
		}
		g.moved = false
	}
	return g.serve()
}

// burstEnd returns when what is held leaves: when nothing has come to it for Hold, or it has lasted long enough.
func (g *guard) burstEnd() time.Time {
	return earlier(g.burstLast.Add(g.rules.Hold), g.burstBegan.Add(mostHolds*g.rules.Hold))
}

// leaves returns when something kept leaves, and why; zero: not by time.
func (g *guard) leaves(l *loss) (time.Time, string) {
	switch {
	case l.state == held:
		return g.burstEnd(), ""
	case l.unclear && !g.clear:
		return time.Time{}, ""
	case !l.until.IsZero():
		return l.until, byFewness
	}
	from := later(g.word, l.marked)
	if l.unclear {
		from = later(from, g.cleared)
	}
	return from.Add(g.rules.Time), byRepetition
}

// endBurst lets leave what is held, but for services that lost their last endpoint together.
func (g *guard) endBurst(now time.Time) {
	var empty []*loss
	first, last := now, time.Time{}
	g.burstBegan = now
	for l := range g.kept {
		switch {
		case l.state != held:
		case g.losses[l.service.Name].rest == 0:
			empty = append(empty, l)
			first, last = earlier(first, l.since), later(last, l.since)
		case l.recent:
			l.state = left // and may come back
			g.drop(l)
		default:
			g.strike(l, "")
		}
	}
	if len(empty) == 1 {
		if l := empty[0]; l.recent {
			l.state = left
			g.drop(l)
		} else {
			g.strike(l, "")
		}
		return
	}
	for _, l := range empty {
		g.doubt(now, l, fmt.Sprintf("%d services lost their last endpoint within %v", len(empty), within(last, first)))
		l.until = later(now, l.since.Add(g.rules.Window))
	}
}

// next returns when tick is to be called; zero: never, as things are.
func (g *guard) next() time.Time {
	switch {
	case g.word.IsZero():
		return time.Time{}
	case g.due.IsZero() || g.sweep.IsZero():
		return later(g.due, g.sweep)
	}
	return earlier(g.due, g.sweep)
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
