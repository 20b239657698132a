package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	// consulService is what Consul's servers register themselves as. It is in every catalog, so a catalog without it is
	// not all of it; and it is nobody's upstream, so it is read only by name.
	consulService = "consul"

	// heartbeat is how long the list of services is waited for. Its answer also tells that the server is alive, has
	// a leader and still lets us see everything, which no answer to the streamed queries does.
	heartbeat = 3 * time.Second

	// readsInTurn bounds how many services are read at a time before they are followed: first from the leader, then to
	// subscribe.
	readsInTurn = 32
)

// datacenter watches one datacenter.
type datacenter struct {
	name   string
	cfg    Config
	client *client
	board  *board
	group  *errgroup.Group
	log    *slog.Logger

	turns   chan struct{} // holds an element for each read in turn that is under way
	names   map[string]bool
	follows map[string]follow // by service; of run alone
	anon    atomic.Bool       // we have no token and the policy is deny
	probed  int               // counts the probes; of run alone
	wide    *wide             // nil while each service is followed by a query of its own
	listing *listing          // for second questions
	listAt  uint64            // index of the last list; of run alone
	size    int               // of the last list, with services that are not read; of run alone

	mu    sync.Mutex
	seen  map[string]uint64 // guarded by mu; by service: the index at which instances of it were last seen
	taken map[string]uint64 // guarded by mu; by service that is followed: the index of what was last taken
}

// follow is the life of the goroutine that follows one service.
type follow struct {
	ctx    context.Context
	cancel context.CancelFunc
}

func newDatacenter(name string, cfg Config, c *client, b *board, group *errgroup.Group, log *slog.Logger) *datacenter {
	d := &datacenter{
		name: name, cfg: cfg, client: c, board: b, group: group, log: log,
		turns: make(chan struct{}, readsInTurn), follows: make(map[string]follow),
		seen: make(map[string]uint64), taken: make(map[string]uint64),
	}
	d.listing = newListing(d.list)
	return d
}

// run follows the list of services and sees to it that each of them is followed.
func (d *datacenter) run(ctx context.Context) error {
	defer func() {
		for _, f := range d.follows {
			f.cancel()
		}
	}()
	d.group.Go(func() error { return d.listing.run(ctx) })
	var last uint64
	var pace limiter
	probedAt := time.Now()
	for {
		a, err := d.client.get(ctx, query{path: "/v1/catalog/services", datacenter: d.name, index: last, wait: min(heartbeat, d.cfg.WaitTime)})
		if err != nil {
			return err
		}
		if last == 0 || a.index > last || a.filtered {
			if err := d.accept(ctx, a); err != nil {
				return err
			}
		}
		// A catalog that is never quiet must not put the probe off.
		if last != 0 && (a.index == last || time.Since(probedAt) >= heartbeat) {
			if err := d.probe(ctx); err != nil {
				return err
			}
			probedAt = time.Now()
		}
		last = nextIndex(last, a.index)
		pace.perSecond = listRate(d.size)
		if err := pace.wait(ctx); err != nil {
			return err
		}
	}
}

// probe asks whether we still see everything where the list of services does not tell: without a token, as Consul hides
// the filtering then; and where only some services are named, as the list is rightly filtered then. In that case it
// reads one of them, another each time.
func (d *datacenter) probe(ctx context.Context) error {
	if d.anon.Load() {
		return d.verify(ctx, d.names)
	}
	if len(d.cfg.Services) == 0 {
		return nil
	}
	name := d.cfg.Services[d.probed%len(d.cfg.Services)]
	d.probed++
	return d.readNow(ctx, name)
}

// readNow takes over what the leader says of a service now.
func (d *datacenter) readNow(ctx context.Context, name string) error {
	since := d.takenAt(name)
	a, err := d.client.get(ctx, query{path: "/v1/health/service/" + name, datacenter: d.name})
	if err != nil {
		return err
	}
	_, err = d.take(ctx, name, a, since) // it is not taken where something newer was meanwhile
	return err
}

