// Package dns reads services from DNS: SRV names, and names with A and AAAA records, each asked for again when its TTL
// is over. It is what Envoy calls STRICT_DNS: every address of an answer is an endpoint.
//
// README.md tells what is read, how it becomes a registry.View and what happens on failures.
package dns

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

// workers bounds how many names are resolved at a time.
const workers = 64

// Registry reads the names of one Config. It keeps the last good answer of each for as long as it lives, so that a name
// which fails when Watch is called again keeps its endpoints.
type Registry struct {
	cfg  Config
	log  *slog.Logger
	want []*name // in the order of the configuration
	made *registry.Assembly
}

// New returns a Registry that reads the names of cfg. It opens no file and asks nothing; a nil log is silent. The error
// names the first mistake that Config.Check finds.
func New(cfg Config, log *slog.Logger) (*Registry, error) {
	var err error
	cfg.Check(func(path, got, want string) {
		if err == nil {
			err = fmt.Errorf("configure dns: %s: got %s, want %s", path, got, want)
		}
	})
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{cfg: cfg.withDefaults(), log: log, made: registry.NewAssembly()}
	for _, s := range r.cfg.Services {
		r.want = append(r.want, newName(s, r.cfg.Namespace))
	}
	return r, nil
}

// Watch implements registry.Registry. Only one may run at a time.
//
// The first view is published when each name was answered; or when each was asked for to the end and five seconds are
// over, with those that failed as Problems: a zone that is broken for good must not keep its neighbours away. Watch fails when nothing at all is answered for two seconds.
func (r *Registry) Watch(ctx context.Context, publish func(registry.View)) error {
	servers, err := newServers(r.cfg)
	if err != nil {
		return fmt.Errorf("watch dns: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	p := newPoller(r)
	p.start(ctx, group, &lookup{ask: newResolver(servers, r.cfg.Timeout)})
	group.Go(func() error { return p.run(ctx, publish) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("watch dns: %w", err)
	}
	return nil
}
