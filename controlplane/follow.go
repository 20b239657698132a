package controlplane

import (
	"context"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/registry"
)

// compiler turns each snapshot into what proxies and what DNS clients are told, each from its predecessor.
type compiler struct {
	options  compile.Options
	zones    []zoneBuilder // the mesh's own first
	snapshot *registry.Snapshot
	common   *compile.Common
}

// zoneBuilder makes a zone of each snapshot.
type zoneBuilder interface {
	Build(snapshot *registry.Snapshot) *dnsserver.Zone
}

// nextZones makes the zones of a snapshot, and nextCommon what proxies are told; both are called for each.
func (c *compiler) nextZones(snapshot *registry.Snapshot) []*dnsserver.Zone {
	zones := make([]*dnsserver.Zone, 0, len(c.zones))
	for _, builder := range c.zones {
		zones = append(zones, builder.Build(snapshot))
	}
	return zones
}

func (c *compiler) nextCommon(snapshot *registry.Snapshot) *compile.Common {
	c.common, c.snapshot = compile.Update(c.common, snapshot, c.options), snapshot
	return c.common
}

// follow publishes every snapshot of the catalog, or the latest when they come faster than they compile. It begins when
// the catalog is settled: until then a client would be told that what is not known yet does not exist.
func (s *Server) follow(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.catalog.Settled():
	}
	for {
		snapshot, changed := s.catalog.Current()
		if s.compiler.snapshot != snapshot {
			s.publish(snapshot)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// publish hands the zone over first: a name is answered no later than proxies know it.
func (s *Server) publish(snapshot *registry.Snapshot) {
	s.zones.Set(s.compiler.nextZones(snapshot))
	s.resources.Set(s.compiler.nextCommon(snapshot))
}
