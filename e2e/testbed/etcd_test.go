package testbed_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

func putEtcd(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), arrival)
	defer cancel()
	if _, err := client.Put(ctx, key, value); err != nil {
		t.Fatal(err)
	}
}

func wantEtcd(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), arrival)
	defer cancel()
	got, err := client.Get(ctx, key)
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value {
		t.Fatalf("get %s: %v, %v, want %s", key, got, err, value)
	}
}

func TestEtcdModesKeepTheirDataOverAKill(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]testbed.EtcdOptions{
		"single":   {},
		"auth":     {Auth: true},
		"tls":      {Mode: testbed.EtcdTLS},
		"tls-auth": {Mode: testbed.EtcdTLS, Auth: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			etcd := testbed.StartEtcd(t, opts)[0]
			putEtcd(t, etcd.Client(), "/key", "value")
			etcd.Restart()
			wantEtcd(t, etcd.Client(), "/key", "value")
			if !etcd.IsLeader() {
				t.Error("the only server does not lead")
			}
			if opts.Mode == testbed.EtcdTLS {
				return
			}
			anonymous, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.Address}, Logger: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			defer anonymous.Close()
			if _, err = anonymous.Get(t.Context(), "/key"); opts.Auth == (err == nil) {
				t.Errorf("get without a user: %v", err)
			}
		})
	}
}

func TestEtcdTLSWantsAClientCertificate(t *testing.T) {
	t.Parallel()
	etcd := testbed.StartEtcd(t, testbed.EtcdOptions{Mode: testbed.EtcdTLS})[0]
	stranger := *etcd
	other := testbed.NewCerts(t)
	stranger.Certs.ClientCertFile, stranger.Certs.ClientKeyFile = other.ClientCertFile, other.ClientKeyFile
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := stranger.Client().Get(ctx, "/key"); err == nil {
		t.Fatal("a client with another authority's certificate was let in")
	}
	putEtcd(t, etcd.Client(), "/key", "value")
}

func TestEtcdTokenEndsAfterItsTime(t *testing.T) {
	t.Parallel()
	etcd := testbed.StartEtcd(t, testbed.EtcdOptions{Auth: true, AuthTTL: time.Second})[0]
	client := etcd.Client()
	login, err := client.Authenticate(t.Context(), "root", etcd.RootPassword)
	if err != nil {
		t.Fatal(err)
	}
	old, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.Address}, Token: login.Token, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	putEtcd(t, old, "/key", "value")
	for deadline := time.Now().Add(arrival); ; time.Sleep(100 * time.Millisecond) {
		_, err := old.Get(t.Context(), "/key")
		if errors.Is(err, rpctypes.ErrInvalidAuthToken) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the token still works: %v", err)
		}
	}
	wantEtcd(t, client, "/key", "value") // a client with the password gets itself another
}

func TestEtcdClusterSurvivesItsLeaderAndKeepsData(t *testing.T) {
	t.Parallel()
	servers := testbed.StartEtcd(t, testbed.EtcdOptions{Mode: testbed.EtcdCluster})
	putEtcd(t, servers[0].Client(), "/key", "value")
	leader := leaderOf(t, servers)
	leader.Kill()
	next := leaderOf(t, servers)
	if next == leader {
		t.Fatal("the killed server leads")
	}
	putEtcd(t, next.Client(), "/key", "value 2")
	for _, s := range servers {
		s.Kill()
	}
	for _, s := range servers {
		s.Start()
	}
	for _, s := range servers {
		s.AwaitReady()
	}
	wantEtcd(t, leader.Client(), "/key", "value 2")
}

// leaderOf waits until a server says that it leads.
func leaderOf[S interface {
	comparable
	IsLeader() bool
}](t *testing.T, servers []S,
) S {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		for _, s := range servers {
			if s.IsLeader() {
				return s
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("no server leads")
		}
	}
}
