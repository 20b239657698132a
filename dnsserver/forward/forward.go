// Package forward asks other DNS servers on behalf of clients, and remembers what they say: a dnsserver.Forwarder.
//
// It is no resolver: it follows no delegation and validates nothing, its upstreams do. What they say is kept for its TTL (RFC 2308
// of what does not exist), and is answered longer when no upstream answers (RFC 8767). Each question is asked once at a time.
// Names that mean something on the host or the site alone are not asked for (RFC 6303, 6761).
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

const (
	askTime   = 5 * time.Second         // for an answer, from whomever
	staleTime = 1800 * time.Millisecond // for an answer, where an old one is there (RFC 8767 §5)
	staleTTL  = 30                      // seconds, of old answers
	holdTime  = 30 * time.Second        // until it is asked again for what could not be had, and is answered from what is old
	failTTL   = time.Second             // of what could not be had (RFC 9520)

	maxFlights       = 1000 // questions that are asked at a time
	maxSourceWaiting = 100  // queries of one source that wait at a time, but for the host itself
)

// Options say whom to ask, and what to keep.
type Options struct {
	Upstreams []Upstream // in the order in which they are preferred
	// Own are domains that are never asked for, for they are ours.
	Own []dnsserver.Name
	// PassOn are locally served domains (see LocalDomains) that upstreams know better, such as the reverse zone of the site's network.
	PassOn []dnsserver.Name

	CacheBytes     int           // memory of the cache; 0: nothing is kept
	MinTTL, MaxTTL time.Duration // bounds of how long an answer is kept
	NegativeTTL    time.Duration // the same, of that something does not exist: at most
	Stale          time.Duration // how long an answer may be used beyond its TTL; 0: not at all
	Log            *slog.Logger
	Tap            dnsserver.Tap // is shown what is asked of upstreams; nil: nobody is
}

// Forwarder implements dnsserver.Forwarder. It is made by New; its methods are safe for concurrent use.
type Forwarder struct {
	opts      Options
	upstreams []*upstream
	local     *local
	cache     *cache
	life      context.Context
	end       context.CancelFunc
	running   sync.WaitGroup // flights

	mu      sync.Mutex
	flights map[key]*flight    // guarded by mu
	waiting map[netip.Addr]int // guarded by mu: queries by their sources

	revived                                          atomic.Int64 // when an upstream that was down last answered again, Unix nanoseconds
	hits, misses, stale, refused, loops, localAnswer atomic.Uint64
}

// key is what an answer is remembered by.
type key struct {
	name              dnsserver.Name
	qtype             uint16
	dnssec, unchecked bool
}

// flight is a question that is being asked.
type flight struct {
	done   chan struct{} // closed when answer is set
	answer *entry
	sent   []sent // guarded by Forwarder.mu: our queries, by which they are known if they come back
}

// New returns a Forwarder. Run releases what it holds.
func New(o Options) *Forwarder {
	f := &Forwarder{opts: o, local: newLocal(o.Own, o.PassOn), cache: newCache(o.CacheBytes), flights: map[key]*flight{}, waiting: map[netip.Addr]int{}}
	f.life, f.end = context.WithCancel(context.Background())
	for _, u := range o.Upstreams {
		f.upstreams = append(f.upstreams, newUpstream(u, o.Log, o.Tap, &f.revived))
	}
	return f
}

// Run waits until ctx ends, ends what is being asked, and returns ctx's cause.
func (f *Forwarder) Run(ctx context.Context) error {
	<-ctx.Done()
	f.mu.Lock() // whoever begins a question has counted it, or sees that it is the end
	f.end()
	f.mu.Unlock()
	f.running.Wait()
	for _, u := range f.upstreams {
		u.close()
	}
	return context.Cause(ctx)
}

// Known implements dnsserver.Forwarder.
func (f *Forwarder) Known(q dnsserver.Question) (dnsserver.Forwarded, bool) {
	if e := f.local.find(q.Name, q.Type); e != nil {
		f.localAnswer.Add(1)
		return e.at(e.stored), true
	}
	now := time.Now()
	e := f.cache.get(keyOf(q))
	switch {
	case e == nil:
		return dnsserver.Forwarded{}, false
	case e.fresh(now):
		f.hits.Add(1)
		return e.at(now), true
	case f.usable(e, now) && e.held(now, f.revived.Load()):
		f.stale.Add(1)
		return e.old(), true
	}
	return dnsserver.Forwarded{}, false
}

func keyOf(q dnsserver.Question) key { return key{q.Name, q.Type, q.DNSSEC, q.Unchecked} }

// usable says whether an answer may be given though its time has passed.
func (f *Forwarder) usable(e *entry, now time.Time) bool {
	return f.opts.Stale > 0 && !e.failed && now.Before(e.stored.Add(e.ttl+f.opts.Stale))
}

