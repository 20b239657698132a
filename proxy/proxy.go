// Package proxy is the data plane: it accepts connections on the configured listeners and passes requests and bytes on.
//
// A [Proxy] has one event loop per core (package loop). A connection, its request, the upstream connection it uses and
// everything they count live on one loop, without locks. What the loops read is an immutable config.Config; when a new one is
// published, Run prepares it once and hands it to each loop, and the next request sees it.
//
// A client's connection is a client (HTTP/1) or a session (HTTP/2), whose requests are exchanges. The way of a request is in
// exchange.serve (accept, route, cluster), connect (host, stream, retry) and requestContent; the way back is Head, Content and
// finish. Neither side of an exchange knows what the other one speaks: it stands between a responder and an upstream.Stream.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/certificate"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/overload"
	"github.com/hostmesh/hostmesh/proxy/resolve"
	"github.com/hostmesh/hostmesh/proxy/takeover"
	"github.com/hostmesh/hostmesh/proxy/upstream"
	"github.com/hostmesh/hostmesh/proxy/xds"
)

// Options is what a Proxy needs. Only Config must be set.
type Options struct {
	// Config is what to do; every value set is taken up while requests go on. nil values are waited out.
	Config *watch.Value[*config.Config]
	// Admin is the loopback address of the admin interface, by default 127.0.0.1:15000; "-" is none.
	Admin string
	// AdminSocket is the path of a unix socket that has the admin interface with what changes something; empty: none.
	AdminSocket string
	// Loops is the number of event loops; 0 is one for each core the process may use, at most 4.
	Loops int
	// DrainTime is how long connections may go on after Run's context ended; by default 10 s.
	DrainTime time.Duration
	// ListenerDrainTime is how long those of a listener or a filter chain may go on that left the configuration; by default
	// 10 min, as Envoy's --drain-time-s.
	ListenerDrainTime time.Duration
	// HandedOverTime is DrainTime for a process that has handed over to its successor: it then stands in nobody's way; by
	// default 15 min.
	HandedOverTime time.Duration
	// Sockets are listening sockets that others have opened; those whose address is configured are used, and owned. With
	// Start nothing is accepted before it is closed.
	Sockets []takeover.Socket
	Start   <-chan struct{}
	// Steered: the kernel steers connections to loopback addresses to that of Sockets which listens at loopback.Steered. Other
	// sockets are not opened for them.
	Steered bool
	// Overload says what is done when there is too much; nil: nothing.
	Overload *config.Overload
	// Upgrade has another process take over, and returns when it has; nil: it cannot be asked for.
	Upgrade func(context.Context) error
	// ConfigDump returns the configuration as the admin interface shows it, in JSON.
	ConfigDump func() ([]byte, error)
	// ControlPlane returns the figures of the connection to the control plane, by Envoy's names with a scope in front
	// ("cluster_manager.cds.update_success"), for the admin interface. It is called from any goroutine.
	ControlPlane func() []xds.Stat
	// Ready says whether the proxy has all it needs to serve, and if not what it waits for; nil: when it has a Config.
	Ready func() (bool, string)
	// Node and Version are shown by the admin interface.
	Node, Version string
	Log           *slog.Logger
	// AccessLog, when set, gets all access-log lines instead of the files that the configuration names.
	AccessLog io.Writer
}

// Proxy is the data plane. It is made by New and lives in Run.
type Proxy struct {
	opts    Options
	log     *slog.Logger
	workers []*worker
	binder  binder
	fleet   *fleet
	names   *resolve.Resolver
	certs   *certificate.Store
	admin   *admin
	started time.Time
	life    watch.Value[stage]
	legacy  legacy
	global  *limit // of client connections in all

	overload *overload.Monitor
}

// stage is how far the life of a proxy is.
type stage int

const (
	stageInitial stage = iota
	stageLive
	stageDraining
	stageDrained // loops are about to end
)

