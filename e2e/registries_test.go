package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestFaultFourRegistriesZooKeeperNamespaceDig feeds one mesh from four real servers, with a service that two of them
// know, and kills and restores each in turn under load.
func TestFaultFourRegistriesZooKeeperNamespaceDig(t *testing.T) {
	if testbed.InNamespace(t, "10.77.0.1", "10.77.0.2", "10.77.0.3") {
		return
	}
	s := startSite(t)
	shared, consulOnly, zkOnly := demoAt(t, "orders", "shared", "10.77.0.1"), demoAt(t, "orders", "consul", "10.77.0.2"), demoAt(t, "orders", "zk", "10.77.0.3")
	s.inConsul(t, "orders", "shared", shared, "team=shop")
	s.inConsul(t, "orders", "consul", consulOnly)
	s.inZooKeeper(t, "orders", "shared", shared, "team=sales")
	s.inZooKeeper(t, "orders", "zk", zkOnly)
	search, billing, audit := demoAt(t, "search", "v1", "10.77.0.1"), demoAt(t, "billing", "v1", "10.77.0.1"), demoAt(t, "audit", "v1", "10.77.0.1")
	stock := []netip.AddrPort{demoAt(t, "stock", "v1", "10.77.0.1"), demoAt(t, "stock", "v2", "10.77.0.2")}
	s.inConsul(t, "search", "s1", search)
	s.inEtcd(t, "billing", "b1", billing)
	s.inZooKeeper(t, "audit", "a1", audit)
	s.inKubernetes(t, "stock", stock...)

	p := newParts(t, s.registries(t))
	p.startPair(t)
	services := []string{"orders", "search", "billing", "audit", "stock"}
	for _, service := range services {
		eventually(t, 30*time.Second, service+" answers", func() error {
			_, err := fetch(p.outbound, service+".mesh.internal", "/")
			return err
		})
	}
	for service, want := range map[string][]netip.AddrPort{"orders": {shared, consulOnly, zkOnly}, "search": {search}, "billing": {billing}, "audit": {audit}, "stock": stock} {
		digs(t, p, service, want)
	}
	sources(t, p, map[netip.AddrPort][]string{shared: {"dc1", "legacy"}, consulOnly: {"dc1"}, zkOnly: {"legacy"}})
	curls(t, p, "orders", "orders shared", "orders consul", "orders zk")
	curls(t, p, "stock", "stock v1", "stock v2")
	table := p.mesh(t, "get", "endpoints", "default/orders")
	if !strings.Contains(table, "dc1,legacy") {
		t.Errorf("mesh get endpoints default/orders does not show both sources:\n%s", table)
	}
	t.Logf("mesh get endpoints default/orders\n%s", table)

	var traffic []*load
	for _, service := range services {
		traffic = append(traffic, startLoad(t, p.outbound, service+".mesh.internal", faultRate/len(services)))
	}
	for _, server := range []struct {
		name       string
		kill, back func()
		change     func(service string, at netip.AddrPort)
	}{
		{"dc1", s.consul.Kill, func() { s.consul.Start(); s.consul.AwaitLeader() }, func(service string, at netip.AddrPort) { s.inConsul(t, service, "x", at) }},
		{"core", s.etcd.Kill, func() { s.etcd.Start(); s.etcd.AwaitReady() }, func(service string, at netip.AddrPort) { s.inEtcd(t, service, "x", at) }},
		{"legacy", s.zk.Kill, func() { s.zk.Start(); s.zk.AwaitReady() }, func(service string, at netip.AddrPort) { s.inZooKeeper(t, service, "x", at) }},
		{"k8s", s.kube.Kill, func() { s.kube.Start(); s.kube.AwaitReady() }, func(service string, at netip.AddrPort) { s.inKubernetes(t, service, at) }},
	} {
		server.kill()
		eventually(t, 30*time.Second, server.name+" is known to be away", func() error {
			if out := p.mesh(t, "get", "registries"); !strings.Contains(out, server.name+" is stale") {
				return errors.New(out)
			}
			return nil
		})
		time.Sleep(outage(2*time.Second, time.Minute))
		server.back()
		service := "after-" + server.name
		server.change(service, demoAt(t, service, "v1", "10.77.0.1"))
		began := time.Now()
		eventually(t, 30*time.Second, "the first change after the recovery of "+server.name+" arrives", func() error {
			_, err := fetch(p.outbound, service+".mesh.internal", "/")
			return err
		})
		t.Logf("%s: back, the first change was reachable after %s", server.name, time.Since(began).Round(time.Millisecond))
	}
	for _, l := range traffic {
		l.finish()
	}
	conflict := regexp.MustCompile(`(?m)^default/orders\s+label team\s+dc1: shop\s+legacy: sales\s+1\s*$`)
	if out := p.mesh(t, "get", "conflicts"); !conflict.MatchString(out) {
		t.Errorf("mesh get conflicts does not show both sides of the label team:\n%s", out)
	}
}

