// Package host is what this host runs: it reads services.d, checks what the files say runs here, and announces it to the
// ring of internal/gossip.
package host

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/internal/hostfile"
	"github.com/hostmesh/hostmesh/internal/watch"
)

const (
	firstChecks = time.Second            // how long the first announcement waits for the first results
	announceGap = 100 * time.Millisecond // between announcements; the first after quiet goes out at once
	statusEvery = 5 * time.Second        // what changes in the ring without an event here
)

// Options says what a Host is told about itself.
type Options struct {
	Dir    string        // services.d; "" announces no service
	Gossip gossip.Config // how to take part in the ring; what is not set has its default
	HostID string        // a DNS name, unique in the ring and the same after a restart
	// Addresses are this host's own; the first is where instances are that name none. Without any it is the address
	// that gossip advertises.
	Addresses []netip.Addr
	Locality  gossip.Locality
	Log       *slog.Logger
}

// Host watches and announces what runs here. Its methods are safe for concurrent use.
type Host struct {
	o      Options
	node   *gossip.Node
	dir    *directory
	status watch.Value[Status]
}

// Status is what an operator sees of a Host.
type Status struct {
	HostID   string          `json:"hostID"`
	Gossip   gossip.Status   `json:"gossip"`
	Services []ServiceStatus `json:"services"` // sorted by namespace, service, ID
	Problems []string        `json:"problems"` // files that cannot be used as they are
}

// ServiceStatus is one instance on this host.
type ServiceStatus struct {
	Namespace string         `json:"namespace"`
	Service   string         `json:"service"`
	ID        string         `json:"id"`
	Address   netip.AddrPort `json:"address"` // of its first port
	Health    gossip.Health  `json:"health"`
	Since     time.Time      `json:"since,omitzero"` // of the health; zero without a check
	Check     string         `json:"check,omitempty"`
}

// New binds the addresses of gossip. A Host that is not run must be closed.
func New(o Options) (*Host, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Gossip.SetDefaults()
	node, err := gossip.Listen(gossip.Options{Config: o.Gossip, HostID: o.HostID, Role: gossip.Proxy, Log: o.Log})
	if err != nil {
		return nil, fmt.Errorf("announce host %s: %w", o.HostID, err)
	}
	if len(o.Addresses) == 0 {
		o.Addresses = []netip.Addr{node.Addr().Addr()}
	}
	h := &Host{o: o, node: node, dir: newDirectory(o.Dir, o.Log)}
	h.status.Set(Status{HostID: o.HostID, Gossip: node.Status()})
	return h, nil
}

// Close gives the addresses back, for a Host that is not run.
func (h *Host) Close() error { return h.node.Close() }

// Status returns what runs here and how it is. It is not changed later.
func (h *Host) Status() Status {
	s := h.status.Load()
	s.Gossip = h.node.Status()
	return s
}

// Abandon makes Run return without leaving the ring, for the process that takes this host over.
func (h *Host) Abandon() { h.node.Abandon() }

// Run watches, checks and announces until ctx ends. It joins the ring when the first checks have answered, or after a
// second, so that a restart does not announce as sick what just was not looked at. When ctx ends it tells the ring that
// this host leaves, which takes about a second at most; what runs here is drained by then.
func (h *Host) Run(ctx context.Context) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	g, work := errgroup.WithContext(work)
	loaded := make(chan loaded)
	g.Go(func() error { h.dir.run(work, loaded); return nil })
	ready := make(chan struct{})
	g.Go(func() error { return h.follow(work, loaded, ready) })
	g.Go(func() error {
		defer stop()
		select {
		case <-ready:
		case <-work.Done():
			return h.node.Close()
		}
		return h.node.Run(work)
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("announce host %s: %w", h.o.HostID, err)
	}
	return nil
}

