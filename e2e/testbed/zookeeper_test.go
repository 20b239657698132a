package testbed_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

func createZooKeeper(t *testing.T, z *testbed.ZooKeeper, path, value string) {
	t.Helper()
	if _, err := z.Client().Create(path, []byte(value), zk.FlagPersistent, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
}

func wantZooKeeper(t *testing.T, z *testbed.ZooKeeper, path, value string) {
	t.Helper()
	conn := z.Client()
	if _, err := conn.Sync(path); err != nil {
		t.Fatal(err)
	}
	if got, _, err := conn.Get(path); err != nil || string(got) != value {
		t.Fatalf("get %s: %q, %v, want %q", path, got, err, value)
	}
}

func TestZooKeeperKeepsItsDataOverAKill(t *testing.T) {
	t.Parallel()
	z := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	createZooKeeper(t, z, "/key", "value")
	z.Restart()
	wantZooKeeper(t, z, "/key", "value")
	if !z.IsLeader() {
		t.Error("the only server does not lead")
	}
}

func TestZooKeeperSessionsEndAfterASecond(t *testing.T) {
	t.Parallel()
	z := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	link := testbed.NewLink(t, z.Address)
	conn, events, err := zk.Connect([]string{link.Address}, time.Second, zk.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for event := range events {
		if event.State == zk.StateHasSession {
			break
		}
	}
	if _, err := conn.Create("/mine", nil, zk.FlagEphemeral, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	link.Hold()
	other := z.Client()
	for deadline := time.Now().Add(arrival); ; time.Sleep(50 * time.Millisecond) {
		exists, _, err := other.Exists("/mine")
		if err == nil && !exists {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the ephemeral node of a session that was cut is there: %v", err)
		}
	}
}

func TestZooKeeperTLSWantsAClientCertificate(t *testing.T) {
	t.Parallel()
	z := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{Mode: testbed.ZooKeeperTLS})[0]
	createZooKeeper(t, z, "/key", "value") // plaintext, beside it
	pem, err := os.ReadFile(z.Certs.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(pem)
	if answer, err := askTLS(z.TLSAddress, config); err == nil {
		t.Errorf("a client without a certificate was answered %q", answer)
	}
	pair, err := tls.LoadX509KeyPair(z.Certs.ClientCertFile, z.Certs.ClientKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{pair}
	if answer, err := askTLS(z.TLSAddress, config); err != nil || !strings.Contains(answer, "Mode: standalone") {
		t.Errorf("got %q, %v, want Mode: standalone", answer, err)
	}
}

func askTLS(address string, config *tls.Config) (string, error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: arrival}, "tcp", address, config)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(arrival))
	if _, err := io.WriteString(conn, "srvr"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func TestZooKeeperEnsembleSurvivesItsLeaderAndKeepsData(t *testing.T) {
	t.Parallel()
	servers := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{Mode: testbed.ZooKeeperEnsemble})
	createZooKeeper(t, servers[0], "/key", "value")
	leader := leaderOf(t, servers)
	leader.Kill()
	next := leaderOf(t, servers)
	if next == leader {
		t.Fatal("the killed server leads")
	}
	createZooKeeper(t, next, "/key2", "value 2")
	leader.Start()
	leader.AwaitReady()
	wantZooKeeper(t, leader, "/key", "value")
	wantZooKeeper(t, leader, "/key2", "value 2")
}
