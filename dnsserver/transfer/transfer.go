// Package transfer has zones copied to other servers, its secondaries: whole (AXFR, RFC 5936), by what has changed (IXFR, RFC 1995),
// and tells them that there is something new (NOTIFY, RFC 1996).
//
// A zone that is signed while it is served is signed as a whole for its copies, with a chain of NSEC records: they are answered from
// by servers that have no keys. Signatures are kept from one copy to the next, and renewed long before they end, with a new serial.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
	"github.com/hostmesh/hostmesh/internal/watch"
)

// Options say what is copied to whom.
type Options struct {
	// Zones returns the zones that are served, and a channel that is closed when there are others. Neither their origins nor what
	// signs them change.
	Zones func() ([]*dnsserver.Zone, <-chan struct{})
	// Renumber asks for the same zones with a higher serial; it must not block. It is called when signatures are to be renewed.
	Renumber    func()
	Secondaries []Secondary
	Log         *slog.Logger
}

const (
	renewEvery = time.Minute
	// renewMost is how many names have their signatures renewed at once, so that after a change of keys, too, no copy of changes
	// is as large as the zone.
	renewMost = 5000
	// renewPause is how long few renewals wait for more.
	renewPause = time.Hour
	// keepUnasked is how long a zone is held ready that has no secondary and that nobody copies.
	keepUnasked = time.Hour
	// historyLeast is how much of changes is kept, in bytes, of a zone that is not larger than that.
	historyLeast = 1 << 20
)

// Primary has the copies of all zones. All methods are safe for concurrent use.
type Primary struct {
	opts        Options
	secondaries []*secondary

	mu    sync.Mutex
	zones map[dnsserver.Name]*copies // guarded by mu; none leaves
}

// copies are one zone's.
type copies struct {
	origin dnsserver.Name
	state  *watch.Value[state]
	wake   chan struct{} // holds one when somebody asks for the first copy
	asked  atomic.Int64  // Unix seconds; 0: nobody has

	followed atomic.Bool

	// What follows belongs to follow.
	lasting *dnssec.Signer // of the zone's signer, the one for its copies
	pending []string       // keys of owners whose signatures are renewed with the next serial
	renewed time.Time
}

// state is an image and how others become it. It is immutable.
type state struct {
	image  *image
	deltas []*delta // the oldest first
	bytes  int      // of the deltas
}

// New returns a primary that makes no copy before Run.
func New(o Options) *Primary {
	p := &Primary{opts: o, zones: map[dnsserver.Name]*copies{}}
	for _, s := range o.Secondaries {
		p.secondaries = append(p.secondaries, &secondary{Secondary: s, log: o.Log, zones: map[dnsserver.Name]*told{}, busy: make(chan struct{}, 1)})
	}
	return p
}

// Run makes copies and tells secondaries of them until ctx ends.
func (p *Primary) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for {
		zones, changed := p.opts.Zones()
		for _, zone := range zones {
			c := p.zone(zone.Origin())
			if c.followed.Swap(true) {
				continue
			}
			group.Go(func() error { return p.follow(ctx, c) })
			for _, s := range p.secondaries {
				group.Go(func() error { return s.run(ctx, c) })
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(group.Wait(), context.Cause(ctx))
		case <-changed:
		}
	}
}

func (p *Primary) zone(origin dnsserver.Name) *copies {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.zones[origin]
	if c == nil {
		c = &copies{origin: origin, state: new(watch.Value[state]), wake: make(chan struct{}, 1)}
		p.zones[origin] = c
	}
	return c
}

// follow makes an image of each zone of an origin, or of the latest when they come faster than they are made.
func (p *Primary) follow(ctx context.Context, c *copies) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		zones, changed := p.opts.Zones()
		at := slices.IndexFunc(zones, func(z *dnsserver.Zone) bool { return z.Origin() == c.origin })
		if at >= 0 && (len(p.secondaries) > 0 || c.asked.Load() != 0) {
			if err := c.update(ctx, zones[at], time.Now()); err != nil && ctx.Err() == nil {
				p.opts.Log.Error("zone cannot be copied", "zone", c.origin.String(), "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-c.wake:
		case <-tick.C:
			p.renew(c, time.Now())
		}
	}
}

