// Package resolve finds the endpoints of clusters that are given by name.
//
// It stands between whoever publishes a configuration and the data path: it takes one up, looks up the names of its
// clusters on goroutines of its own, and publishes it again with the addresses as endpoints. What has no names in it is
// passed on as it is. A changed answer is a new Config in which one cluster is new: hosts that stay keep their state.
//
// What was found is used until another answer comes; a failure changes nothing. An answer without addresses empties a
// cluster whose addresses are its endpoints, as in Envoy, and leaves a logical host where it was.
package resolve

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	// maxLookups is how many lookups are under way at a time, whatever the number of names.
	maxLookups = 32
	// maxLookup is how long one may take, whatever number of servers and search domains there is to try.
	maxLookup = 30 * time.Second
	// warming is how long new listeners wait for the first answers; xDS waits as long for endpoints.
	warming = 15 * time.Second
)

// Stats are the counters of a cluster, by Envoy's names.
type Stats struct {
	UpdateAttempt, UpdateSuccess, UpdateFailure uint64
	UpdateEmpty                                 uint64 // answers without an address
	UpdateNoRebuild                             uint64 // answers that changed nothing
}

// Resolver follows a configuration. All methods are safe for concurrent use.
type Resolver struct {
	from *watch.Value[*config.Config]
	out  *watch.Value[*config.Config]
	log  *slog.Logger
	find func(context.Context, *config.DNSLookup, string) (answer, error)

	// What follows belongs to the goroutine of Run.
	source  *config.Config
	names   map[key]*name
	byOwner map[string][]*name // those of a cluster
	unasked map[*name]bool     // not yet asked for to the end
	due     queue
	running int
	results chan result
	built   map[string]built
	fresh   map[string]bool // clusters of built that need not be looked at again
	dirty   bool            // there may be something to publish
	warming bool            // when last published, names were waited for

	mu    sync.Mutex
	stats map[string]*Stats // guarded by mu; one for each cluster that is found by name
}

// key is a name of a cluster. Clusters do not share answers: each has its own times, and counts for itself.
type key struct{ cluster, host string }

// built is a cluster with endpoints and what it was made of.
type built struct {
	from, out *config.Cluster
}

type result struct {
	name   *name
	answer answer
	err    error
}

// New returns a Resolver of what from publishes. Nothing is looked up before Run, but a configuration without names is
// passed on at once.
func New(from *watch.Value[*config.Config], log *slog.Logger) *Resolver {
	finder := newFinder("/etc/resolv.conf", "/etc/hosts")
	r := &Resolver{
		from: from, out: watch.New[*config.Config](nil), log: log, find: finder.find, names: map[key]*name{}, byOwner: map[string][]*name{}, unasked: map[*name]bool{},
		results: make(chan result), built: map[string]built{}, fresh: map[string]bool{}, stats: map[string]*Stats{},
	}
	if cfg := from.Load(); cfg != nil && !named(cfg) {
		r.out.Set(cfg)
	}
	return r
}

// Config is the configuration with endpoints. It is nil until there is one whose names have been looked up.
func (r *Resolver) Config() *watch.Value[*config.Config] { return r.out }

// Stats returns the counters by cluster.
func (r *Resolver) Stats() map[string]Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]Stats, len(r.stats))
	for cluster, s := range r.stats {
		all[cluster] = *s
	}
	return all
}

func named(cfg *config.Config) bool {
	for _, c := range cfg.Clusters {
		if c.DNS != nil {
			return true
		}
	}
	return false
}

// Run looks names up until ctx ends.
func (r *Resolver) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var lookups sync.WaitGroup
	defer lookups.Wait()
	defer cancel()
	for {
		cfg, changed := r.from.Get()
		now := time.Now()
		if cfg != nil && cfg != r.source {
			r.take(cfg, now)
		}
		for r.running < maxLookups {
			n := r.due.pop(now)
			if n == nil {
				break
			}
			r.start(ctx, &lookups, n)
		}
		wake := r.alarm(now, r.publish(now))
		select {
		case <-ctx.Done():
			wake.Stop()
			return
		case <-changed:
		case <-wake.C:
		case res := <-r.results:
			r.running--
			r.answered(res, time.Now())
		}
		wake.Stop()
	}
}

// alarm returns a timer for when there is something to do: a name to be asked for, or, after waits, listeners that have
// waited long enough.
func (r *Resolver) alarm(now time.Time, waits time.Duration) *time.Timer {
	next := time.Duration(math.MaxInt64)
	if due, some := r.due.next(now); some && r.running < maxLookups { // otherwise a lookup has to end first
		next = due
	}
	if waits > 0 {
		next = min(next, waits)
	}
	return time.NewTimer(next)
}