// curls asks with curl, through the proxy, until each instance of a service has answered, by what it says.
func curls(t *testing.T, p parts, service string, want ...string) {
	t.Helper()
	const most = 200 // of 3 instances one stays unasked once in 10³⁵
	left := slices.Clone(want)
	for range most {
		out, err := runQuiet("curl", "-sS", "--fail", "--max-time", "5", "-H", "Host: "+service+".mesh.internal", "http://"+p.outbound+"/")
		out = strings.TrimSpace(out)
		if err != nil || !slices.Contains(want, out) {
			t.Fatalf("curl %s: got %q, %v, want one of %q", service, out, err, want)
		}
		if left = slices.DeleteFunc(left, func(w string) bool { return w == out }); len(left) == 0 {
			return
		}
	}
	t.Errorf("curl %s: %d requests, and %q never answered", service, most, left)
}

// digs asks dig for a service's SRV records, and for the addresses of their targets: they are the endpoints.
func digs(t *testing.T, p parts, service string, want []netip.AddrPort) {
	t.Helper()
	host, port, _ := strings.Cut(p.dns, ":")
	dig := func(args ...string) []string {
		out, err := runQuiet(append([]string{"dig", "@" + host, "-p", port, "+short"}, args...)...)
		if err != nil {
			t.Errorf("dig %v: %v", args, err)
		}
		return strings.Fields(out)
	}
	var got, wanted []string
	for srv := range slices.Chunk(dig("SRV", service+".default.mesh.internal"), 4) {
		if len(srv) != 4 {
			t.Fatalf("dig SRV %s: %v", service, srv)
		}
		for _, addr := range dig("A", srv[3]) {
			got = append(got, addr+":"+srv[2])
		}
	}
	for _, at := range want {
		wanted = append(wanted, at.String())
	}
	slices.Sort(got)
	slices.Sort(wanted)
	if !slices.Equal(got, wanted) {
		t.Errorf("dig SRV %s leads to %v, want %v", service, got, wanted)
	}
}