// update makes the image of a zone, unless it is there.
func (c *copies) update(ctx context.Context, zone *dnsserver.Zone, now time.Time) error {
	before := c.state.Load()
	if before.image != nil && before.image.zone == zone {
		return nil
	}
	if signer := zone.Signer(); signer != nil && c.lasting == nil {
		c.lasting = signer.Lasting()
	}
	next, d, err := newImage(ctx, before.image, zone, c.lasting, c.pending, now)
	if err != nil {
		return err
	}
	if len(c.pending) > 0 {
		c.pending, c.renewed = nil, now
	}
	after := state{image: next}
	if before.image != nil {
		after.deltas, after.bytes = append(slices.Clone(before.deltas), d), before.bytes+d.bytes
		for len(after.deltas) > 0 && after.bytes > max(historyLeast, next.bytes/2) {
			after.bytes -= after.deltas[0].bytes
			after.deltas = after.deltas[1:]
		}
	}
	c.state.Set(after)
	return nil
}

// renew asks for another serial when signatures are to be renewed, and forgets copies that nobody wants.
func (p *Primary) renew(c *copies, now time.Time) {
	current := c.state.Load().image
	if current == nil {
		return
	}
	if len(p.secondaries) == 0 && now.Unix()-c.asked.Load() > int64(keepUnasked/time.Second) {
		c.asked.Store(0)
		c.state.Set(state{})
		return
	}
	if current.signer == nil {
		return
	}
	c.pending = current.due(now, renewMost)
	if current.ring != current.signer.Ring() || len(c.pending) == renewMost || len(c.pending) > 0 && now.Sub(c.renewed) >= renewPause {
		p.opts.Log.Info("signatures of a zone's copies are renewed", "zone", c.origin.String(), "names", len(c.pending))
		p.opts.Renumber()
	}
}

// Copy implements dnsserver.Copies.
func (p *Primary) Copy(ctx context.Context, zone *dnsserver.Zone, since *uint32) (dnsserver.Copy, error) {
	c := p.zone(zone.Origin())
	c.asked.Store(max(1, time.Now().Unix()))
	select {
	case c.wake <- struct{}{}:
	default:
	}
	for {
		current, changed := c.state.Get()
		if current.image != nil && !newer(zone.Serial(), current.image.zone.Serial()) {
			return current.copy(since), nil
		}
		select {
		case <-ctx.Done():
			if current.image != nil { // that of a while ago
				return current.copy(since), nil
			}
			return dnsserver.Copy{}, fmt.Errorf("make a copy of %s: %w", zone.Origin(), context.Cause(ctx))
		case <-changed:
		}
	}
}

// copy is the zone, or what has changed since a serial if that is known and less: RFC 1995 §2 and §4.
func (s state) copy(since *uint32) dnsserver.Copy {
	now := serial(s.image.soa)
	out := dnsserver.Copy{Serial: now, Records: s.image.whole()}
	if since == nil {
		return out
	}
	if !newer(now, *since) {
		out.Records = slices.Values([]dnsserver.Record{s.image.soa})
		return out
	}
	size := 0
	for i := len(s.deltas) - 1; i >= 0 && size <= s.image.bytes; i-- {
		if size += s.deltas[i].bytes; serial(s.deltas[i].from) == *since && size <= s.image.bytes {
			out.Records = changes(s.deltas[i:])
			break
		}
	}
	return out
}

// Copied implements dnsserver.Copies.
func (p *Primary) Copied(zone dnsserver.Name, serial uint32, client netip.Addr, key string) {
	p.opts.Log.Debug("zone copied", "zone", zone.String(), "serial", serial, "client", client, "key", key)
	for _, s := range p.secondaries {
		if s.Addr.Addr().Unmap() == client && (s.Key == nil || s.Key.Name() == key) {
			s.copied(zone, serial, time.Now())
		}
	}
}
