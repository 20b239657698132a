package zookeeper_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/registrytest"
	"github.com/hostmesh/hostmesh/registry/zookeeper"
)

const (
	suiteSession = 3 * time.Second // of the adapter's sessions: the faults outlast them
	noHealth     = "to be there is no check, and no layout says more than that an instance is to get nothing new"
	otherRun     = "suffered in another run of this suite"
)

// minimalACL is what README.md gives: the registering side may do all, the mesh may read.
func minimalACL() []zk.ACL {
	return append(zk.DigestACL(zk.PermAll, "apps", "apps-password"), zk.DigestACL(zk.PermRead, "mesh", "mesh-password")...)
}

// withoutMesh is minimalACL with the mesh's permission taken away.
func withoutMesh() []zk.ACL { return zk.DigestACL(zk.PermAll, "apps", "apps-password") }

// TestSuite runs the suite of all adapters against one server, with the layout of Curator and all faults of a server
// and of the network.
func TestSuite(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	password := passwordFile(t, "mesh-password")
	h := harness(t, []string{server.Address}, curatorWriter{}, minimalACL(), func(t *testing.T, cfg *zookeeper.Config, d *driver) map[registrytest.Fault]registrytest.Injection {
		link := testbed.NewLink(t, server.Address)
		cfg.Servers = []string{link.Address}
		cfg.Username, cfg.PasswordFile = "mesh", password
		faults := networkFaults(link)
		faults[registrytest.ServerKilled] = registrytest.Injection{
			Begin: func(*testing.T) { server.Kill() }, End: func(*testing.T) { server.Start(); server.AwaitReady() },
		}
		faults[registrytest.ServerPaused] = registrytest.Injection{
			Begin: func(*testing.T) { server.Pause() }, End: func(*testing.T) { server.Continue(); server.AwaitReady() },
		}
		return faults
	})
	h.Down, h.Up = func(*testing.T) { server.Kill() }, func(*testing.T) { server.Start(); server.AwaitReady() }
	h.deniable = true
	h.run(t, map[registrytest.Case]string{
		registrytest.HealthChange: noHealth,
		registrytest.LeaderKilled: "one server has no leader; " + otherRun,
	})
}

// TestSuiteEnsemble loses the leader of three servers.
func TestSuiteEnsemble(t *testing.T) {
	servers := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{Mode: testbed.ZooKeeperEnsemble})
	var addresses []string
	for _, s := range servers {
		addresses = append(addresses, s.Address)
	}
	h := harness(t, addresses, curatorWriter{}, zk.WorldACL(zk.PermAll), func(t *testing.T, cfg *zookeeper.Config, d *driver) map[registrytest.Fault]registrytest.Injection {
		var leader *testbed.ZooKeeper
		return map[registrytest.Fault]registrytest.Injection{registrytest.LeaderKilled: {
			Begin: func(t *testing.T) {
				leader = leaderOf(t, servers)
				leader.Kill()
			},
			End: func(*testing.T) {
				if leader != nil { // Begin found one
					leader.Start()
					leader.AwaitReady()
				}
			},
			Writable:  true,
			Blameless: true, // the killed leader may have been another's server only
		}}
	})
	h.run(t, without("a cluster is killed in parts; ", registrytest.HealthChange, registrytest.DownAndUp, registrytest.PermissionLost,
		registrytest.ServerKilled, registrytest.ServerPaused, registrytest.Partition, registrytest.SlowAnswers,
		registrytest.Truncated, registrytest.Garbage, registrytest.HistoryLost, registrytest.Large))
}

// leaderOf waits for the servers to have one.
func leaderOf(t *testing.T, servers []*testbed.ZooKeeper) *testbed.ZooKeeper {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if i := slices.IndexFunc(servers, (*testbed.ZooKeeper).IsLeader); i >= 0 {
			return servers[i]
		}
	}
	t.Fatal("the ensemble has no leader")
	return nil
}

// TestSuiteTLS has the network fail under TLS, where damage is found by TLS itself.
func TestSuiteTLS(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{Mode: testbed.ZooKeeperTLS})[0]
	h := harness(t, []string{server.Address}, curatorWriter{}, zk.WorldACL(zk.PermAll), func(t *testing.T, cfg *zookeeper.Config, d *driver) map[registrytest.Fault]registrytest.Injection {
		link := testbed.NewLink(t, server.TLSAddress)
		cfg.Servers = []string{link.Address}
		cfg.CAFile, cfg.CertFile, cfg.KeyFile = server.Certs.CAFile, server.Certs.ClientCertFile, server.Certs.ClientKeyFile
		return networkFaults(link)
	})
	h.run(t, without("", registrytest.HealthChange, registrytest.DownAndUp, registrytest.PermissionLost,
		registrytest.ServerKilled, registrytest.LeaderKilled, registrytest.ServerPaused, registrytest.Large))
}

