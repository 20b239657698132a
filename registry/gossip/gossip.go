// Package gossip is the registry that needs no other: the hosts themselves say what they run, over the ring of
// internal/gossip, and the ring sees within seconds when one of them dies.
package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	ring "github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/registry"
)

// Defaults of Config.
const (
	DefaultReap   = time.Hour
	DefaultSettle = 5 * time.Second
)

// DefaultBind is where a control node gossips unless told otherwise.
func DefaultBind() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 7947)
}

const (
	quiet  = 300 * time.Millisecond // without news, before the first view
	linger = 2 * time.Second        // a host that left in order is seen draining for so long
	review = 5 * time.Second        // what no event tells, such as seeds that cannot be joined
)

// Config is the block "gossip:" of a registry in control.yaml.
type Config struct {
	ring.Config `yaml:",inline"`
	// HostID is this control node's name in the ring; the host's name by default.
	HostID string `yaml:"hostID"`
	// Reap is how long the endpoints of a dead host stay, unhealthy, before they are removed. Default 1h.
	Reap time.Duration `yaml:"reap"`
	// Settle is how long a control node that starts alone waits for hosts before it says that there are none, and half
	// of how long it waits for announcements that are late. Default 5s.
	Settle time.Duration `yaml:"settle"`
}

// SetDefaults puts in what is not set.
func (c *Config) SetDefaults() {
	if !c.Bind.IsValid() {
		c.Bind = DefaultBind()
	}
	c.Reap = cmp.Or(c.Reap, DefaultReap)
	c.Settle = cmp.Or(c.Settle, DefaultSettle)
}

// Check reports the mistakes of the fields that are not the ring's.
func (c Config) Check(report func(path, got, want string)) {
	if c.Reap < 0 || c.Settle < 0 {
		report("", "a negative duration", "reap and settle of 0 or more")
	}
	if c.HostID != "" && !ring.ValidHostID(c.HostID) {
		report("hostID", strconv.Quote(c.HostID), "a DNS name")
	}
}

// New returns the registry of the hosts in the ring; what cfg does not set has its default. A nil log is silent. No
// address is bound before Watch.
func New(cfg Config, log *slog.Logger) registry.Registry {
	cfg.SetDefaults()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &hosts{cfg: cfg, log: log}
}

// hosts is the registry; each Watch of it is one life of the node.
type hosts struct {
	cfg Config
	log *slog.Logger
}

// Watch takes part in the ring until ctx ends. The first view is held back until the announcements of all live hosts
// were obtained: a control node that restarts must not forget, for a moment, what it does not know yet.
func (h *hosts) Watch(ctx context.Context, publish func(registry.View)) error {
	id := h.cfg.HostID
	if id == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name this control node: %w", err)
		}
		id = strings.TrimRight(name, ".")
	}
	node, err := ring.Listen(ring.Options{Config: h.cfg.Config, HostID: id, Role: ring.Control, Log: h.log})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- node.Run(ctx) }()
	err = h.follow(ctx, node, ended, publish)
	stop()
	return errors.Join(err, <-ended)
}

// follow publishes until ctx or the node ends. What it takes from ended it puts back.
func (h *hosts) follow(ctx context.Context, node *ring.Node, ended chan error, publish func(registry.View)) error {
	var (
		observer = newObserver(h.cfg.Reap)
		services = newCatalogue()
		gate     = gate{start: time.Now(), settle: h.cfg.Settle, seeds: len(h.cfg.Join) > 0}
		last     registry.View
		said     bool
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			ended <- nil
			return cmp.Or(err, errors.New("gossip ended"))
		case <-node.Changed():
		case <-timer.C:
		}
		now, all, status := time.Now(), node.Hosts(), node.Status()
		if !said {
			open, wait, err := gate.open(now, all, status)
			if err != nil {
				return err
			}
			if !open {
				timer.Reset(wait)
				continue
			}
		}
		judged := observer.judge(all, now)
		for _, id := range judged.forget {
			node.Forget(id)
		}
		view := services.update(judged.hosts)
		view.Hosts = hostsOf(judged.hosts)
		view.Problems = problems(all, judged, status)
		if !said || services.changed || !reflect.DeepEqual(view.Hosts, last.Hosts) || !reflect.DeepEqual(view.Problems, last.Problems) {
			publish(view)
			last, said = view, true
		}
		timer.Reset(min(review, max(judged.next.Sub(now), time.Millisecond)))
	}
}

// hostsOf makes the hosts of a view of those that are seen, which are sorted by id: each with the addresses that it announces.
func hostsOf(seen []judged) []registry.Host {
	all := make([]registry.Host, len(seen))
	for i, j := range seen {
		all[i] = registry.Host{ID: j.host.ID, Dead: j.dead}
		if j.host.Body == nil {
			continue
		}
		for _, addr := range j.host.Body.Addresses {
			all[i].Addrs = append(all[i].Addrs, addr.Unmap())
		}
		slices.SortFunc(all[i].Addrs, netip.Addr.Compare)
		all[i].Addrs = slices.Compact(all[i].Addrs)
	}
	return all
}

// problems tells what keeps the view from being the whole truth.
func problems(all []ring.Host, judged judgement, status ring.Status) []registry.Problem {
	var list []registry.Problem
	if judged.doubt != "" {
		list = append(list, registry.Problem{Object: "hosts", Kind: "unanswered", Reason: judged.doubt})
	}
	if status.Problem != "" {
		list = append(list, registry.Problem{Object: "seeds", Kind: "unanswered", Reason: status.Problem})
	}
	for _, h := range all {
		if !h.Current && h.Body == nil && h.State == ring.Alive {
			list = append(list, registry.Problem{Object: "host " + h.ID, Kind: "unanswered", Reason: "its announcement was not obtained yet, from " + h.Addr.String()})
		}
		if h.Rival.IsValid() {
			list = append(list, registry.Problem{
				Object: "host " + h.ID, Kind: "duplicate",
				Reason: fmt.Sprintf("two nodes claim this host id, %s and %s; the one that started later is believed", h.Addr, h.Rival),
			})
		}
	}
	return list
}

// gate holds the first view back until it is complete.
type gate struct {
	start  time.Time
	settle time.Duration
	seeds  bool

	known int       // hosts seen
	news  time.Time // when known grew
}

// open reports whether the first view may go out and, if not, when to ask again. The error means that this node is cut
// off from the ring that it is told to join: what it could say would be emptiness.
func (g *gate) open(now time.Time, all []ring.Host, status ring.Status) (bool, time.Duration, error) {
	if len(all) > g.known {
		g.known, g.news = len(all), now
	}
	complete := true
	for _, h := range all {
		if (h.State == ring.Alive || h.State == ring.Leaving) && !h.Current {
			complete = false
		}
	}
	waited := now.Sub(g.start)
	switch {
	case status.Members == 0 || g.known == 0:
		if waited < g.settle {
			return false, g.settle - waited, nil
		}
		if g.seeds && status.Members == 0 && status.Problem != "" {
			return false, 0, errors.New(status.Problem)
		}
		return true, 0, nil
	case now.Sub(g.news) < quiet:
		return false, quiet - now.Sub(g.news), nil
	case !complete && waited < 2*g.settle:
		return false, min(quiet, 2*g.settle-waited), nil
	}
	return true, 0, nil
}
