package registry

import (
	"slices"
	"time"
)

// anEntry is what tells one Problem from another: the reason may change from view to view.
type anEntry struct{ object, kind string }

// readProblems takes the Problems of what the source says, and reports whether that is a first view in which something
// may be missing because of them. Those that are not new hid nothing that was served. While something is unclear, those
// of before it became so are what is not new.
func (g *guard) readProblems(now time.Time, problems []Problem, first bool) (partial bool) {
	before := g.problems
	g.problems = problems
	if !first && g.unclear == 0 {
		return false
	}
	if g.unclear > 0 {
		before = g.stood
	}
	if !someMayHide(problems, before) {
		g.clarify(now)
		return false
	}
	if first {
		g.stood = before
	}
	return first
}

// someMayHide reports whether one of the problems can be why something is missing that was served: one that is new, or
// one for which a last good state stood, and does not any more.
func someMayHide(problems, before []Problem) bool {
	var stood map[anEntry]bool // whether a last good state stood in its place
	return slices.ContainsFunc(problems, func(p Problem) bool {
		if p.Kind == "type" {
			return false // no endpoint of the mesh, however well it is read
		}
		if stood == nil {
			stood = make(map[anEntry]bool, len(before))
			for _, b := range before {
				k := anEntry{b.Object, b.Kind}
				stood[k] = stood[k] || b.Stale
			}
		}
		stale, old := stood[anEntry{p.Object, p.Kind}]
		return !old || stale && !p.Stale
	})
}

// judgePartial doubts all that is missing in a first view in which something could not be read.
func (g *guard) judgePartial(now time.Time, fresh [][]*loss) {
	for _, lost := range fresh {
		for _, l := range lost {
			g.doubt(now, l, "missing in a first view in which other entries could not be read")
		}
	}
	for l := range g.kept { // those of a seal are still missing
		if l.state == doubted && !l.unclear {
			l.unclear = true
			g.unclear++
		}
	}
}

// clarify says that what is missing is not missing for what cannot be read: the source's word for it counts from now on.
func (g *guard) clarify(now time.Time) {
	if g.unclear == 0 {
		return
	}
	for l := range g.kept {
		if l.unclear {
			l.unclear, l.marked = false, now
			if !l.until.IsZero() {
				l.until = later(l.until, now.Add(g.rules.Window))
			}
		}
	}
	g.unclear, g.stood = 0, nil
	g.queueAgain()
}

// sameProblems reports whether two views have problems with the same entries.
func sameProblems(a, b []Problem) bool {
	return slices.EqualFunc(a, b, func(a, b Problem) bool { return a.Object == b.Object && a.Kind == b.Kind && a.Stale == b.Stale })
}
