package kubernetes_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	rbac "k8s.io/api/rbac/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
)

const patience = 20 * time.Second

// watchUntil runs Watch until ok accepts a view; an error of Watch is returned.
func watchUntil(t *testing.T, cfg kubernetes.Config, ok func(registry.View) bool) (view registry.View, err error) {
	t.Helper()
	r, err := kubernetes.New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	found := false
	err = r.Watch(ctx, func(v registry.View) {
		if !found && ok(v) {
			view, found = v, true
			cancel()
		}
	})
	if found {
		return view, nil
	}
	return view, err
}

func firstView(t *testing.T, cfg kubernetes.Config) (registry.View, error) {
	t.Helper()
	return watchUntil(t, cfg, func(registry.View) bool { return true })
}

func service(v registry.View, namespace, name string) *registry.Service {
	i := slices.IndexFunc(v.Services, func(s *registry.Service) bool { return s.Name == registry.Name{Namespace: namespace, Name: name} })
	if i < 0 {
		return nil
	}
	return v.Services[i]
}

// TestPermissions takes each permission from the role of README.md in turn: the refusal names it.
func TestPermissions(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	a := newAdmin(t, server.Config())
	a.mustPut(t, serviceObject("default", "web", nil), sliceObject("default", "web", "web", 8080, "10.77.0.1"))
	user := 0
	next := func(t *testing.T, role *rbac.ClusterRole) kubernetes.Config {
		user++
		name := fmt.Sprintf("reader-%d", user)
		role.Name = name
		bindRole(t, a, role, name)
		return kubernetes.Config{Kubeconfig: server.Kubeconfig(t, "", server.Token(t, name)), Nodes: kubernetes.NodesTrue}
	}
	t.Run("exactly the role", func(t *testing.T) {
		v, err := awaitPermission(t, next(t, readmeRole(t)))
		if err != nil || service(v, "default", "web") == nil || len(v.Problems) > 0 {
			t.Fatalf("got %v, %v", v, err)
		}
	})
	for _, resource := range []string{"services", "endpointslices", "nodes"} {
		for _, verb := range []string{"list", "watch"} {
			t.Run("without "+verb+" "+resource, func(t *testing.T) {
				cfg := next(t, roleWithout(t, verb, resource))
				want := fmt.Sprintf("cannot %s resource %q", verb, resource)
				_, err := firstView(t, cfg)
				for deadline := time.Now().Add(patience); time.Now().Before(deadline) && err != nil && !strings.Contains(err.Error(), want); {
					_, err = firstView(t, cfg) // the API server learns of the role's other permissions a moment later
				}
				if !errors.Is(err, registry.ErrPermission) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "README") {
					t.Fatalf("got %v, want permission lost, %s and what to do", err, want)
				}
				t.Log(err)
				if resource != "nodes" {
					return
				}
				cfg.Nodes = kubernetes.NodesAuto
				v, err := awaitPermission(t, cfg)
				if err != nil || service(v, "default", "web") == nil || len(v.Problems) != 1 || v.Problems[0].Object != "nodes" {
					t.Fatalf("auto: got %v, %v, want web and a problem of nodes", v, err)
				}
			})
		}
	}
	t.Run("a role in a namespace", func(t *testing.T) {
		a.mustPut(t,
			&core.Namespace{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: meta.ObjectMeta{Name: "shop"}},
			serviceObject("shop", "cart", nil), sliceObject("shop", "cart", "cart", 8080, "10.77.0.2"),
			serviceObject("shop", "hidden", func(s *core.Service) { s.Labels = map[string]string{"mesh": "no"} }),
		)
		all := readmeRole(t)
		role := &rbac.Role{
			TypeMeta:   meta.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"},
			ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "mesh"}, Rules: all.Rules,
		}
		binding := &rbac.RoleBinding{
			TypeMeta:   meta.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding"},
			ObjectMeta: meta.ObjectMeta{Namespace: "shop", Name: "mesh"},
			Subjects:   []rbac.Subject{{Kind: rbac.UserKind, APIGroup: rbac.GroupName, Name: "reader-9"}},
			RoleRef:    rbac.RoleRef{APIGroup: rbac.GroupName, Kind: "Role", Name: "mesh"},
		}
		a.mustPut(t, role, binding)
		cfg := kubernetes.Config{
			Kubeconfig: server.Kubeconfig(t, "", server.Token(t, "reader-9")), Namespaces: []string{"shop"}, Nodes: kubernetes.NodesFalse,
			LabelSelector: "mesh!=no",
		}
		v, err := awaitPermission(t, cfg)
		if err != nil || len(v.Services) != 1 || len(v.Services[0].Endpoints) != 1 || v.Services[0].Name.String() != "shop/cart" {
			t.Fatalf("got %v, %v, want shop/cart alone", v, err)
		}
		cfg.Namespaces = append(cfg.Namespaces, "default")
		if _, err := firstView(t, cfg); !errors.Is(err, registry.ErrPermission) || !strings.Contains(err.Error(), `namespace default`) {
			t.Fatalf("got %v, want a refusal of namespace default", err)
		}
	})
}