// follow keeps the announcement up to date with files and checks. It closes ready after the first.
func (h *Host) follow(ctx context.Context, files <-chan loaded, ready chan struct{}) error {
	checks := newChecks(ctx, h.o.Log)
	defer checks.stop()
	var (
		now     loaded
		began   time.Time // of the waiting for first results; zero before the first files
		last    time.Time // of the last announcement
		waiting = true
		changed bool
	)
	timer := time.NewTimer(statusEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now = <-files:
			checks.set(now.entries)
			changed = true
			if began.IsZero() {
				began = time.Now()
			}
		case r := <-checks.results:
			changed = checks.take(r) || changed
			if !changed {
				continue
			}
		case <-timer.C:
		}
		at := time.Now()
		if began.IsZero() {
			timer.Reset(statusEvery)
			continue
		}
		if waiting {
			if left := firstChecks - at.Sub(began); left > 0 && !checks.allKnown() {
				timer.Reset(left)
				continue
			}
		}
		if gap := announceGap - at.Sub(last); gap > 0 {
			timer.Reset(gap)
			continue
		}
		problems := slices.Clone(now.problems)
		if err := h.announce(now.entries, checks); err != nil {
			problems = append(problems, err.Error())
		}
		h.publish(now.entries, checks, problems)
		last, changed = at, false
		if waiting {
			waiting = false
			close(ready)
		}
		timer.Reset(statusEvery)
	}
}

func (h *Host) announce(entries []entry, checks *checks) error {
	a := gossip.Announcement{Addresses: h.o.Addresses, Locality: h.o.Locality, Instances: make([]gossip.Instance, 0, len(entries))}
	for _, e := range entries {
		in := gossip.Instance{
			Namespace: e.service.Namespace, Service: e.service.Service, ID: e.key.id, Address: h.address(e.service),
			Labels: e.service.Labels, Weight: e.service.Weight, Health: checks.health(e.key).health,
		}
		for _, p := range e.service.Ports {
			in.Ports = append(in.Ports, gossip.Port{Name: p.Name, Number: p.Port, Target: p.TargetPort, Protocol: p.Protocol})
		}
		a.Instances = append(a.Instances, in)
	}
	return h.node.Announce(a)
}

func (h *Host) address(s *hostfile.Service) netip.Addr {
	if s.Address.IsValid() {
		return s.Address
	}
	return h.o.Addresses[0]
}

func (h *Host) publish(entries []entry, checks *checks, problems []string) {
	s := Status{HostID: h.o.HostID, Services: make([]ServiceStatus, 0, len(entries)), Problems: problems}
	for _, e := range entries {
		state := checks.health(e.key)
		s.Services = append(s.Services, ServiceStatus{
			Namespace: e.service.Namespace, Service: e.service.Service, ID: e.key.id,
			Address: netip.AddrPortFrom(h.address(e.service), e.service.Ports[0].TargetPort),
			Health:  state.health, Since: state.since, Check: state.detail,
		})
	}
	h.status.Set(s)
}

// key names an instance on this host.
type key struct{ namespace, service, id string }

// entry is one service of a file.
type entry struct {
	key     key
	service *hostfile.Service
}

// instanceID is what tells instances of a service on one host apart, and stays over restarts: where it listens.
func instanceID(s *hostfile.Service) string {
	port := strconv.Itoa(int(s.Ports[0].TargetPort))
	if !s.Address.IsValid() {
		return port
	}
	return netip.AddrPortFrom(s.Address, s.Ports[0].TargetPort).String()
}

// entriesOf returns the services of the files in order of their keys. What two files say of one instance is taken from
// the first by name.
func entriesOf(files map[string][]hostfile.Service) (entries []entry, problems []string) {
	from := map[key]string{}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		for i := range files[file] {
			s := &files[file][i]
			k := key{s.Namespace, s.Service, instanceID(s)}
			if first, ok := from[k]; ok {
				problems = append(problems, fmt.Sprintf("%s:%d: service: got %s/%s at %s a second time, want it once (first in %s)", file, s.Line, k.namespace, k.service, k.id, first))
				continue
			}
			from[k] = file
			entries = append(entries, entry{key: k, service: s})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.key.namespace, b.key.namespace), cmp.Compare(a.key.service, b.key.service), cmp.Compare(a.key.id, b.key.id))
	})
	return entries, problems
}
