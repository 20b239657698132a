package registry

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// guard is the state of a Guard: what a source says, and what is kept against its word. It does no I/O and has no clock:
// every call is told the time, which does not go back. A change costs as much as the services it touches, and, while
// something is kept, one walk over the names of all.
type guard struct {
	rules Guard

	truth     []*Service // what the source says
	known     bool       // it has said something, in this process or a sealed one
	endpoints int        // in truth, that are used
	services  int        // in truth, with an endpoint that is used

	word time.Time // since when it has said what it says, without a failure; zero while there is no Watch with a view

	clear   bool      // it could read every entry
	cleared time.Time // when that began

	young  map[Name]map[string]time.Time // by endpoint ID: when it began to serve, zero before; it answers for no loss yet
	sick   map[Name]map[string]time.Time // by endpoint ID: when it became unhealthy, within Window; it served before
	losses map[Name]*serviceLosses
	recent []*loss // those within Window by time; some are struck
	sudden int     // of recent, not struck
	kept   map[*loss]struct{}
	at     map[place][]*loss // the doubted, where they are

	burstBegan, burstLast time.Time // of losses that are held
	due                   time.Time // when something kept may leave; zero: nothing does by time
	moved                 bool      // due is not right any more
	sweep                 time.Time // when young, sick and recent are to be looked through; zero: they are empty

	overlay map[Name]*Service // what is served in place of truth
	dirty   map[Name]struct{} // where overlay is to be made again

	began, ended map[string]int // doubted endpoints by reason, since the last events
}

// serviceLosses is what one service has lost.
type serviceLosses struct {
	byID map[string]*loss
	used int // endpoints that the source reports and that are used
	rest int // used as what was lost was: 0 when those that serve are lost and unhealthy ones remain
}

type lossState uint8

const (
	left    lossState = iota // not served any more; remembered for Window, for it may come back
	held                     // served as it was, for Hold
	doubted                  // served, with a Doubt
)

// loss is one endpoint that was used, or was until just now, and is not reported any more.
type loss struct {
	service  *Service  // as it was, without endpoints
	endpoint *Endpoint // as it was; with its Doubt when doubted
	since    time.Time // when it left
	state    lossState
	recent   bool // counts in sudden
	// Of a doubted one:
	marked  time.Time // when it was, in this process
	until   time.Time // when it leaves unless it turns out sudden; zero: when the source has repeated it
	unclear bool      // it was missing in a first view with Problems
	reports map[reporter]proof
}

// The ways a doubt ends.
const (
	byReturn      = "reported again"
	byReplacement = "replaced by others"
	byRepetition  = "repeated by the registry"
	byFewness     = "few were lost"
	byOperator    = "accepted by the operator"
	byProof       = "proved by proxies"
)

func newGuard(rules Guard) guard {
	return guard{
		rules: rules.withDefaults(),
		young: make(map[Name]map[string]time.Time), sick: make(map[Name]map[string]time.Time),
		losses: make(map[Name]*serviceLosses),
		kept:   make(map[*loss]struct{}), at: make(map[place][]*loss),
		overlay: make(map[Name]*Service), dirty: make(map[Name]struct{}),
		began: make(map[string]int), ended: make(map[string]int),
	}
}

// take returns what to serve when the source says services; clear is false if there are entries that it could not read.
func (g *guard) take(now time.Time, services []*Service, clear bool) []*Service {
	if g.rules.Off {
		g.truth, g.known = services, true
		for l := range g.kept { // of a seal
			g.strike(l, byReturn)
		}
		return g.truth
	}
	first := g.word.IsZero()
	if first {
		g.resume(now)
	}
	partial := first && !clear
	if clear != g.clear {
		g.clear, g.moved, g.cleared = clear, true, now
	}
	g.expire(now)
	before := g.truth
	g.truth = services
	var fresh [][]*loss // by service
	walk(before, services, func(old, new *Service) {
		if lost := g.change(now, old, new); len(lost) > 0 {
			fresh = append(fresh, lost)
		}
	})
	g.known = true
	if partial {
		g.judgePartial(now, fresh)
	}
	if len(fresh) > 0 {
		g.judgeSource(now, fresh)
	}
	for _, lost := range fresh {
		g.judgeService(now, lost)
	}
	return g.pass(now)
}