// Ask implements dnsserver.Forwarder.
func (f *Forwarder) Ask(ctx context.Context, q dnsserver.Question) dnsserver.Forwarded {
	if said, known := f.Known(q); known {
		return said // meanwhile
	}
	f.misses.Add(1)
	k := keyOf(q)
	w, why := f.join(k, q)
	if why != nil {
		return *why
	}
	defer f.leave(q.Asker)
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var tooLong <-chan time.Time
	before := f.cache.get(k)
	if before != nil && f.usable(before, time.Now()) {
		tooLong = time.After(staleTime)
	} else {
		before = nil
	}
	select {
	case <-w.done:
		if w.answer.unanswered && before != nil {
			break
		}
		return w.answer.at(w.answer.stored)
	case <-tooLong:
	case <-ctx.Done():
	}
	if before != nil {
		f.stale.Add(1)
		return before.old()
	}
	return failure(dns.ExtendedErrorCodeNoReachableAuthority, "no upstream has answered in time")
}

// failure is SERVFAIL with an explanation.
func failure(code uint16, text string) dnsserver.Forwarded {
	return dnsserver.Forwarded{Rcode: dns.RcodeServerFailure, Failure: &dnsserver.Failure{Code: code, Text: text}}
}

// join finds the flight of a question, or begins it, and has its asker wait; why not is told by an answer.
func (f *Forwarder) join(k key, q dnsserver.Question) (*flight, *dnsserver.Forwarded) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cameBack(q) {
		f.loops.Add(1)
		f.opts.Log.Error("an upstream of dns.forward asks us what we ask it: a loop", "name", q.Name.String(), "client", q.Asker)
		said := failure(dns.ExtendedErrorCodeOther, "a loop: an upstream asks us what we ask it")
		return nil, &said
	}
	w := f.flights[k]
	if busy := w == nil && len(f.flights) >= maxFlights; busy || f.waiting[q.Asker] >= maxSourceWaiting && !q.Asker.IsLoopback() || f.life.Err() != nil {
		f.refused.Add(1)
		said := failure(dns.ExtendedErrorCodeNotReady, "too many queries are waited for")
		return nil, &said
	}
	f.waiting[q.Asker]++
	if w == nil {
		w = &flight{done: make(chan struct{})}
		f.flights[k] = w
		f.running.Go(func() { f.fly(k, w) })
	}
	return w, nil
}

// cameBack reports whether a query is one that we have sent: its number and the case of its name are. mu is held.
func (f *Forwarder) cameBack(q dnsserver.Question) bool {
	for _, dnssec := range []bool{false, true} {
		for _, unchecked := range []bool{false, true} {
			if w := f.flights[key{q.Name, q.Type, dnssec, unchecked}]; w != nil && slices.Contains(w.sent, sent{q.ID, q.Written}) {
				return true
			}
		}
	}
	return false
}

func (f *Forwarder) leave(asker netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting[asker]--; f.waiting[asker] <= 0 {
		delete(f.waiting, asker)
	}
}

// fly asks a question, whoever waits for it still, and keeps the answer.
func (f *Forwarder) fly(k key, w *flight) {
	ctx, cancel := context.WithTimeout(f.life, askTime)
	defer cancel()
	e := f.resolveSafely(ctx, k, w)
	now := time.Now()
	switch before := f.cache.get(k); {
	case e.unanswered && before != nil && f.usable(before, now):
		before.hold(now)
	case f.life.Err() == nil:
		f.cache.put(k, e)
	}
	w.answer = e
	f.mu.Lock()
	delete(f.flights, k)
	f.mu.Unlock()
	close(w.done)
}

// resolveSafely is resolve. The message library, which reads what upstreams say, has had bugs that crash on some hostile packet. One
// packet must not end the server.
func (f *Forwarder) resolveSafely(ctx context.Context, k key, w *flight) (e *entry) {
	defer func() {
		if cause := recover(); cause != nil {
			f.panicked(cause)
			e = failed(&dnsserver.Failure{Code: dns.ExtendedErrorCodeOther, Text: "an upstream's answer cannot be read"}, true)
		}
	}()
	return f.resolve(ctx, k, w)
}

func (f *Forwarder) panicked(cause any) {
	f.opts.Log.Error("an upstream's answer made the forwarder panic", slog.Any("panic", cause), slog.String("stack", string(debug.Stack())))
}

// failed is what is remembered of a question to which there is no answer. It is unanswered if some upstream may have one another time.
func failed(why *dnsserver.Failure, unanswered bool) *entry {
	return &entry{rcode: dns.RcodeServerFailure, failure: why, failed: true, unanswered: unanswered, stored: time.Now(), ttl: failTTL}
}

