package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/controlplane/xds"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/registry"
)

const endpoints = 10

func serviceName(i int) registry.Name {
	return registry.Name{Namespace: registry.DefaultNamespace, Name: fmt.Sprintf("service-%04d", i)}
}

func content(services int) *registry.Snapshot {
	s := &registry.Snapshot{Number: 1}
	for i := range services {
		svc := &registry.Service{Name: serviceName(i), Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
		for j := range endpoints {
			svc.Endpoints = append(svc.Endpoints, &registry.Endpoint{
				ID:    fmt.Sprintf("%s-%d", svc.Name.Name, j),
				Addr:  netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)}),
				Ports: []registry.EndpointPort{{Number: 8080}}, Weight: 1, Health: registry.Healthy,
				Locality: registry.Locality{Region: "eu", Zone: string(rune('a' + j%3))},
			})
		}
		s.Services = append(s.Services, svc)
	}
	return s
}

// changed is s with one endpoint at another port.
func changed(s *registry.Snapshot) *registry.Snapshot {
	next := &registry.Snapshot{Number: s.Number + 1, Services: slices.Clone(s.Services)}
	i := int(s.Number*7919) % len(s.Services)
	svc := *s.Services[i]
	svc.Endpoints = slices.Clone(svc.Endpoints)
	e := *svc.Endpoints[0]
	e.Ports = []registry.EndpointPort{{Number: e.Ports[0].Number + 1}}
	svc.Endpoints[0] = &e
	next.Services[i] = &svc
	return next
}

// contents is a server under test.
type contents interface {
	// register makes it answer on g until ctx ends.
	register(ctx context.Context, g *grpc.Server, tasks *errgroup.Group)
	options() []grpc.ServerOption
	// set makes s known.
	set(ctx context.Context, s *registry.Snapshot) error
}

// serve answers xDS on a loopback port, which it prints, and each line that it reads with a change and the time of that.
func serve(o options, in io.Reader, out io.Writer) error {
	var c contents = &ours{source: new(watch.Value[*compile.Common])}
	if o.role == goControlPlane {
		c = &theirs{cache: cache.NewSnapshotCache(true, everybody{}, nil)}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	snapshot := content(o.services)
	if err := c.set(ctx, snapshot); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("serve xDS: %w", err)
	}
	g := grpc.NewServer(c.options()...)
	tasks, ctx := errgroup.WithContext(ctx)
	c.register(ctx, g, tasks)
	tasks.Go(func() error { return g.Serve(l) })
	fmt.Fprintln(out, l.Addr())
	for lines := bufio.NewScanner(in); lines.Scan(); {
		next := changed(snapshot)
		at := time.Now()
		if err := c.set(ctx, next); err != nil {
			return err
		}
		fmt.Fprintln(out, at.UnixNano())
		snapshot = next
	}
	g.Stop()
	cancel()
	return tasks.Wait()
}

// ours is Hostmesh. The compilation of a change is part of what is measured.
type ours struct{ source *watch.Value[*compile.Common] }

func (o *ours) options() []grpc.ServerOption { return xds.GRPCOptions() }

func (o *ours) register(ctx context.Context, g *grpc.Server, tasks *errgroup.Group) {
	s := xds.New(xds.Options{Source: o.source, Log: slog.Default()})
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	tasks.Go(func() error { return s.Run(ctx) })
}

func (o *ours) set(_ context.Context, s *registry.Snapshot) error {
	o.source.Set(compile.Update(o.source.Load(), s, compile.Options{}))
	return nil
}

// everybody makes all nodes share one snapshot, which is the least that this server can do.
type everybody struct{}

func (everybody) ID(*corev3.Node) string { return "all" }

// theirs is go-control-plane with the very resources that ours has.
type theirs struct {
	cache     cache.SnapshotCache
	common    *compile.Common
	resources *compile.Resources
	messages  map[*compile.Resource]types.Resource
}

func (p *theirs) options() []grpc.ServerOption { return nil }

func (p *theirs) register(ctx context.Context, g *grpc.Server, _ *errgroup.Group) {
	discovery.RegisterAggregatedDiscoveryServiceServer(g, server.NewServer(ctx, p.cache, nil))
}

func (p *theirs) set(ctx context.Context, s *registry.Snapshot) error {
	p.common = compile.Update(p.common, s, compile.Options{})
	p.resources = compile.ForClass(p.resources, p.common, compile.Node{All: true, Outbound: compile.DefaultOutbound()}.Class())
	before := p.messages
	p.messages = map[*compile.Resource]types.Resource{}
	byType := map[string][]types.Resource{}
	add := func(r *compile.Resource) error {
		m, known := before[r]
		if !known {
			decoded, err := r.Message()
			if err != nil {
				return err
			}
			m = decoded
		}
		p.messages[r] = m
		byType[r.TypeURL] = append(byType[r.TypeURL], m)
		return nil
	}
	for _, r := range subscribed(p.resources) {
		if err := add(r); err != nil {
			return fmt.Errorf("make snapshot: %w", err)
		}
	}
	snapshot, err := cache.NewSnapshot(fmt.Sprint(s.Number), byType)
	if err != nil {
		return fmt.Errorf("make snapshot: %w", err)
	}
	if err := p.cache.SetSnapshot(ctx, "all", snapshot); err != nil {
		return fmt.Errorf("set snapshot: %w", err)
	}
	return nil
}

// subscribed returns what a client of the benchmark gets.
func subscribed(r *compile.Resources) []*compile.Resource {
	var all []*compile.Resource
	for res := range r.Wildcard(compile.Cluster) {
		all = append(all, res, r.Get(compile.Endpoint, res.Name))
	}
	for res := range r.Wildcard(compile.Listener) {
		all = append(all, res)
	}
	return append(all, r.Get(compile.Route, "outbound"))
}
