package kubernetes_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

// TestSuite runs the suite of all adapters with exactly the role that README.md gives.
func TestSuite(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	a := newAdmin(t, server.Config())
	binding := bindRole(t, a, readmeRole(t), "reader-1")
	link := testbed.NewLink(t, strings.TrimPrefix(server.Address, "https://"))
	kubeconfig := server.Kubeconfig(t, "https://"+link.Address, server.Token(t, "reader-1"))
	registrytest.Run(t, registrytest.Harness{
		Prefix:   netip.MustParsePrefix("10.77.0.0/16"),
		Settle:   10 * time.Second,
		Parallel: 8,
		Cannot: map[registrytest.Case]string{
			registrytest.Weight:       "an EndpointSlice has no weights",
			registrytest.LeaderKilled: "API servers have no leader; one is enough for the others to be of no account",
		},
		New: func(t *testing.T) (registry.Registry, registrytest.Driver) {
			r, err := kubernetes.New(kubernetes.Config{Kubeconfig: kubeconfig}, nil)
			if err != nil {
				t.Fatal(err)
			}
			d := &driver{admin: a, services: make(map[registry.Name]*registry.Service)}
			t.Cleanup(func() { d.clear(t) })
			start := func(*testing.T) { server.Start(); server.AwaitReady() }
			heal := func(*testing.T) { link.Heal() }
			return r, registrytest.Driver{
				Put: d.put, PutAll: d.putAll, Delete: d.delete, SetHealth: d.setHealth,
				Down:  func(*testing.T) { server.Kill() },
				Up:    start,
				Deny:  func(t *testing.T) { a.remove(t, binding) },
				Allow: func(t *testing.T) { a.mustPut(t, binding) },
				Faults: map[registrytest.Fault]registrytest.Injection{
					registrytest.ServerKilled: {Begin: func(*testing.T) { server.Kill() }, End: start},
					registrytest.ServerPaused: {
						Begin: func(*testing.T) { server.Pause() },
						End:   func(*testing.T) { server.Continue(); server.AwaitReady() },
					},
					registrytest.Partition:   {Begin: func(*testing.T) { link.Hold() }, End: heal, Writable: true},
					registrytest.SlowAnswers: {Begin: func(*testing.T) { link.Slow(3 * time.Second) }, End: heal, Writable: true, Blameless: true},
					registrytest.Truncated:   {Begin: func(*testing.T) { link.Truncate(100) }, End: heal, Writable: true},
					registrytest.Garbage:     {Begin: func(*testing.T) { link.Garble() }, End: heal, Writable: true},
					registrytest.HistoryLost: {Begin: func(t *testing.T) { server.LoseHistory(t) }, End: func(*testing.T) {}, Writable: true},
				},
			}
		},
	})
}

// readmeRole is the ClusterRole of README.md.
func readmeRole(t *testing.T) *rbac.ClusterRole {
	t.Helper()
	role := new(rbac.ClusterRole)
	if err := yaml.UnmarshalStrict([]byte(block(t, "yaml role")), role); err != nil {
		t.Fatal(err)
	}
	return role
}

// bindRole gives a user a role, until the test ends, and returns the binding.
func bindRole(t *testing.T, a admin, role *rbac.ClusterRole, user string) *rbac.ClusterRoleBinding {
	t.Helper()
	binding := &rbac.ClusterRoleBinding{
		TypeMeta:   meta.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "ClusterRoleBinding"},
		ObjectMeta: meta.ObjectMeta{Name: role.Name + "-" + user},
		Subjects:   []rbac.Subject{{Kind: rbac.UserKind, APIGroup: rbac.GroupName, Name: user}},
		RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "ClusterRole", Name: role.Name},
	}
	a.mustPut(t, role, binding)
	t.Cleanup(func() { a.remove(t, binding); a.remove(t, role) })
	return binding
}