// sources checks which registries the endpoints of orders come from.
func sources(t *testing.T, p parts, want map[netip.AddrPort][]string) {
	t.Helper()
	eventually(t, 30*time.Second, "every endpoint of orders shows its sources", func() error {
		got, err := p.endpoints("orders")
		if err != nil {
			return err
		}
		for at, from := range want {
			if e, ok := got[at.String()]; !ok || !slices.Equal(e.Sources, from) {
				return fmt.Errorf("endpoint %s has the sources %v, want %v", at, e.Sources, from)
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("%d endpoints, want %d", len(got), len(want))
		}
		return nil
	})
}

// TestServiceMovesBetweenRegistriesByWeightsZooKeeper moves a service from ZooKeeper to Consul and back under load.
func TestServiceMovesBetweenRegistriesByWeightsZooKeeper(t *testing.T) {
	s := &site{consul: testbed.StartConsul(t, testbed.ConsulOptions{})[0], zk: testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]}
	registries := fmt.Sprintf("  - {name: dc1, consul: {address: %q}}\n  - {name: legacy, zookeeper: {servers: [%q]}}\n", s.consul.Address, s.zk.Address)
	for i := range 3 { // not as many here as there: shares are of registries, not of endpoints
		s.inZooKeeper(t, "orders", fmt.Sprint("zk", i), demoAt(t, "orders", "zk", "127.0.0.1"))
	}
	for i := range 2 {
		s.inConsul(t, "orders", fmt.Sprint("consul", i), demoAt(t, "orders", "consul", "127.0.0.1"))
	}
	p := newParts(t, registries)
	weigh := func(consul, zk int) {
		p.rewrite(t, registries, fmt.Sprintf("merge: {services: {default/orders: {weights: {dc1: %d, legacy: %d}}}}\n", consul, zk))
	}
	weigh(0, 100)
	control, _ := p.startPair(t)
	p.eventuallyAnswers(t, "orders.mesh.internal", "orders zk\n")
	traffic := startLoad(t, p.outbound, "orders.mesh.internal", faultRate)
	for _, share := range []int{10, 50, 100, 50, 10, 0} { // of Consul
		weigh(share, 100-share)
		reloaded := strings.Count(control.text(), "configuration reloaded")
		if err := control.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, 20*time.Second, "the reload", func() error {
			if strings.Count(control.text(), "configuration reloaded") == reloaded {
				return errors.New("not told yet")
			}
			return nil
		})
		time.Sleep(300 * time.Millisecond) // until the proxy has it, and what was under way has been answered
		consul, zk := traffic.answered("orders consul"), traffic.answered("orders zk")
		time.Sleep(outage(4*time.Second, 30*time.Second))
		consul, zk = traffic.answered("orders consul")-consul, traffic.answered("orders zk")-zk
		got := 100 * float64(consul) / float64(consul+zk)
		t.Logf("weights %d/%d: %d answers of Consul's, %d of ZooKeeper's instances: %.2f %%", share, 100-share, consul, zk, got)
		if got < float64(share)-2 || got > float64(share)+2 {
			t.Errorf("Consul's share is %.2f %%, want %d within 2", got, share)
		}
	}
	traffic.finish()
}

// TestCuratorRegistrationIsFoundZooKeeper registers with Apache Curator itself.
func TestCuratorRegistrationIsFoundZooKeeper(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	p := newParts(t, fmt.Sprintf("  - {name: legacy, zookeeper: {servers: [%q]}}\n", server.Address))
	p.startPair(t)
	at := demoAt(t, "orders", "v7", "127.0.0.1")
	var jars []string
	for _, jar := range []string{
		"curator-x-discovery", "curator-framework", "curator-client", "zookeeper", "zookeeper-jute", "jackson-databind", "jackson-core", "jackson-annotations",
		"guava", "slf4j-api", "slf4j-nop",
	} {
		jars = append(jars, "/usr/share/java/"+jar+".jar")
	}
	register := start(t, "curator", "java", "-cp", strings.Join(jars, ":"), "curator/Register.java", server.Address, "/services", "com.acme.Orders",
		at.Addr().String(), fmt.Sprint(at.Port()), "version=v7", "team=shop", "protocol=http")
	eventually(t, 60*time.Second, "the registration is found", func() error {
		found, err := p.endpoints("com-acme-orders")
		if err != nil {
			return fmt.Errorf("%w; Curator says %s", err, register.text())
		}
		e, ok := found[at.String()]
		if !ok || e.Labels["version"] != "v7" || e.Labels["team"] != "shop" {
			return fmt.Errorf("got %v, want the endpoint with its payload as labels", found)
		}
		return nil
	})
	p.eventuallyAnswers(t, "com-acme-orders.mesh.internal", "orders v7\n")
	register.kill() // and its ephemeral node with it
	eventually(t, 60*time.Second, "the endpoint leaves with its session", func() error {
		found, err := p.endpoints("com-acme-orders")
		if err == nil && len(found) > 0 {
			return fmt.Errorf("got %v", found)
		}
		return nil
	})
}