// New makes a proxy and binds its admin address. Nothing is served before Run.
func New(opts Options) (*Proxy, error) {
	if opts.Config == nil {
		return nil, errors.New("make proxy: no configuration")
	}
	if opts.Loops <= 0 {
		opts.Loops = min(4, runtime.GOMAXPROCS(0))
	}
	if opts.DrainTime <= 0 {
		opts.DrainTime = 10 * time.Second
	}
	if opts.ListenerDrainTime <= 0 {
		opts.ListenerDrainTime = 10 * time.Minute
	}
	if opts.HandedOverTime <= 0 {
		opts.HandedOverTime = 15 * time.Minute
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Overload == nil {
		opts.Overload = &config.Overload{}
	}
	p := &Proxy{opts: opts, log: opts.Log, started: time.Now(), names: resolve.New(opts.Config, opts.Log), certs: certificate.New(opts.Log)}
	p.opts.Config = p.names.Config() // with the addresses of what is given by name
	p.overload = overload.New(*opts.Overload, p.log)
	p.global = &limit{}
	p.global.most.Store(int64(min(opts.Overload.MaxConnections, 1<<62)))
	breakers := upstream.NewBreakers()
	handshakes := loop.NewHandshakes(runtime.GOMAXPROCS(0))
	for range opts.Loops {
		w, err := newWorker(opts.Loops, opts.ListenerDrainTime, breakers, p.certs)
		if err != nil {
			p.abandon()
			return nil, fmt.Errorf("make proxy: %w", err)
		}
		w.slot, w.global = len(p.workers), p.global
		w.loop.LimitHandshakes(handshakes)
		w.nextConn = uint64(len(p.workers))
		p.workers = append(p.workers, w)
	}
	for _, w := range p.workers {
		w.peers = p.workers
	}
	p.fleet = newFleet(opts.Loops, p.certs, p.log)
	p.binder.init(p)
	p.binder.sockets.init(opts.Sockets, p.log)
	if opts.Steered {
		p.binder.sockets.takeSteered()
	}
	p.legacy.init()
	admin, err := newAdmin(p)
	if err != nil {
		p.abandon()
		return nil, fmt.Errorf("make proxy: %w", err)
	}
	p.admin = admin
	return p, nil
}

// abandon closes the loops of a proxy that is not run.
func (p *Proxy) abandon() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, w := range p.workers {
		_ = w.loop.Run(ended)
	}
	p.binder.sockets.close()
}

// AdminAddr is the address of the admin interface, empty without one.
func (p *Proxy) AdminAddr() string { return p.admin.addr() }

// Run serves until ctx ends. Then readiness is withdrawn, the listeners are closed once their queues are empty, every
// connection ends with its present request, or its next one if that comes within a second, and Run returns when none is
// left or DrainTime has passed.
func (p *Proxy) Run(ctx context.Context) error {
	base, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, inner := errgroup.WithContext(base)
	for _, w := range p.workers {
		group.Go(func() error { return w.loop.Run(inner) })
	}
	group.Go(func() error { return p.admin.run(inner) })
	group.Go(func() error { p.fleet.run(inner); return nil })
	group.Go(func() error { p.names.Run(inner); return nil })
	group.Go(func() error { p.watchOverload(inner); return nil })
	group.Go(func() error { p.certs.Run(inner); return nil })
	group.Go(func() error {
		defer stop()
		serving, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(inner, cancel)()
		p.binder.run(serving, inner)
		close(p.legacy.unbound)
		p.drain(inner)
		p.end(inner)
		return nil
	})
	return group.Wait()
}

// drain lets the connections end.
func (p *Proxy) drain(ctx context.Context) {
	p.life.Set(stageDraining)
	limit := p.drainLimit()
	p.log.Info("draining", "connections", p.connections(ctx), "limit", limit)
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	hurry := p.legacy.hurry
	p.binder.sockets.remain = p.binder.sockets.keeper != nil // what is kept is for the next process
	p.binder.sockets.keeper = nil
	p.startDrain(ctx)
	p.binder.closeAll(ctx)
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for p.legacy.pass(ctx, p); p.connections(ctx) > 0; p.legacy.pass(ctx, p) {
		select {
		case <-ctx.Done():
			return
		case <-hurry:
			hurry = nil
			deadline.Reset(p.opts.DrainTime)
		case <-deadline.C:
			p.log.Warn("closing connections that did not end in time", "connections", p.connections(ctx))
			return
		case <-poll.C:
		}
	}
}

// startDrain has every connection end with its present or its next request.
func (p *Proxy) startDrain(ctx context.Context) {
	// Those that are idle get a last chance for a request, but not all of the time there is.
	idle := min(time.Second, p.opts.DrainTime/2)
	for _, w := range p.workers {
		_ = w.loop.Do(ctx, func() { w.startDrain(idle) })
	}
}

// end closes what is left and writes the last lines of the access logs.
func (p *Proxy) end(ctx context.Context) {
	p.life.Set(stageDrained)
	p.binder.sockets.close()
	for _, w := range p.workers {
		_ = w.loop.Do(ctx, w.shutdown)
	}
	p.binder.stopSinks()
}

// Responds reports whether every loop takes up a task before ctx ends.
func (p *Proxy) Responds(ctx context.Context) bool {
	for _, w := range p.workers {
		if w.loop.Do(ctx, func() {}) != nil {
			return false
		}
	}
	return true
}

// Bound are the addresses of listeners on IP that are bound, or with an error could not be.
func (p *Proxy) Bound() *watch.Value[map[netip.AddrPort]error] { return &p.binder.bound }

// connections counts the open downstream connections of all loops.
func (p *Proxy) connections(ctx context.Context) int {
	total := 0
	for _, w := range p.workers {
		n := 0
		if w.loop.Do(ctx, func() { n = w.connections() }) == nil {
			total += n
		}
	}
	return total
}
