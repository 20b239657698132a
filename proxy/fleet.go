package proxy

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/proxy/certificate"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/health"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// fleet is what the process finds out about the hosts of clusters that have health checks or outlier detection, once for all
// loops. The loops get it as a configuration in which such hosts are unhealthy: overlay makes that from what the
// control plane has said, and the binder hands it out like any other, so what a loop reads stays immutable.
type fleet struct {
	loops   int
	checker *health.Checker
	log     *slog.Logger
	changed chan struct{} // overlay would come to another result
	wake    chan struct{} // a detector has something to do, or another one is there, or something is waited for

	mu          sync.Mutex
	members     map[string]*member // guarded by mu; a member's pointers never change
	warmingTime time.Duration      // guarded by mu
}

// member is a cluster that is looked after.
type member struct {
	shared   *upstream.Shared
	detector *upstream.Detector // guarded by fleet.mu
	sweepAt  time.Time          // guarded by fleet.mu; zero without rules
	rules    *config.Outlier    // guarded by fleet.mu
	warming  warming            // guarded by fleet.mu

	from         *config.Cluster // as the control plane says
	made, madeOf *config.Cluster // as the loops have it, and the from at that time; nil: not yet
	warm         bool            // every host was checked once, or had the time for that
}

func newFleet(loops int, certs *certificate.Store, log *slog.Logger) *fleet {
	f := &fleet{loops: loops, log: log, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1), members: map[string]*member{}, warmingTime: warmingTime}
	f.checker = health.New(f.checked)
	f.checker.TLS = func(c *config.Cluster, e *config.Endpoint) (*tls.Config, any) {
		return certs.ClientVersion(c, e, checkUse(c.HealthCheck))
	}
	return f
}

// checkUse is what a check uses its connection for: where the cluster names no protocols, ALPN asks for what the check speaks.
func checkUse(c *config.HealthCheck) certificate.Use {
	switch {
	case c.GRPC != nil, c.HTTP != nil && c.HTTP.HTTP2:
		return certificate.ForHTTP2
	case c.HTTP != nil:
		return certificate.ForHTTP1
	}
	return certificate.ForBytes
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run checks and sweeps until ctx ends.
func (f *fleet) run(ctx context.Context) {
	var checks sync.WaitGroup
	checks.Go(func() { f.checker.Run(ctx) })
	defer checks.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next := f.sweep(time.Now()); !next.IsZero() {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-timer.C:
		}
	}
}

// sweep lets the detectors do what is due, ends what was waited for long enough, and returns when something is due again.
func (f *fleet) sweep(now time.Time) (next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		ended, at := m.warming.look(now)
		if ended {
			signal(f.changed)
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
		if m.rules == nil {
			continue
		}
		changed := m.detector.Look(now)
		if !now.Before(m.sweepAt) {
			changed = m.detector.Sweep(now) || changed
			m.sweepAt = now.Add(m.rules.Interval)
		}
		if changed {
			signal(f.changed)
		}
		if next.IsZero() || m.sweepAt.Before(next) {
			next = m.sweepAt
		}
	}
	return next
}

// checked is told of the end of a health check.
func (f *fleet) checked(cluster string, addr config.Address, passed, changed bool) {
	if passed {
		f.mu.Lock()
		if m := f.members[cluster]; m != nil && m.detector.Passed(addr) {
			changed = true
		}
		f.mu.Unlock()
	}
	if changed {
		signal(f.changed)
	}
}

// overlay returns cfg as the loops are to have it. before is what they have now. A cluster whose hosts are not all checked yet
// is cold: it is not in it, or as it was; and listeners that would lead to such a cluster stay as they were, with all that they
// lead to. held reports that.
func (f *fleet) overlay(cfg, before *config.Config) (next *config.Config, shared map[string]*upstream.Shared, held bool) {
	next = &config.Config{Version: cfg.Version, Listeners: cfg.Listeners, Clusters: cfg.Clusters}
	shared = map[string]*upstream.Shared{}
	made := map[string]*config.Cluster{}
	cold := map[string]bool{} // those that are not in it
	for name, c := range cfg.Clusters {
		if c.HealthCheck == nil && c.Outlier == nil {
			continue
		}
		m := f.follow(c)
		shared[name] = m.shared
		if !m.warm && !(c.Assigned && f.warmed(m)) {
			made[name] = before.Clusters[name] // may be nil
			if made[name] == nil {
				cold[name] = true
			}
			continue
		}
		m.warm = true
		made[name] = f.remake(m)
	}
	f.forget(shared)
	if len(made) == 0 {
		return cfg, shared, false
	}
	next.Clusters = replace(cfg.Clusters, made)
	if len(cold) > 0 {
		next.Listeners, held = holdBack(cfg.Listeners, before.Listeners, cold)
	}
	if held {
		kept := map[string]*config.Cluster{}
		for name, c := range before.Clusters {
			if next.Clusters[name] == nil && leadsTo(next.Listeners, name) {
				kept[name] = c
			}
		}
		next.Clusters = replace(next.Clusters, kept)
	}
	if next.Version == before.Version && maps.Equal(next.Clusters, before.Clusters) && slices.Equal(next.Listeners, before.Listeners) {
		next = before
	}
	return next, shared, held
}