// TestSuiteLayouts runs the cases that a layout can make a difference to, and those of Curator's with an old server.
func TestSuiteLayouts(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	for _, w := range []writer{nerveWriter{}, nerveWriter{encoded: true}, serversetWriter{}, dubboWriter{}, curatorWriter{}} {
		name, address := fmt.Sprintf("%T%+v", w, w), server.Address
		if _, ok := w.(curatorWriter); ok {
			name, address = "old server", oldServer(t, server.Address)
		}
		t.Run(name, func(t *testing.T) {
			h := harness(t, []string{server.Address}, w, minimalACL(), func(t *testing.T, cfg *zookeeper.Config, d *driver) map[registrytest.Fault]registrytest.Injection {
				link := testbed.NewLink(t, address)
				cfg.Servers = []string{link.Address}
				cfg.Username, cfg.PasswordFile = "mesh", passwordFile(t, "mesh-password")
				return networkFaults(link)
			})
			h.deniable = true
			cannot := without("", registrytest.HealthChange, registrytest.DownAndUp, registrytest.ServerKilled, registrytest.LeaderKilled,
				registrytest.ServerPaused, registrytest.SlowAnswers, registrytest.HistoryLost, registrytest.Large)
			if address == server.Address { // the network's faults do not know of layouts
				for _, c := range []registrytest.Case{registrytest.Partition, registrytest.Truncated, registrytest.Garbage} {
					cannot[c] = otherRun
				}
			}
			if _, ok := w.(serversetWriter); ok {
				for _, c := range []registrytest.Case{registrytest.Labels, registrytest.Weight, registrytest.Protocol} {
					cannot[c] = "a ServerSet's member says nothing of that kind"
				}
			}
			h.run(t, cannot)
		})
	}
}

func without(why string, cases ...registrytest.Case) map[registrytest.Case]string {
	cannot := make(map[registrytest.Case]string)
	for _, c := range cases {
		cannot[c] = why + otherRun
	}
	cannot[registrytest.HealthChange] = noHealth
	return cannot
}

// networkFaults are what a link can do to the adapter, while others write around it.
func networkFaults(link *testbed.Link) map[registrytest.Fault]registrytest.Injection {
	heal := func(*testing.T) { link.Heal() }
	return map[registrytest.Fault]registrytest.Injection{
		registrytest.Partition:   {Begin: func(*testing.T) { link.Hold() }, End: heal, Writable: true},
		registrytest.SlowAnswers: {Begin: func(*testing.T) { link.Slow(2 * time.Second) }, End: heal, Writable: true, Blameless: true},
		registrytest.Truncated:   {Begin: func(*testing.T) { link.Truncate(700) }, End: heal, Writable: true},
		registrytest.Garbage:     {Begin: func(*testing.T) { link.Garble() }, End: heal, Writable: true},
		registrytest.HistoryLost: {Begin: func(*testing.T) {
			link.Hold()
			time.Sleep(suiteSession + time.Second) // the server, too, counts in ticks
		}, End: heal, Writable: true},
	}
}

// suiteHarness makes Harnesses over one root after the other.
type suiteHarness struct {
	addresses []string
	writer    writer
	acl       []zk.ACL
	prepare   func(*testing.T, *zookeeper.Config, *driver) map[registrytest.Fault]registrytest.Injection
	deniable  bool
	Down, Up  func(*testing.T)
}

func harness(t *testing.T, addresses []string, w writer, acl []zk.ACL,
	prepare func(*testing.T, *zookeeper.Config, *driver) map[registrytest.Fault]registrytest.Injection,
) *suiteHarness {
	return &suiteHarness{addresses: addresses, writer: w, acl: acl, prepare: prepare}
}

func (h *suiteHarness) run(t *testing.T, cannot map[registrytest.Case]string) {
	t.Helper()
	number := 0
	registrytest.Run(t, registrytest.Harness{
		New: func(t *testing.T) (registry.Registry, registrytest.Driver) {
			number++
			d := newDriver(t, h.addresses, fmt.Sprintf("/%s-%d", registry.Label(t.Name()), number), h.writer, h.acl)
			cfg := zookeeper.Config{Servers: h.addresses, Layout: h.writer.layout(), Root: d.root, SessionTimeout: suiteSession}
			faults := h.prepare(t, &cfg, d)
			r, err := zookeeper.New(cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			driver := registrytest.Driver{
				Put: d.put, Delete: d.delete, PutAll: d.putAll, Down: h.Down, Up: h.Up, Faults: faults,
			}
			if h.deniable {
				driver.Deny = func(t *testing.T) { d.setACL(t, withoutMesh()) }
				driver.Allow = func(t *testing.T) { d.setACL(t, h.acl) }
			}
			return r, driver
		},
		Settle: 20 * time.Second, Cannot: cannot, Parallel: 4,
	})
}

func passwordFile(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
