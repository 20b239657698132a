package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// EtcdMode says how an etcd is set up.
type EtcdMode int

const (
	// EtcdSingle is one server that speaks plain HTTP/2.
	EtcdSingle EtcdMode = iota
	// EtcdTLS is EtcdSingle that speaks TLS only and wants a client certificate.
	EtcdTLS
	// EtcdCluster is three servers, plaintext.
	EtcdCluster
)

// EtcdOptions says what StartEtcd starts; the zero value is an EtcdSingle without authentication.
type EtcdOptions struct {
	Mode EtcdMode
	Auth bool // authentication is on: only the user root exists
	// AuthTTL is how long a token is good, whole seconds; the tokens are then signed ones (JWT), which end even when
	// they are in use. With zero they are etcd's simple ones, whose five minutes begin again with each use.
	AuthTTL time.Duration
}

// Etcd is one running etcd server; it keeps its data over a Restart.
type Etcd struct {
	Address      string // http://127.0.0.1:port or https://127.0.0.1:port
	Certs        Certs  // with EtcdTLS
	RootPassword string // with Auth

	*server
}

const etcdRootPassword = "root's password" //nolint:gosec // of a throw-away server

// StartEtcd starts etcd and returns its servers, one or with EtcdCluster three, when they serve. They are ended when
// the test ends; a test that failed shows their logs.
func StartEtcd(t testing.TB, opts EtcdOptions) []*Etcd {
	t.Helper()
	path, err := Build(context.Background(), "etcd")
	if err != nil {
		t.Fatal(err)
	}
	var certs Certs
	if opts.Mode == EtcdTLS {
		certs = NewCerts(t)
	}
	etcds := startServers(t, func() ([]*Etcd, error) { return startEtcd(t, path, certs, opts) })
	if opts.Auth {
		if err := etcds[0].enableAuth(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, e := range etcds {
			e.RootPassword = etcdRootPassword
		}
	}
	return etcds
}

func startEtcd(t testing.TB, path string, certs Certs, opts EtcdOptions) ([]*Etcd, error) {
	count, scheme := 1, "http"
	switch opts.Mode {
	case EtcdCluster:
		count = 3
	case EtcdTLS:
		scheme = "https"
	}
	ports, err := freePorts(2 * count)
	if err != nil {
		return nil, err
	}
	common, err := etcdArgs(t, certs, opts)
	if err != nil {
		return nil, err
	}
	var (
		etcds   []*Etcd
		servers []*server
		cluster []string
	)
	for i := range count {
		cluster = append(cluster, fmt.Sprintf("etcd-%d=http://127.0.0.1:%d", i+1, ports[2*i+1]))
	}
	for i := range count {
		name, peer, _ := strings.Cut(cluster[i], "=")
		e := &Etcd{
			Address: fmt.Sprintf("%s://127.0.0.1:%d", scheme, ports[2*i]), Certs: certs,
			server: &server{t: t, path: path, name: name},
		}
		e.ready = e.healthy
		e.args = append([]string{
			"--name=" + name, "--data-dir=" + t.TempDir(), "--initial-cluster=" + strings.Join(cluster, ","),
			"--listen-client-urls=" + e.Address, "--advertise-client-urls=" + e.Address,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		}, common...)
		etcds, servers = append(etcds, e), append(servers, e.server)
	}
	return etcds, startTogether(servers...)
}

// etcdArgs returns the arguments that all servers of a cluster have.
func etcdArgs(t testing.TB, certs Certs, opts EtcdOptions) ([]string, error) {
	args := []string{"--log-level=warn", "--unsafe-no-fsync"}
	if opts.Mode == EtcdTLS {
		args = append(args, "--client-cert-auth", "--trusted-ca-file="+certs.CAFile,
			"--cert-file="+certs.ServerCertFile, "--key-file="+certs.ServerKeyFile)
	}
	if opts.AuthTTL > 0 {
		keyFile := filepath.Join(t.TempDir(), "token.key")
		if _, err := writeKey(keyFile); err != nil {
			return nil, err
		}
		args = append(args, fmt.Sprintf("--auth-token=jwt,priv-key=%s,sign-method=ES256,ttl=%s", keyFile, opts.AuthTTL))
	}
	return args, nil
}

// healthy asks for what needs a leader.
func (e *Etcd) healthy(ctx context.Context) error {
	config, err := e.Certs.clientConfig()
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Address+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var health struct{ Health, Reason string }
	if err := json.NewDecoder(resp.Body).Decode(&health); err != nil {
		return fmt.Errorf("read health: %w", err)
	}
	if health.Health != "true" {
		return fmt.Errorf("not healthy: %s", health.Reason)
	}
	return nil
}

// enableAuth makes the user root and turns authentication on.
func (e *Etcd) enableAuth(ctx context.Context) error {
	client, err := e.newClient()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if _, err := client.UserAdd(ctx, "root", etcdRootPassword); err != nil {
		return fmt.Errorf("add etcd's user root: %w", err)
	}
	if _, err := client.UserGrantRole(ctx, "root", "root"); err != nil {
		return fmt.Errorf("grant etcd's role root: %w", err)
	}
	if _, err := client.AuthEnable(ctx); err != nil {
		return fmt.Errorf("enable etcd's authentication: %w", err)
	}
	return nil
}

// Client returns a client of this server that may do everything; it is closed with the test.
func (e *Etcd) Client() *clientv3.Client {
	e.t.Helper()
	client, err := e.newClient()
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = client.Close() })
	return client
}

func (e *Etcd) newClient() (*clientv3.Client, error) {
	config, err := e.Certs.clientConfig()
	if err != nil {
		return nil, err
	}
	client := clientv3.Config{Endpoints: []string{e.Address}, TLS: config, DialTimeout: readyWithin, Logger: zap.NewNop()}
	if e.RootPassword != "" {
		client.Username, client.Password = "root", e.RootPassword
	}
	return clientv3.New(client)
}

// IsLeader reports whether the server says that it leads its cluster.
func (e *Etcd) IsLeader() bool {
	e.t.Helper()
	if !e.proc.running() {
		return false
	}
	client, err := e.newClient()
	if err != nil {
		return false
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	status, err := client.Status(ctx, e.Address)
	return err == nil && status.Leader == status.Header.MemberId
}