// nextIndex applies the rules of blocking queries: an index that goes backwards (a restored snapshot, a server that
// lags) starts again from a read of what the leader has. The answer that it came with is not taken: it may be older than
// what we have.
func nextIndex(last, got uint64) uint64 {
	if got < last {
		return 0
	}
	return got
}

// accept takes over a list of services.
func (d *datacenter) accept(ctx context.Context, a answer) error {
	names, err := d.listed(a)
	if err != nil {
		return err
	}
	missed := d.keepNewer(names, a.index)
	d.anon.Store(a.denyPolicy && d.client.transport.token == nil)
	if lost := missingFrom(names, d.names); lost || d.names == nil {
		if err := d.verify(ctx, names); err != nil {
			return err
		}
	}
	var odd []registry.Problem
	for name := range names {
		if registry.Label(name) == "" || !askable(name) {
			delete(names, name)
			odd = append(odd, registry.Problem{Object: name, Kind: "name", Reason: "no RFC 1123 label can be made of its name; it is left out"})
		}
	}
	slices.SortFunc(odd, func(x, y registry.Problem) int { return strings.Compare(x.Object, y.Object) })
	d.names = names
	if d.wide == nil && d.tooMany(len(names)) {
		if err := d.widen(ctx); err != nil {
			return err
		}
	}
	d.followAll(ctx, names, odd, missed)
	return nil
}

// keepNewer adds to a list the services of which instances were seen at a later index: they are back by then, and the
// next list has them. A server may lag behind the leader, whom second questions go to. It returns the index of the list
// before.
func (d *datacenter) keepNewer(names map[string]bool, index uint64) (before uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before = d.listAt
	if index < before {
		clear(d.seen) // the index went backwards: what was seen is of another history
	}
	d.listAt = index
	for name, at := range d.seen {
		switch {
		case names[name]:
		case at > index && d.names[name]:
			names[name] = true
		default:
			delete(d.seen, name)
		}
	}
	return before
}

// missingFrom tells whether names lacks one of before.
func missingFrom(names, before map[string]bool) bool {
	for name := range before {
		if !names[name] {
			return true
		}
	}
	return false
}

// listed decodes a list of services and refuses one that cannot be all of it.
func (d *datacenter) listed(a answer) (map[string]bool, error) {
	names, err := decodeNames(a.body)
	d.size = len(names)
	if err == nil && len(d.cfg.Services) > 0 {
		clear(names)
		for _, name := range d.cfg.Services {
			names[name] = true
		}
		return names, nil
	}
	if a.filtered {
		return nil, fmt.Errorf("list services: %w: the token may not read all services; give it service:read for all, or name those that it may read", registry.ErrPermission)
	}
	if err != nil {
		return nil, err
	}
	if !names[consulService] {
		if a.denyPolicy {
			return nil, fmt.Errorf("list services: %w: Consul's own service is not in the list; without a token the policy is deny", registry.ErrPermission)
		}
		return nil, fmt.Errorf("list services: Consul's own service is not in the list, so it is not the whole list")
	}
	delete(names, consulService)
	return names, nil
}

func decodeNames(body []byte) (map[string]bool, error) {
	var list map[string]json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("decode list of services: %w", err)
	}
	names := make(map[string]bool, len(list))
	for name := range list {
		names[name] = true
	}
	return names, nil
}

// verify asks whether we see everything where Consul would not tell by itself: without a token under a deny policy.
func (d *datacenter) verify(ctx context.Context, names map[string]bool) error {
	if !d.anon.Load() {
		return nil
	}
	wanted := []access{{Resource: "node", Access: "read"}}
	if len(d.cfg.Services) == 0 {
		wanted = append(wanted, access{Resource: "service", Access: "read"})
	} else {
		for name := range names {
			wanted = append(wanted, access{Resource: "service", Access: "read", Segment: name})
		}
	}
	return d.client.mayRead(ctx, d.name, wanted)
}

