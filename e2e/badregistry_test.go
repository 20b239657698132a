package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// statuses returns how the registries stand, by name.
func (p parts) statuses() (map[string]registry.SourceStatus, error) {
	var all controlplane.Registries
	err := fetchJSON(p.api, "/api/v1/registries", &all)
	by := map[string]registry.SourceStatus{}
	for _, r := range all.Registries {
		by[r.Name] = r
	}
	return by, err
}

// TestWrongRegistriesAreToldAndTheOthersServedZooKeeper gives mesh control one registry that is right and many that are
// wrong, each in its own way.
func TestWrongRegistriesAreToldAndTheOthersServedZooKeeper(t *testing.T) {
	secured := testbed.StartEtcd(t, testbed.EtcdOptions{Auth: true})[0]
	tls := testbed.StartEtcd(t, testbed.EtcdOptions{Mode: testbed.EtcdTLS})[0]
	acl := testbed.StartConsul(t, testbed.ConsulOptions{Mode: testbed.ConsulACL})[0]
	zookeeper := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	s := &site{zk: zookeeper}
	s.inZooKeeper(t, "orders", "o1", demoAt(t, "orders", "v1", "127.0.0.1"))
	dir := shortDir(t)
	for name, text := range map[string]string{"password": "wrong-password", "token": "22222222-2222-2222-2222-222222222222"} {
		writeFile(t, filepath.Join(dir, name), text)
	}
	p := newParts(t, fmt.Sprintf(`  - {name: right, zookeeper: {servers: [%[1]q]}}
  - {name: address, zookeeper: {servers: ["127.0.0.1:%[2]d"]}}
  - {name: layout, zookeeper: {servers: [%[1]q], layout: serverset, root: /services}}
  - {name: password, etcd: {endpoints: [%[3]q], username: root, passwordFile: %[4]s/password}}
  - {name: certificate, etcd: {endpoints: [%[5]q], caFile: %[6]q}}
  - {name: missing, consul: {address: %[7]q, tokenFile: %[4]s/absent}}
  - {name: token, consul: {address: %[7]q, tokenFile: %[4]s/token}}
  - {name: kubeconfig, kubernetes: {kubeconfig: %[4]s/absent}}
`, zookeeper.Address, testbed.FreePort(t), secured.Address, dir, tls.Address, acl.Certs.CAFile+"/etc/ssl/certs/ca-certificates.crt", acl.Address))
	p.startControl(t)
	p.startProxy(t)
	p.eventuallyAnswers(t, "orders.mesh.internal", "orders v1\n") // meanwhile
	want := map[string]struct{ place, says string }{
		"address":     {"registries[1].zookeeper: ", "connect"},
		"layout":      {"registries[2].zookeeper: ", "curator"},
		"password":    {"registries[3].etcd: ", "password"},
		"certificate": {"registries[4].etcd: ", "caFile"},
		"missing":     {"registries[5].consul: ", "absent"},
		"token":       {"registries[6].consul: ", "token"},
		"kubeconfig":  {"registries[7].kubernetes: ", "absent"},
	}
	for name, w := range want {
		eventually(t, 30*time.Second, name+" is told", func() error {
			all, err := p.statuses()
			if err == nil && (!strings.HasPrefix(all[name].Error, w.place) || !strings.Contains(all[name].Error, w.says)) {
				return fmt.Errorf("got %q, want %q with %q", all[name].Error, w.place, w.says)
			}
			return err
		})
		all, _ := p.statuses()
		t.Logf("%s: %s: %s", name, all[name].State, all[name].Error)
	}
	if all, err := p.statuses(); err != nil || all["right"].State != registry.Synced {
		t.Errorf("the registry that is right is %+v, %v", all["right"], err)
	}
	if strings.Contains(p.mesh(t, "get", "registries"), "wrong-password") {
		t.Error("a password is shown")
	}
}

// TestMalformedEntriesHideNobodyZooKeeper puts nonsense beside good entries into three real servers.
func TestMalformedEntriesHideNobodyZooKeeper(t *testing.T) {
	s := &site{
		consul: testbed.StartConsul(t, testbed.ConsulOptions{})[0],
		etcd:   testbed.StartEtcd(t, testbed.EtcdOptions{})[0],
		zk:     testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0],
	}
	at := demoAt(t, "any", "v1", "127.0.0.1")
	s.inConsul(t, "search", "good", at)
	s.inEtcd(t, "billing", "good", at)
	s.inZooKeeper(t, "audit", "good", at)
	if _, err := s.consul.Client().Catalog().Register(&api.CatalogRegistration{
		Node: "odd", Address: "not-an-address", Service: &api.AgentService{ID: "bad", Service: "search", Port: 80},
	}, nil); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"billing/bad": "{", "billing/worse": `{"address": "0.0.0.0", "port": 1}`, "other/port": `{"address": "10.0.0.1", "port": 99999}`} {
		if _, err := s.etcd.Client().Put(context.Background(), "/hostmesh/services/default/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range []string{"/services/audit/bad", "/services/audit/worse"} {
		if _, err := s.zk.Client().Create(node, []byte("\x00\xff"), 0, zk.WorldACL(zk.PermAll)); err != nil {
			t.Fatal(err)
		}
	}
	p := newParts(t, fmt.Sprintf("  - {name: dc1, consul: {address: %q}}\n  - {name: core, etcd: {endpoints: [%q]}}\n  - {name: legacy, zookeeper: {servers: [%q]}}\n",
		s.consul.Address, s.etcd.Address, s.zk.Address))
	p.startPair(t)
	for _, service := range []string{"search", "billing", "audit"} {
		p.eventuallyAnswers(t, service+".mesh.internal", "any v1\n")
	}
	all, err := p.statuses()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"dc1": 1, "core": 3, "legacy": 2} {
		r := all[name]
		counted := 0
		for _, n := range r.ProblemKinds {
			counted += n
		}
		if len(r.Problems) != want || counted != want || r.State != registry.Synced {
			t.Errorf("%s: %s with problems %v, counted %v: want %d", name, r.State, r.Problems, r.ProblemKinds, want)
		}
		t.Logf("%s: %v, %v", name, r.Problems, r.ProblemKinds)
	}
	out := p.mesh(t, "get", "registries", "-o", "json")
	for _, object := range []string{"billing/worse", "/services/audit/bad", "not-an-address"} {
		if !strings.Contains(out, object) {
			t.Errorf("mesh get registries -o json does not name %s", object)
		}
	}
	metrics, err := fetch(p.api, "", "/metrics")
	if err != nil || !strings.Contains(metrics, `hostmesh_registry_problems{kind="`) {
		t.Errorf("no problems by kind in the metrics: %v", err)
	}
}