// resolve asks upstreams in turn.
func (f *Forwarder) resolve(ctx context.Context, k key, w *flight) *entry {
	sending := func(s sent) {
		f.mu.Lock()
		defer f.mu.Unlock()
		w.sent = append(w.sent, s)
	}
	refusals := 0
	last := &dnsserver.Failure{Code: dns.ExtendedErrorCodeNoReachableAuthority, Text: "no upstream answers"}
	f.retry(k, sending)
	for _, u := range f.inOrder() {
		m, err := u.ask(ctx, k, sending)
		if ctx.Err() != nil && err != nil {
			break
		}
		if err != nil {
			last.Text = clip(fmt.Sprintf("upstream %s: %v", u.Addr, err))
			continue
		}
		if refers(m) {
			last = &dnsserver.Failure{Code: dns.ExtendedErrorCodeOther, Text: fmt.Sprintf("upstream %s refers to others, want one that resolves", u.Addr)}
			continue
		}
		if final(m) {
			e, err := f.entry(k, m, u.trusted)
			if err == nil {
				return e
			}
			last = &dnsserver.Failure{Code: dns.ExtendedErrorCodeInvalidData, Text: clip(fmt.Sprintf("upstream %s: %v", u.Addr, err))}
			continue
		}
		if last = explanation(m); last == nil {
			last = &dnsserver.Failure{Code: dns.ExtendedErrorCodeOther, Text: fmt.Sprintf("upstream %s answers %s", u.Addr, dns.RcodeToString[m.Rcode])}
		} else if bogus(last.Code) {
			return failed(last, false) // another one that does not validate must not be believed in its place, nor what is old
		}
		if m.Rcode == dns.RcodeRefused {
			refusals++
		}
	}
	return failed(last, refusals < len(f.upstreams))
}

// final says whether an answer is one, also for who would ask another upstream.
func final(m *dns.Msg) bool {
	return m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError || m.Rcode == dns.RcodeYXDomain
}

// refers says whether an answer is none but tells whom else to ask, or that it does not: that of a server that does not resolve.
func refers(m *dns.Msg) bool {
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || m.Authoritative {
		return false
	}
	has := func(qtype uint16) bool {
		return slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == qtype })
	}
	return !has(dns.TypeSOA) && (has(dns.TypeNS) || !m.RecursionAvailable)
}

// explanation is what an upstream says why it has no answer, nil for nothing.
func explanation(m *dns.Msg) *dnsserver.Failure {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return &dnsserver.Failure{Code: e.InfoCode, Text: clip(e.ExtraText)}
			}
		}
	}
	return nil
}

// bogus says whether a code of RFC 8914 is about signatures.
func bogus(code uint16) bool {
	return code >= dns.ExtendedErrorCodeUnsupportedDNSKEYAlgorithm && code <= dns.ExtendedErrorCodeUnsupportedDSDigestType ||
		code >= dns.ExtendedErrorCodeDNSSECIndeterminate && code <= dns.ExtendedErrorCodeNSECMissing
}

// clip bounds what is told to clients.
func clip(text string) string { return text[:min(len(text), 200)] }

// inOrder are the upstreams as they are to be asked: those that answer first.
func (f *Forwarder) inOrder() []*upstream {
	var up, down []*upstream
	for _, u := range f.upstreams {
		if u.health.why() == "" {
			up = append(up, u)
		} else {
			down = append(down, u)
		}
	}
	return append(up, down...)
}

// retry puts a question to those that are down, and due, and would be asked before the first that answers. Nobody waits for that.
func (f *Forwarder) retry(k key, sending func(sent)) {
	answering := slices.IndexFunc(f.upstreams, func(u *upstream) bool { return u.health.why() == "" })
	for _, u := range f.upstreams[:max(answering, 0)] { // where none does they are asked anyway
		if !u.health.due(time.Now()) {
			continue
		}
		f.running.Go(func() {
			defer func() {
				if cause := recover(); cause != nil {
					f.panicked(cause)
					u.note(k.name, time.Now(), errors.New("its answer cannot be read"))
				}
			}()
			_, _ = u.ask(f.life, k, sending)
		})
	}
}

// Stats are what a Forwarder has counted since it was made.
type Stats struct {
	Upstreams     []UpstreamStats
	Hits, Misses  uint64 // answers from the cache, queries that had to wait
	Stale         uint64 // answers whose time had passed
	Local         uint64 // answers for names that are not asked for
	Refused       uint64 // queries beyond a bound
	Loops         uint64 // queries of our own that came back
	InFlight      int    // questions that are being asked
	Entries, Size int    // of the cache, in answers and bytes
}

// Stats returns what was counted so far.
func (f *Forwarder) Stats() Stats {
	s := Stats{
		Hits: f.hits.Load(), Misses: f.misses.Load(), Stale: f.stale.Load(), Local: f.localAnswer.Load(), Refused: f.refused.Load(), Loops: f.loops.Load(),
	}
	s.Entries, s.Size = f.cache.size()
	f.mu.Lock()
	s.InFlight = len(f.flights)
	f.mu.Unlock()
	for _, u := range f.upstreams {
		s.Upstreams = append(s.Upstreams, u.stats())
	}
	return s
}
