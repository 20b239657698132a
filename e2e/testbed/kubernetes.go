package testbed

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// KubernetesOptions says what StartKubernetes starts.
type KubernetesOptions struct {
	Args []string // further arguments of kube-apiserver
}

// Kubernetes is one running kube-apiserver with an etcd of its own, RBAC and static tokens. It keeps its data over a
// Restart. No controller runs beside it: what a test wants to be there, EndpointSlices too, it creates.
type Kubernetes struct {
	Address    string // https://127.0.0.1:port
	CAFile     string
	AdminToken string // of a user who may do everything
	Etcd       *Etcd

	*server
	tokens map[string]string // by user
}

// kubernetesReaders is how many users reader-1, reader-2, … there are.
const kubernetesReaders = 9

// StartKubernetes starts kube-apiserver and its etcd and returns when it serves. Both are ended when the test ends; a
// test that failed shows their logs.
func StartKubernetes(t testing.TB, opts KubernetesOptions) *Kubernetes {
	t.Helper()
	path, err := Build(context.Background(), "kube-apiserver")
	if err != nil {
		t.Fatal(err)
	}
	etcd := StartEtcd(t, EtcdOptions{})[0]
	certs := NewCerts(t)
	return startServers(t, func() (*Kubernetes, error) { return startKubernetes(t, path, etcd, certs, opts) })
}

func startKubernetes(t testing.TB, path string, etcd *Etcd, certs Certs, opts KubernetesOptions) (*Kubernetes, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	k := &Kubernetes{
		Address: fmt.Sprintf("https://127.0.0.1:%d", ports[0]), CAFile: certs.CAFile, AdminToken: rand.Text(),
		Etcd: etcd, tokens: map[string]string{},
	}
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "tokens.csv")
	lines := fmt.Sprintf("%s,admin,admin,system:masters\n", k.AdminToken)
	for i := range kubernetesReaders {
		user := fmt.Sprintf("reader-%d", i+1)
		k.tokens[user] = rand.Text()
		lines += fmt.Sprintf("%s,%s,%s\n", k.tokens[user], user, user)
	}
	if err := os.WriteFile(tokenFile, []byte(lines), 0o600); err != nil {
		return nil, err
	}
	k.server = &server{t: t, path: path, name: "kube-apiserver", ready: k.serves}
	k.args = append([]string{
		"--etcd-servers=" + etcd.Address, "--etcd-compaction-interval=0",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[0]), "--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=" + certs.ServerCertFile, "--tls-private-key-file=" + certs.ServerKeyFile, "--cert-dir=" + dir,
		"--token-auth-file=" + tokenFile, "--authorization-mode=RBAC", "--anonymous-auth=false",
		// No service account is used, but the server will not start without keys for them.
		"--service-account-issuer=https://kubernetes.default.svc", "--disable-admission-plugins=ServiceAccount",
		"--service-account-signing-key-file=" + certs.ServerKeyFile, "--service-account-key-file=" + certs.ServerCertFile,
		"--enable-priority-and-fairness=false", "--max-requests-inflight=3000", "--max-mutating-requests-inflight=1000",
	}, opts.Args...)
	return k, startTogether(k.server)
}

// serves asks whether the server is ready, and has made what it makes itself: its own service is the last of that,
// after the namespace default and the address range of services.
func (k *Kubernetes) serves(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(k.Config())
	if err != nil {
		return err
	}
	if text, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err != nil {
		return fmt.Errorf("%w: %s", err, text)
	}
	_, err = client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	return err
}

// Config returns a new configuration for clients that may do everything, as fast as they can.
func (k *Kubernetes) Config() *rest.Config {
	return &rest.Config{
		Host: k.Address, BearerToken: k.AdminToken, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAFile: k.CAFile},
	}
}

// Token returns the token of one of the users reader-1 to reader-9. They have no rights but those that the test
// gives them.
func (k *Kubernetes) Token(t testing.TB, user string) string {
	t.Helper()
	token, ok := k.tokens[user]
	if !ok {
		t.Fatalf("no user %s, want reader-1 to reader-%d", user, kubernetesReaders)
	}
	return token
}

// Kubeconfig writes a kubeconfig file for the token and returns its path. The server is Address if it is empty.
func (k *Kubernetes) Kubeconfig(t testing.TB, server, token string) string {
	t.Helper()
	if server == "" {
		server = k.Address
	}
	config := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"test": {Server: server, CertificateAuthority: k.CAFile}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"test": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"test": {Cluster: "test", AuthInfo: "test"}},
		CurrentContext: "test",
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// LoseHistory makes the server forget all versions but the newest, as a long outage does: it is killed, its etcd is
// compacted, and it is started again. A watch from before is then answered 410 Gone.
func (k *Kubernetes) LoseHistory(t testing.TB) {
	t.Helper()
	k.Kill()
	client := k.Etcd.Client()
	now, err := client.Get(t.Context(), "/", clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Compact(t.Context(), now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	k.Start()
	k.AwaitReady()
}