// tick returns what to serve now that time has passed.
func (g *guard) tick(now time.Time) []*Service { return g.pass(now) }

// fail says that the source's Watch ended, or that it said nonsense: time releases nothing until the next take.
func (g *guard) fail() { g.word = time.Time{} }

// resume starts every clock again.
func (g *guard) resume(now time.Time) {
	g.word, g.moved = now, true
	g.burstBegan, g.burstLast = now, now
	for l := range g.kept {
		if !l.until.IsZero() {
			l.until = now.Add(g.rules.Window)
		}
	}
}

// accept takes the source's word for all that is kept, and forgets what it lost before.
func (g *guard) accept(now time.Time) ([]*Service, int) {
	n := len(g.kept)
	for _, lost := range g.losses {
		for _, l := range lost.byID {
			g.strike(l, byOperator)
		}
	}
	return g.pass(now), n
}

// walk calls visit for each service that is in one of two sorted lists alone, or in both under another pointer.
func walk(a, b []*Service, visit func(a, b *Service)) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(a) == 0 || len(b) > 0 && b[0].Name.Compare(a[0].Name) < 0:
			visit(nil, b[0])
			b = b[1:]
		case len(b) == 0 || a[0].Name.Compare(b[0].Name) < 0:
			visit(a[0], nil)
			a = a[1:]
		default:
			if a[0] != b[0] {
				visit(a[0], b[0])
			}
			a, b = a[1:], b[1:]
		}
	}
}

// change takes what the source says of one service; nil is nothing. It returns what the service has lost by that.
func (g *guard) change(now time.Time, old, new *Service) (fresh []*loss) {
	before, used := countUsed(old), countUsed(new)
	g.endpoints += used - before
	g.services += min(used, 1) - min(before, 1)
	name := nameOf(old, new)
	lost := g.losses[name]
	fresh = g.lose(now, old, new, &lost)
	if lost != nil {
		lost.count(new)
		g.dirty[name] = struct{}{}
	}
	g.welcome(now, old, new, lost)
	g.replace(now, name, new, lost)
	return slices.DeleteFunc(fresh, func(l *loss) bool { return lost.byID[l.endpoint.ID] != l })
}

// lose notes the endpoints of old that were used and are not in new.
func (g *guard) lose(now time.Time, old, new *Service, lost **serviceLosses) (fresh []*loss) {
	if old == nil {
		return nil
	}
	someServed := countServing(old) > 0
	var shape *Service
	for _, e := range old.Endpoints {
		if still := new.endpoint(e.ID); still != nil {
			g.sicken(now, old.Name, e, still)
			continue
		}
		failed, wasServing := g.sick[old.Name][e.ID]
		delete(g.young[old.Name], e.ID)
		delete(g.sick[old.Name], e.ID)
		switch {
		case e.Health.Serving():
		case e.Health == Unhealthy && (!someServed || wasServing && now.Sub(failed) < g.rules.Window):
		default:
			continue // it had no traffic
		}
		if shape == nil {
			shape = &Service{Name: old.Name, Original: old.Original, Ports: old.Ports, Labels: old.Labels, Conflicts: old.Conflicts}
		}
		if *lost == nil {
			*lost = &serviceLosses{byID: make(map[string]*loss)}
			g.losses[old.Name] = *lost
		}
		l := &loss{service: shape, endpoint: e, since: now, recent: true}
		(*lost).byID[e.ID] = l
		g.recent = append(g.recent, l)
		g.sudden++
		g.sweepLater(now)
		fresh = append(fresh, l)
	}
	return fresh
}

// sicken notes when an endpoint that served becomes unhealthy: an outage of health checks is often followed by removals.
func (g *guard) sicken(now time.Time, name Name, old, new *Endpoint) {
	switch {
	case new.Health.Serving():
		delete(g.sick[name], new.ID)
	case old.Health.Serving() && new.Health == Unhealthy:
		if g.sick[name] == nil {
			g.sick[name] = make(map[string]time.Time)
		}
		g.sick[name][new.ID] = now
		g.sweepLater(now)
	}
}