// replace returns clusters with others in their places; nil takes one away.
func replace(all, others map[string]*config.Cluster) map[string]*config.Cluster {
	out := make(map[string]*config.Cluster, len(all)+len(others))
	maps.Copy(out, all)
	for name, c := range others {
		if out[name] = c; c == nil {
			delete(out, name)
		}
	}
	return out
}

// follow looks after a cluster from now on as c says.
func (f *fleet) follow(c *config.Cluster) *member {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[c.Name]
	if m == nil {
		var seed [32]byte
		_, _ = crand.Read(seed[:]) // never fails (its documentation)
		m = &member{shared: upstream.NewShared(f.loops, func() { signal(f.wake) })}
		m.detector = upstream.NewDetector(m.shared, rand.New(rand.NewChaCha8(seed)))
		f.members[c.Name] = m
	}
	if m.from == c {
		return m
	}
	if m.from != nil && m.from.HealthCheck == nil && c.HealthCheck != nil {
		m.warm, m.warming = false, warming{count: m.warming.count}
	}
	m.from = c
	if m.rules != c.Outlier {
		if m.rules = c.Outlier; m.rules != nil {
			m.sweepAt = time.Now().Add(m.rules.Interval)
			signal(f.wake)
		}
	}
	m.detector.Set(c.Outlier, c.Endpoints)
	f.checker.Set(c, m.shared.Used)
	return m
}

// forget ends what is done for clusters that are not among those.
func (f *fleet) forget(but map[string]*upstream.Shared) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name := range f.members {
		if but[name] == nil {
			f.members[name].detector.Set(nil, nil) // the loops may report for a while
			delete(f.members, name)
			f.checker.Forget(name)
		}
	}
}

// remake returns a cluster with its hosts' health as it is known; the one from before if that is the same.
func (f *fleet) remake(m *member) *config.Cluster {
	var list []*config.Endpoint
	same := true
	for _, h := range f.hosts(m.from) {
		if h.Flags&health.Pending != 0 && m.from.SkipUnchecked {
			same = false
			continue
		}
		e := h.Endpoint
		if now := healthOf(e.Health, h.Flags, h.ejected); now != e.Health {
			own := *e
			own.Health = now
			e, same = &own, false
		}
		same = same && h.Flags&health.Removed == 0
		list = append(list, e)
	}
	next := m.from
	if !same {
		own := *m.from
		own.Endpoints = list
		next = &own
	}
	equal := func(a, b *config.Endpoint) bool { return *a == *b }
	if m.made != nil && m.madeOf == m.from && slices.EqualFunc(m.made.Endpoints, next.Endpoints, equal) {
		return m.made
	}
	m.made, m.madeOf = next, m.from
	return next
}

// healthOf joins what the control plane says of an endpoint and what the proxy has found.
func healthOf(said config.Health, flags health.Flags, ejected bool) config.Health {
	switch {
	case said == config.Draining || said == config.Unhealthy:
		return said
	case ejected || flags&health.Failed != 0:
		return config.Unhealthy
	case flags&health.Degraded != 0:
		return config.Degraded
	}
	return said
}

// fleetHost is a host with all that is known of it.
type fleetHost struct {
	health.Host
	ejected         bool
	rate, localRate float64
}

// hosts returns the hosts of a cluster: those of c, or, if it is checked, what the checker has.
func (f *fleet) hosts(c *config.Cluster) []fleetHost {
	list, known := f.checker.Hosts(c.Name)
	if !known {
		for _, e := range c.Endpoints {
			list = append(list, health.Host{Endpoint: e})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.members[c.Name]
	out := make([]fleetHost, 0, len(list))
	for _, h := range list {
		one := fleetHost{Host: h, rate: -1, localRate: -1}
		if m != nil {
			one.ejected = m.detector.Ejected(h.Endpoint.Addr)
			one.rate, one.localRate = m.detector.Rates(h.Endpoint.Addr)
		}
		out = append(out, one)
	}
	return out
}

// leadsTo reports whether a route of a listener names the cluster.
func leadsTo(list []*config.Listener, cluster string) bool {
	return slices.ContainsFunc(list, func(l *config.Listener) bool { return l.LeadsTo(cluster) })
}
