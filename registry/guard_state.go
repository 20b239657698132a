package registry

import "time"

// guard is the state of a Guard: what a source says, and what is kept against its word. It does no I/O and has no clock:
// every call is told the time, which does not go back. A view costs as much as the services that changed in it, and a
// look at the pointers of all.
type guard struct {
	rules Guard

	truth     []*Service // what the source says
	known     bool       // it has said something, in this process or a sealed one
	endpoints int        // in truth, that are used
	services  int        // in truth, with an endpoint that is used

	word time.Time // since when it has said what it says, without a failure; zero while there is no Watch with a view

	problems []Problem // of what it says
	stood    []Problem // while something is unclear: those of before, which hid nothing
	unclear  int       // of kept

	young  map[Name]map[string]time.Time // by endpoint ID: when it began to serve, zero before; it answers for no loss yet
	sick   map[Name]map[string]time.Time // by endpoint ID: when it became unhealthy, within Window; it served before
	losses map[Name]*serviceLosses
	recent []*loss // those within Window by time; some are struck
	sudden int     // of recent, not struck
	judged int     // of recent, at its head: doubted as the source's already
	kept   map[*loss]struct{}
	queue  departures        // of the doubted, by when they leave at the earliest; some are struck
	at     map[place][]*loss // of losses, where they were

	burstBegan, burstLast time.Time // of losses that are held
	holding               []*loss   // in the burst; some are not held any more
	sweep                 time.Time // when young, sick and recent are to be looked through; zero: they are empty

	accounts map[string]*account // of what is doubted, by what for, until quiet
	opened   time.Time           // when the first of them was
	quiet    time.Time           // when they are told; zero: there are none

	overlay map[Name]*Service // what is served in place of truth
	served  []*Service        // truth, with overlay
	dirty   map[Name]struct{} // where overlay and served are to be made again

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
	unclear bool      // it was missing in a first view with new Problems, of which some stand
	reports map[reporter]proof
}

// The ways a doubt ends.
const (
	byReturn      = "reported again"
	byReplacement = "replaced by others"
	byTaking      = "another service has its address and port"
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
		accounts: make(map[string]*account),
		overlay:  make(map[Name]*Service), dirty: make(map[Name]struct{}),
		began: make(map[string]int), ended: make(map[string]int),
	}
}

// take returns what to serve when the source says services, and that there are entries that it could not read.
func (g *guard) take(now time.Time, services []*Service, problems []Problem) []*Service {
	if g.rules.Off {
		g.truth, g.problems, g.known = services, problems, true
		for l := range g.kept { // of a seal
			g.strike(l, byReturn)
		}
		return g.truth
	}
	first := g.word.IsZero()
	if first {
		g.resume(now)
	}
	partial := g.readProblems(now, problems, first)
	g.expire(now)
	before := g.truth
	g.truth = services
	fresh := g.compare(now, before)
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
	g.word = now
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

// more reports whether n of all are two or more, and more than Share.
func (g *guard) more(n, all int) bool { return n >= 2 && g.large(n, all) }

// large reports whether n of all are more than Share.
func (g *guard) large(n, all int) bool { return float64(n) > g.rules.Share*float64(all)+1e-9 }