// followAll starts to follow services that are new, which were not there at the index missed, and leaves those that are
// gone.
func (d *datacenter) followAll(ctx context.Context, names map[string]bool, odd []registry.Problem, missed uint64) {
	for name, f := range d.follows {
		if !names[name] {
			f.cancel()
			delete(d.follows, name)
			d.leave(name)
		}
	}
	var added []string
	for name := range names {
		if _, ok := d.follows[name]; !ok {
			var f follow
			f.ctx, f.cancel = context.WithCancel(ctx)
			d.follows[name] = f
			d.expect(name, missed)
			added = append(added, name)
		}
	}
	alive := make(map[string]context.Context, len(d.follows))
	for name, f := range d.follows {
		alive[name] = f.ctx
	}
	d.board.list(d.name, alive, odd)
	if d.wide != nil {
		d.wide.listed(added)
		return
	}
	for _, name := range added {
		f := d.follows[name]
		d.group.Go(func() error {
			if err := d.follow(f.ctx, name); f.ctx.Err() == nil || ctx.Err() != nil {
				return err
			}
			return nil // the service is gone, or followed in another way
		})
	}
}

// follow keeps one blocking query for a service outstanding. Consul's agent subscribes to a service at its first blocking
// query. Ten thousand of them at once leave it no time for anything else for many seconds, so that one asks for what
// is known already: it is answered as soon as there is a subscription, and only a few are under way.
func (d *datacenter) follow(ctx context.Context, name string) error {
	var last uint64
	pace := limiter{perSecond: serviceRate}
	for asked := 0; ; asked++ {
		index := last
		if asked == 1 && last > 1 {
			index--
		}
		var since uint64
		if index == 0 {
			since = d.takenAt(name)
		}
		a, err := d.ask(ctx, name, index, index == 0 || index < last)
		if err != nil && !errors.Is(err, errReset) {
			return err
		}
		// After a reset, as after an index that is lower than the last or than what was taken since, the leader is asked.
		taken := true
		if err == nil && (last == 0 || a.index > last || a.filtered) {
			if taken, err = d.take(ctx, name, a, since); err != nil {
				return err
			}
		}
		if last = nextIndex(last, a.index); !taken {
			last = 0
		}
		// Subscribing waits until all services have been read once.
		select {
		case <-d.board.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := pace.wait(ctx); err != nil {
			return err
		}
	}
}

// ask asks for a service. What is answered at once takes its turn, and does not keep it when a server that lags behind
// the leader has to wait for what is asked for.
func (d *datacenter) ask(ctx context.Context, name string, index uint64, inTurn bool) (answer, error) {
	wait := d.cfg.WaitTime
	if inTurn {
		wait = min(wait, heartbeat)
		select {
		case d.turns <- struct{}{}:
			defer func() { <-d.turns }()
		case <-ctx.Done():
			return answer{}, context.Cause(ctx)
		}
	}
	return d.client.get(ctx, query{path: "/v1/health/service/" + name, datacenter: d.name, index: index, wait: wait})
}

func hidden(name string) error {
	return fmt.Errorf("read %q: %w: ACLs hide instances of it; the token needs service:read and node:read", name, registry.ErrPermission)
}

// confirm reads a service from the leader. When that too has no instance, the list of services must not have it
// either: one that is listed has instances, and then it is we who may not see them.
func (d *datacenter) confirm(ctx context.Context, name string, before *part) (*part, uint64, error) {
	const attempts = 3 // as the service may come back between the two questions
	for range attempts {
		a, err := d.client.get(ctx, query{path: "/v1/health/service/" + name, datacenter: d.name})
		if err != nil {
			return nil, 0, err
		}
		if a.filtered {
			return nil, 0, hidden(name)
		}
		p, err := d.cfg.parse(name, a.body, before)
		if err != nil {
			return nil, 0, err
		}
		if err := d.verify(ctx, map[string]bool{name: true}); err != nil || p.instances > 0 {
			return p, a.index, err
		}
		names, err := d.listing.get(ctx)
		if err != nil {
			return nil, 0, err
		}
		if !names[name] {
			return p, a.index, nil
		}
	}
	return nil, 0, fmt.Errorf("read %q: %w: it is listed, but none of its instances is shown", name, registry.ErrPermission)
}
