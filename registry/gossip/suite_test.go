package gossip

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	ring "github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

const noServer = "there is no server: the ring is the registry; "

func TestSuite(t *testing.T) {
	registrytest.Run(t, registrytest.Harness{
		New: func(t *testing.T) (registry.Registry, registrytest.Driver) {
			at := freePort(t)
			h := startHost(t, "h1", at, ring.Announcement{})
			for h.node.Status().Problem == "" { // its first try to join tells that it runs
				time.Sleep(10 * time.Millisecond)
			}
			var mu sync.Mutex
			all := map[registry.Name][]ring.Instance{}
			tell := func(t *testing.T) {
				var a ring.Announcement
				for _, instances := range all {
					a.Instances = append(a.Instances, instances...)
				}
				h.announce(t, a)
			}
			cfg := Config{Config: ring.Config{Bind: at}, HostID: "control"}
			return New(cfg, nil), registrytest.Driver{
				Put: func(t *testing.T, s *registry.Service) {
					mu.Lock()
					defer mu.Unlock()
					all[s.Name] = instances(s)
					tell(t)
				},
				PutAll: func(t *testing.T, services []*registry.Service) {
					mu.Lock()
					defer mu.Unlock()
					for _, s := range services {
						all[s.Name] = instances(s)
					}
					tell(t)
				},
				Delete: func(t *testing.T, name registry.Name) {
					mu.Lock()
					defer mu.Unlock()
					delete(all, name)
					tell(t)
				},
				SetHealth: func(t *testing.T, name registry.Name, addr netip.Addr, health registry.Health) {
					mu.Lock()
					defer mu.Unlock()
					for i := range all[name] {
						if all[name][i].Address == addr {
							all[name][i].Health = ring.Health(health.String())
						}
					}
					tell(t)
				},
			}
		},
		Settle:   20 * time.Second,
		Services: 300, // a host announces 4,096 instances at most
		Cannot: map[registrytest.Case]string{
			registrytest.DownAndUp:      noServer + "TestRestart ends this node and starts it again",
			registrytest.ServerKilled:   noServer + "TestRestart ends this node, TestHostsComeAndGo kills hosts",
			registrytest.LeaderKilled:   noServer + "TestTwoControlNodes ends one of two",
			registrytest.ServerPaused:   noServer + "TestDoubt has most hosts fall silent",
			registrytest.Partition:      noServer + "internal/gossip has TestPartition",
			registrytest.SlowAnswers:    noServer + "TestGate has announcements that come late or never",
			registrytest.Truncated:      "messages come whole or not at all; internal/gossip has TestHostileMessages",
			registrytest.Garbage:        "messages come whole or not at all; internal/gossip has TestHostileMessages",
			registrytest.HistoryLost:    "an announcement is always the whole one, there is no history to lose; internal/gossip's TestPartition has one that changed meanwhile",
			registrytest.Chaos:          noServer + "TestHostsComeAndGo kills hosts at random",
			registrytest.PermissionLost: "who has the key is in the ring, there is nothing in between; internal/gossip has TestEncryption",
		},
	})
}

func instances(s *registry.Service) []ring.Instance {
	var list []ring.Instance
	for _, e := range s.Endpoints {
		in := ring.Instance{
			Namespace: s.Name.Namespace, Service: s.Name.Name, ID: e.ID, Address: e.Addr, Labels: map[string]string{},
			Weight: e.Weight, Health: ring.Health(e.Health.String()),
		}
		for k, v := range e.Labels {
			in.Labels[k] = v
		}
		for _, p := range e.Ports {
			in.Ports = append(in.Ports, ring.Port{Name: p.Name, Number: 80, Target: p.Number, Protocol: string(s.Ports[0].Protocol)})
		}
		list = append(list, in)
	}
	return list
}