// take makes the names those of a new configuration. A name that stays keeps its answer and its times.
func (r *Resolver) take(cfg *config.Config, now time.Time) {
	r.source, r.dirty = cfg, true
	names := make(map[key]*name, len(r.names))
	byOwner := make(map[string][]*name, len(r.byOwner))
	for cluster, c := range cfg.Clusters {
		if c.DNS == nil {
			continue
		}
		for i := range c.DNS.Names {
			k := key{cluster, c.DNS.Names[i].Host}
			if names[k] != nil {
				continue
			}
			n := r.names[k]
			switch {
			case n == nil:
				n = newName(k, c.DNS, now)
				r.due.push(n)
				r.unasked[n] = true
			case n.dns.Logical != c.DNS.Logical || !sameLookup(&n.dns.Lookup, &c.DNS.Lookup):
				last := n.last // serves until it was asked for in the new way
				r.drop(n)
				n = newName(k, c.DNS, now)
				n.last = last
				r.due.push(n)
				r.unasked[n] = true
			case n.place >= 0 && n.at.After(now.Add(c.DNS.Refresh)):
				r.due.remove(n)
				n.at = now.Add(c.DNS.Refresh)
				r.due.push(n)
				n.dns = c.DNS
			default:
				n.dns = c.DNS
			}
			names[k] = n
			byOwner[cluster] = append(byOwner[cluster], n)
		}
	}
	for k, n := range r.names {
		if names[k] == nil {
			r.drop(n)
		}
	}
	r.names, r.byOwner = names, byOwner
	r.mu.Lock()
	for cluster := range r.stats {
		if c := cfg.Clusters[cluster]; c == nil || c.DNS == nil {
			delete(r.stats, cluster)
		}
	}
	for cluster, c := range cfg.Clusters {
		if c.DNS != nil && r.stats[cluster] == nil {
			r.stats[cluster] = &Stats{}
		}
	}
	r.mu.Unlock()
}

// drop ends all that is done for a name.
func (r *Resolver) drop(n *name) {
	n.gone = true
	r.due.remove(n)
	delete(r.unasked, n)
	if n.cancel != nil {
		n.cancel()
	}
}

// start begins a lookup. Run hears of its end, whatever it is.
func (r *Resolver) start(ctx context.Context, lookups *sync.WaitGroup, n *name) {
	inner, cancel := context.WithTimeoutCause(ctx, maxLookup, fmt.Errorf("no answer within %s", maxLookup))
	n.cancel = cancel
	r.running++
	r.count(n, func(s *Stats) { s.UpdateAttempt++ })
	lookup, host := n.dns.Lookup, n.key.host
	lookups.Go(func() {
		defer cancel()
		a, err := r.find(inner, &lookup, host)
		select {
		case r.results <- result{n, a, err}:
		case <-ctx.Done():
		}
	})
}

func (r *Resolver) count(n *name, add func(*Stats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.stats[n.key.cluster]; s != nil {
		add(s)
	}
}

// answered takes up what a lookup found.
func (r *Resolver) answered(res result, now time.Time) {
	n, err := res.name, res.err
	n.cancel = nil
	if n.gone {
		return
	}
	if err == nil {
		err = res.answer.lost(n.last)
	}
	empty := err == nil && len(res.answer.addrs) == 0
	failed := err != nil || empty && n.dns.Logical
	changed := false
	if failed {
		if err != nil && n.failures == 0 {
			r.log.Warn("cannot look up a name, what was found before stays", "cluster", n.key.cluster, "name", n.key.host, "err", err)
		}
		n.failures++
	} else {
		if n.failures > 0 {
			r.log.Info("name is found again", "cluster", n.key.cluster, "name", n.key.host)
		}
		n.failures = 0
		changed = n.learn(res.answer.addrs)
	}
	r.count(n, func(s *Stats) {
		switch {
		case failed:
			s.UpdateFailure++
		case changed:
			s.UpdateSuccess++
		default:
			s.UpdateSuccess++
			s.UpdateNoRebuild++
		}
		if empty {
			s.UpdateEmpty++
		}
	})
	if changed || !n.known {
		delete(r.fresh, n.key.cluster)
		r.dirty = true
	}
	n.known = true
	delete(r.unasked, n)
	n.at = now.Add(n.pause(failed, res.answer.ttl))
	r.due.push(n)
}
