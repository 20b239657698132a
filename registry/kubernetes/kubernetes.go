// Package kubernetes reads Services and their EndpointSlices from a Kubernetes API server.
//
// It keeps one watch for each kind of object, or for each kind and namespace, and of each object only what a view needs.
// README.md tells what is read and how it becomes a registry.View.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	probeInterval = time.Second      // between two questions whether we may still read
	probePatience = 10 * time.Second // without an answer to any
	nodesRetry    = 30 * time.Second // after a refusal that is only a Problem
)

// Registry is the adapter. It holds no state but its configuration.
type Registry struct {
	cfg Config
	log *slog.Logger
}

// New returns a Registry that reads the cluster of cfg. It opens no file and no connection; a nil log is silent. The
// error names the first mistake that Config.Check finds.
func New(cfg Config, log *slog.Logger) (*Registry, error) {
	var err error
	cfg.Check(func(path, got, want string) {
		if err == nil {
			err = fmt.Errorf("configure kubernetes: %s: got %s, want %s", path, got, want)
		}
	})
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Registry{cfg: cfg, log: log}, nil
}

// Watch implements registry.Registry.
func (r *Registry) Watch(ctx context.Context, publish func(registry.View)) error {
	ctx = logr.NewContext(ctx, logr.Discard()) // client-go would tell stderr what it tells us by errors
	client, err := connect(ctx, r.cfg, r.log)
	if err != nil {
		return fmt.Errorf("watch kubernetes: %w", err)
	}
	defer client.transport.close()
	if err := r.watch(ctx, client, publish); err != nil {
		return fmt.Errorf("watch kubernetes %s: %w", client.server, err)
	}
	return nil
}

// follower is a feed of whatever type.
type follower interface {
	name() string
	run(context.Context) error
	ask(context.Context) error
}

func (r *Registry) watch(ctx context.Context, c *client, publish func(registry.View)) error {
	group, ctx := errgroup.WithContext(ctx)
	s := newStore()
	namespaces := r.cfg.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	var followers []follower
	for _, namespace := range namespaces {
		followers = append(followers, r.services(c, s, namespace), r.slices(c, s, namespace))
	}
	switch r.cfg.Nodes {
	case NodesFalse:
	case NodesTrue:
		followers = append(followers, r.nodes(c, s))
	default:
		followers = append(followers, &optional{follower: r.nodes(c, s), store: s, log: r.log})
	}
	for _, f := range followers {
		s.waiting[f.name()] = struct{}{}
	}
	for _, f := range followers {
		group.Go(func() error { return f.run(ctx) })
	}
	group.Go(func() error { return probe(ctx, followers) })
	group.Go(func() error { return s.run(ctx, publish) })
	return group.Wait()
}

func (r *Registry) services(c *client, s *store, namespace string) follower {
	return &feed[*service]{
		client: c, rest: c.core, resource: "services", namespace: namespace, selector: r.cfg.LabelSelector,
		watchTime: watchTime, list: &core.ServiceList{}, convert: of(convertService), store: s, set: s.setService, drop: s.dropService,
	}
}

// slices follows all slices that belong to a Service, whatever labelSelector is: only the controller's own bear the
// Service's labels, and even those a moment later.
func (r *Registry) slices(c *client, s *store, namespace string) follower {
	return &feed[*slice]{
		client: c, rest: c.discovery, resource: "endpointslices", namespace: namespace, selector: discovery.LabelServiceName,
		watchTime: watchTime, list: &discovery.EndpointSliceList{}, convert: of(convertSlice), store: s, set: s.setSlice, drop: s.dropSlice,
	}
}

func (r *Registry) nodes(c *client, s *store) follower {
	return &feed[registry.Locality]{
		client: c, rest: c.core, resource: "nodes", partial: true,
		watchTime: watchTime, list: &meta.PartialObjectMetadataList{}, convert: of(convertNode), store: s, set: s.setNode, drop: s.dropNode,
	}
}

// optional is the feed of Nodes when a refusal is no failure. What was known stays.
type optional struct {
	follower
	store *store
	log   *slog.Logger
}

func (o *optional) run(ctx context.Context) error {
	for {
		err := o.follower.run(ctx)
		if !errors.Is(err, registry.ErrPermission) {
			return err
		}
		o.log.Debug("kubernetes refuses nodes", "error", err)
		reason := fmt.Sprintf("got a refusal, want list and watch, or nodes: false; regions are not known, zones are those of the slices: %.500v", err)
		o.store.update(func() { o.store.arrived(o.name(), reason) })
		if err := sleep(ctx, nodesRetry); err != nil {
			return err
		}
	}
}

// ask lets a refusal pass: the watch, if there is one, goes on with what is true.
func (o *optional) ask(ctx context.Context) error {
	if err := o.follower.ask(ctx); !errors.Is(err, registry.ErrPermission) {
		return err
	}
	return nil
}

// probe asks for one object after the other whether we may still read it. The API server judges a watch when it
// begins, and lets it run on for minutes when the permission is taken away. It costs one small answer a second,
// however many watches there are. A server that is overloaded or has lost its etcd gets some time.
func probe(ctx context.Context, followers []follower) error {
	answered := time.Now()
	for i := 0; ; i++ {
		if err := sleep(ctx, probeInterval); err != nil {
			return err
		}
		err := followers[i%len(followers)].ask(ctx)
		switch {
		case err == nil:
			answered = time.Now()
		case ctx.Err() != nil, errors.Is(err, registry.ErrPermission), time.Since(answered) > probePatience:
			return err
		}
	}
}

// sleep returns an error when ctx ends before d is over.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
