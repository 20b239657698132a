package kubernetes_test

import (
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
)

// TestInCluster reads as a pod does, with no more than what the kubelet gives one: two variables, and its service
// account's files at the place where they always are, which only this test sees. The token is changed as the kubelet does.
func TestInCluster(t *testing.T) {
	if testbed.InNamespace(t) {
		return
	}
	server := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	a := newAdmin(t, server.Config())
	bindRole(t, a, readmeRole(t), "reader-1")
	a.mustPut(t, serviceObject("default", "web", nil), sliceObject("default", "web", "web", 8080, "10.77.0.1"))
	at, err := url.Parse(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(at.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)

	run, err := filepath.EvalSymlinks("/var/run")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", run, "tmpfs", 0, "mode=755"); err != nil { // of this test's own mount namespace
		t.Fatal(err)
	}
	account := "/var/run/secrets/kubernetes.io/serviceaccount"
	if err := os.MkdirAll(account, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(account, name)
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	ca, err := os.ReadFile(server.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	write("ca.crt", string(ca))
	write("token", server.Token(t, "reader-2"))
	if _, err := firstView(t, kubernetes.Config{}); !errors.Is(err, registry.ErrPermission) {
		t.Errorf("with the token of another user: got %v, want permission lost", err)
	}
	write("token", server.Token(t, "reader-1")+"\n")
	v, err := awaitPermission(t, kubernetes.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if s := service(v, "default", "web"); s == nil || len(s.Endpoints) != 1 || s.Endpoints[0].Addr.String() != "10.77.0.1" {
		t.Errorf("got %+v, want web at 10.77.0.1", s)
	}
	write("ca.crt", string(otherCA(t)))
	if _, err := firstView(t, kubernetes.Config{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with another authority's certificate: got %v, want the server refused", err)
	}
}

// otherCA is the certificate of an authority that signed nothing here.
func otherCA(t *testing.T) []byte {
	t.Helper()
	ca, err := os.ReadFile(testbed.NewCerts(t).CAFile)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}