// count counts what the source still reports.
func (s *serviceLosses) count(reported *Service) {
	s.used = countUsed(reported)
	s.rest = s.used
	if countServing(reported) > 0 {
		return
	}
	for _, l := range s.byID {
		if l.endpoint.Health.Serving() {
			s.rest = 0
			return
		}
	}
}

// welcome strikes what is reported again, under its ID or at its place, and notes what is really new.
func (g *guard) welcome(now time.Time, old, new *Service, lost *serviceLosses) {
	if new == nil {
		return
	}
	var there map[place]*loss
	if lost != nil {
		there = make(map[place]*loss)
		for _, l := range lost.byID {
			for p := range places(l.endpoint) {
				there[p] = l
			}
		}
	}
	for _, e := range new.Endpoints {
		back := false
		if lost != nil {
			if l := lost.byID[e.ID]; l != nil {
				g.strike(l, byReturn)
				back = true
			}
			for p := range places(e) {
				if l := there[p]; l != nil {
					g.strike(l, byReturn)
					back = true
				}
			}
		}
		if back || !g.known || old.endpoint(e.ID) != nil {
			continue
		}
		if g.young[new.Name] == nil {
			g.young[new.Name] = make(map[string]time.Time)
		}
		g.young[new.Name][e.ID] = time.Time{}
		g.sweepLater(now)
	}
}

// replace has the young endpoints that serve answer for losses: first for those kept, the oldest first.
func (g *guard) replace(now time.Time, name Name, new *Service, lost *serviceLosses) {
	young := g.young[name]
	var answered []*loss // those to answer for, in order
	for _, id := range slices.Sorted(maps.Keys(young)) {
		e := new.endpoint(id)
		if e == nil || !e.Health.Serving() {
			continue
		}
		if young[id].IsZero() {
			young[id] = now
		}
		if now.Sub(young[id]) > g.rules.Window {
			delete(young, id)
			continue
		}
		if answered == nil {
			answered = lost.inOrder()
		}
		if len(answered) > 0 {
			g.strike(answered[0], byReplacement)
			answered = answered[1:]
			delete(young, id)
		}
	}
	if len(young) == 0 {
		delete(g.young, name)
	}
}

// inOrder returns the losses in the order in which new endpoints answer for them: first those kept, the oldest first.
func (s *serviceLosses) inOrder() []*loss {
	if s == nil {
		return nil
	}
	return slices.SortedFunc(maps.Values(s.byID), func(a, b *loss) int {
		return cmp.Or(
			-cmp.Compare(min(a.state, held), min(b.state, held)), // kept or not
			a.since.Compare(b.since), cmp.Compare(a.endpoint.ID, b.endpoint.ID),
		)
	})
}

// more reports whether n of all are two or more, and more than Share.
func (g *guard) more(n, all int) bool { return n >= 2 && g.large(n, all) }

// large reports whether n of all are more than Share.
func (g *guard) large(n, all int) bool { return float64(n) > g.rules.Share*float64(all)+1e-9 }

// endpoint returns the endpoint of that ID, or nil.
func (s *Service) endpoint(id string) *Endpoint {
	if s == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(s.Endpoints, id, func(e *Endpoint, id string) int { return cmp.Compare(e.ID, id) })
	if !ok {
		return nil
	}
	return s.Endpoints[i]
}

// countUsed counts the endpoints that get requests: those that serve or, where none does, the unhealthy ones, which
// callers then use for want of better.
func countUsed(s *Service) int {
	if s == nil {
		return 0
	}
	unhealthy := 0
	for _, e := range s.Endpoints {
		if e.Health == Unhealthy {
			unhealthy++
		}
	}
	return cmp.Or(countServing(s), unhealthy)
}

func countServing(s *Service) (n int) {
	if s == nil {
		return 0
	}
	for _, e := range s.Endpoints {
		if e.Health.Serving() {
			n++
		}
	}
	return n
}

func nameOf(a, b *Service) Name {
	if a != nil {
		return a.Name
	}
	return b.Name
}