// awaitPermission is firstView, again as long as it is refused: the API server learns of a new role a moment later.
func awaitPermission(t *testing.T, cfg kubernetes.Config) (v registry.View, err error) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		v, err = firstView(t, cfg)
		if !errors.Is(err, registry.ErrPermission) {
			return v, err
		}
	}
	return v, err
}

// roleWithout is the role of README.md without one verb of one resource.
func roleWithout(t *testing.T, verb, resource string) *rbac.ClusterRole {
	t.Helper()
	role := readmeRole(t)
	var rules []rbac.PolicyRule
	for _, rule := range role.Rules {
		for _, r := range rule.Resources {
			one := rbac.PolicyRule{APIGroups: rule.APIGroups, Resources: []string{r}, Verbs: slices.Clone(rule.Verbs)}
			if r == resource {
				one.Verbs = slices.DeleteFunc(one.Verbs, func(v string) bool { return v == verb })
			}
			rules = append(rules, one)
		}
	}
	role.Rules = rules
	return role
}

// TestMistakes tells what is wrong with a configuration, and what to do.
func TestMistakes(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	good := server.Kubeconfig(t, "", server.AdminToken)
	changed := func(change func(*clientcmdapi.Config)) string {
		config, err := clientcmd.LoadFromFile(good)
		if err != nil {
			t.Fatal(err)
		}
		change(config)
		path := filepath.Join(t.TempDir(), "kubeconfig")
		if err := clientcmd.WriteToFile(*config, path); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cluster := func(change func(*clientcmdapi.Cluster)) string {
		return changed(func(c *clientcmdapi.Config) { change(c.Clusters[c.Contexts[c.CurrentContext].Cluster]) })
	}
	user := func(change func(*clientcmdapi.AuthInfo)) string {
		return changed(func(c *clientcmdapi.Config) { change(c.AuthInfos[c.Contexts[c.CurrentContext].AuthInfo]) })
	}
	for name, test := range map[string]struct {
		cfg  kubernetes.Config
		want []string
		perm bool
	}{
		"no file": {kubernetes.Config{Kubeconfig: "/nonexistent/kubeconfig"}, []string{"/nonexistent/kubeconfig"}, false},
		"no pod":  {kubernetes.Config{}, []string{"set kubeconfig"}, false},
		"context": {kubernetes.Config{Kubeconfig: good, Context: "prod"}, []string{`"prod"`, "want context to be one of test"}, false},
		"address": {kubernetes.Config{Kubeconfig: cluster(func(c *clientcmdapi.Cluster) { c.Server = "https://127.0.0.1:1" })}, []string{"refused", "is the server of the kubeconfig right"}, false},
		"not tls": {kubernetes.Config{Kubeconfig: cluster(func(c *clientcmdapi.Cluster) { c.Server = "https" + strings.TrimPrefix(server.Etcd.Address, "http") })}, []string{"which speaks TLS"}, false},
		"another": {kubernetes.Config{Kubeconfig: changed(func(c *clientcmdapi.Config) {
			at := c.Contexts[c.CurrentContext]
			c.Clusters[at.Cluster], c.AuthInfos[at.AuthInfo] = &clientcmdapi.Cluster{Server: server.Etcd.Address}, &clientcmdapi.AuthInfo{}
		})}, []string{"want a Kubernetes API server"}, false},
		"authority":  {kubernetes.Config{Kubeconfig: cluster(func(c *clientcmdapi.Cluster) { c.CertificateAuthority = testbed.NewCerts(t).CAFile })}, []string{"set certificate-authority"}, false},
		"tls name":   {kubernetes.Config{Kubeconfig: cluster(func(c *clientcmdapi.Cluster) { c.TLSServerName = "elsewhere.example" })}, []string{"tls-server-name"}, false},
		"token":      {kubernetes.Config{Kubeconfig: user(func(u *clientcmdapi.AuthInfo) { u.Token = "s3cret" })}, []string{"is not accepted"}, true},
		"token file": {kubernetes.Config{Kubeconfig: user(func(u *clientcmdapi.AuthInfo) { u.Token, u.TokenFile = "", "/nonexistent/token" })}, []string{"/nonexistent/token"}, false},
		"program": {kubernetes.Config{Kubeconfig: user(func(u *clientcmdapi.AuthInfo) {
			u.Token, u.Exec = "", &clientcmdapi.ExecConfig{Command: "/bin/false", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: "Never"}
		})}, []string{"not run here", "service account"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := firstView(t, test.cfg)
			if err == nil || errors.Is(err, registry.ErrPermission) != test.perm || strings.Contains(err.Error(), "s3cret") {
				t.Fatalf("got %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
			t.Log(err)
		})
	}
}

// TestTokenFile changes a token while Watch runs.
func TestTokenFile(t *testing.T) {
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	a := newAdmin(t, server.Config())
	for _, user := range []string{"reader-1", "reader-2"} {
		role := readmeRole(t)
		role.Name = user
		bindRole(t, a, role, user)
	}
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "token")
	write := func(token string) {
		if err := os.WriteFile(tokenFile+".new", []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tokenFile+".new", tokenFile); err != nil {
			t.Fatal(err)
		}
	}
	write(server.Token(t, "reader-1"))
	config, err := clientcmd.LoadFromFile(server.Kubeconfig(t, "", "x"))
	if err != nil {
		t.Fatal(err)
	}
	config.AuthInfos["test"] = &clientcmdapi.AuthInfo{TokenFile: tokenFile}
	cfg := kubernetes.Config{Kubeconfig: filepath.Join(dir, "kubeconfig")}
	if err := clientcmd.WriteToFile(*config, cfg.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	if _, err := awaitPermission(t, cfg); err != nil {
		t.Fatal(err)
	}
	// The first token stays good: who kept it would not notice.
	_, err = watchUntil(t, cfg, func(registry.View) bool { write("s3cret"); return false })
	if !errors.Is(err, registry.ErrPermission) || !strings.Contains(err.Error(), "is not accepted") || strings.Contains(err.Error(), "s3cret") {
		t.Fatalf("got %v, want the second token refused", err)
	}
	write(server.Token(t, "reader-2"))
	if _, err := awaitPermission(t, cfg); err != nil {
		t.Fatal(err)
	}
}

// TestClientCertificate reads as the user of a certificate, from files with paths that are relative to the kubeconfig,
// through a name that only tls-server-name makes right; and changes the certificate for one that the server does not take.
func TestClientCertificate(t *testing.T) {
	certs := testbed.NewCerts(t)
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{Args: []string{"--client-ca-file=" + certs.CAFile}})
	a := newAdmin(t, server.Config())
	bindRole(t, a, readmeRole(t), "client") // its common name
	dir := t.TempDir()
	place := func(from, name string) {
		t.Helper()
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	place(certs.ClientCertFile, "user.pem")
	place(certs.ClientKeyFile, "user.key")
	config, err := clientcmd.LoadFromFile(server.Kubeconfig(t, "https://[::ffff:127.0.0.1]"+server.Address[strings.LastIndex(server.Address, ":"):], ""))
	if err != nil {
		t.Fatal(err)
	}
	config.Clusters["test"].TLSServerName = "localhost"
	config.AuthInfos["test"] = &clientcmdapi.AuthInfo{ClientCertificate: "user.pem", ClientKey: "user.key"}
	cfg := kubernetes.Config{Kubeconfig: filepath.Join(dir, "kubeconfig")}
	if err := clientcmd.WriteToFile(*config, cfg.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	if v, err := awaitPermission(t, cfg); err != nil || service(v, "default", "kubernetes") == nil {
		t.Fatalf("got %v, %v, want the server's own service", v, err)
	}
	other := testbed.NewCerts(t)
	place(other.ClientCertFile, "user.pem")
	place(other.ClientKeyFile, "user.key")
	if _, err := firstView(t, cfg); !errors.Is(err, registry.ErrPermission) || !strings.Contains(err.Error(), "client certificate is not accepted") {
		t.Fatalf("got %v, want the certificate refused", err)
	}
}
