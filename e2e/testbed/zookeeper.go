package testbed

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
)

// ZooKeeperMode says how a ZooKeeper is set up.
type ZooKeeperMode int

const (
	// ZooKeeperStandalone is one server that speaks plaintext.
	ZooKeeperStandalone ZooKeeperMode = iota
	// ZooKeeperTLS is ZooKeeperStandalone with a second port that speaks TLS only and wants a client certificate.
	ZooKeeperTLS
	// ZooKeeperEnsemble is three servers, plaintext.
	ZooKeeperEnsemble
)

// ZooKeeperOptions says what StartZooKeeper starts; the zero value is a ZooKeeperStandalone.
type ZooKeeperOptions struct {
	Mode ZooKeeperMode
}

// ZooKeeper is one running ZooKeeper server; it keeps its data over a Restart. Sessions may be as short as a second.
type ZooKeeper struct {
	Address    string // 127.0.0.1:port, plaintext
	TLSAddress string // 127.0.0.1:port, with ZooKeeperTLS
	Certs      Certs  // with ZooKeeperTLS

	*server
}

// zooKeeperSession is how long the sessions of Client outlive their connection.
const zooKeeperSession = 10 * time.Second

// StartZooKeeper starts Debian's ZooKeeper and returns its servers, one or with ZooKeeperEnsemble three, when they
// serve. They are ended when the test ends; a test that failed shows their logs.
func StartZooKeeper(t testing.TB, opts ZooKeeperOptions) []*ZooKeeper {
	t.Helper()
	skipLeftOut(t, "ZooKeeper")
	java, err := exec.LookPath("java")
	if err != nil {
		t.Fatalf("start zookeeper: %v (e2e/setup.sh installs it)", err)
	}
	var certs Certs
	if opts.Mode == ZooKeeperTLS {
		certs = NewCerts(t)
	}
	return startServers(t, func() ([]*ZooKeeper, error) { return startZooKeeper(t, java, certs, opts) })
}

func startZooKeeper(t testing.TB, java string, certs Certs, opts ZooKeeperOptions) ([]*ZooKeeper, error) {
	count := 1
	if opts.Mode == ZooKeeperEnsemble {
		count = 3
	}
	const perServer = 3
	ports, err := freePorts(perServer * count)
	if err != nil {
		return nil, err
	}
	var (
		keepers  []*ZooKeeper
		servers  []*server
		ensemble []string
	)
	if count > 1 {
		for i := range count {
			p := ports[i*perServer:]
			ensemble = append(ensemble, fmt.Sprintf("server.%d=127.0.0.1:%d:%d", i+1, p[1], p[2]))
		}
	}
	for i := range count {
		p := ports[i*perServer:]
		z := &ZooKeeper{Address: fmt.Sprintf("127.0.0.1:%d", p[0]), Certs: certs}
		z.server = &server{t: t, path: java, name: fmt.Sprintf("zookeeper-%d", i+1), ready: z.serves}
		dir := t.TempDir()
		config := append(zooKeeperConfig(dir, p[0]), ensemble...)
		if opts.Mode == ZooKeeperTLS {
			z.TLSAddress = fmt.Sprintf("127.0.0.1:%d", p[1])
			lines, err := zooKeeperTLSConfig(dir, certs, p[1])
			if err != nil {
				return nil, err
			}
			config = append(config, lines...)
		}
		file := filepath.Join(dir, "zoo.cfg")
		if err := os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, "myid"), fmt.Appendln(nil, i+1), 0o600); err != nil {
			return nil, err
		}
		z.args = append(zooKeeperJava(), file)
		keepers, servers = append(keepers, z), append(servers, z.server)
	}
	return keepers, startTogether(servers...)
}

// zooKeeperJava returns the arguments of java up to the configuration file: a small, quickly started JVM.
func zooKeeperJava() []string {
	var jars []string
	// The manifest of zookeeper.jar names slf4j and some of netty, but not all that TLS needs.
	for _, jar := range []string{"slf4j-simple", "zookeeper", "netty-all", "netty-codec"} {
		jars = append(jars, "/usr/share/java/"+jar+".jar")
	}
	return []string{
		"-Xmx384m", "-Xss256k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-Djava.net.preferIPv4Stack=true", "-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dzookeeper.jmx.log4j.disable=true",
		"-Dzookeeper.admin.enableServer=false", "-Dzookeeper.forceSync=no", "-Dzookeeper.4lw.commands.whitelist=*",
		"-cp", strings.Join(jars, ":"), "org.apache.zookeeper.server.quorum.QuorumPeerMain",
	}
}

func zooKeeperConfig(dir string, port int) []string {
	return []string{
		"tickTime=500", "minSessionTimeout=1000", "maxSessionTimeout=60000", "maxClientCnxns=0",
		"initLimit=20", "syncLimit=10", "dataDir=" + dir, "clientPortAddress=127.0.0.1", fmt.Sprintf("clientPort=%d", port),
	}
}

func zooKeeperTLSConfig(dir string, certs Certs, port int) ([]string, error) {
	var pem []byte
	for _, file := range []string{certs.ServerKeyFile, certs.ServerCertFile} {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pem = append(pem, data...)
	}
	keyStore := filepath.Join(dir, "server.pem")
	return []string{
		"secureClientPortAddress=127.0.0.1", fmt.Sprintf("secureClientPort=%d", port),
		"serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
		"ssl.keyStore.type=PEM", "ssl.keyStore.location=" + keyStore,
		"ssl.trustStore.type=PEM", "ssl.trustStore.location=" + certs.CAFile,
		"ssl.clientAuth=need", "ssl.hostnameVerification=false", "ssl.enabledProtocols=TLSv1.2,TLSv1.3",
	}, os.WriteFile(keyStore, pem, 0o600)
}

// serves asks for what a server answers when it takes sessions: its part in the ensemble.
func (z *ZooKeeper) serves(ctx context.Context) error {
	if _, err := z.mode(ctx); err != nil {
		return err
	}
	if z.TLSAddress == "" {
		return nil
	}
	config, err := z.Certs.clientConfig()
	if err != nil {
		return err
	}
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", z.TLSAddress)
	if err != nil {
		return err
	}
	return conn.Close()
}

// mode returns what the server says it is: standalone, leader or follower.
func (z *ZooKeeper) mode(ctx context.Context) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", z.Address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := io.WriteString(conn, "srvr"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(answer) {
		if mode, ok := bytes.CutPrefix(line, []byte("Mode: ")); ok {
			return string(bytes.TrimSpace(mode)), nil
		}
	}
	return "", fmt.Errorf("it says %q", bytes.TrimSpace(answer))
}

// IsLeader reports whether the server says that it leads its ensemble; a server alone does.
func (z *ZooKeeper) IsLeader() bool {
	z.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	mode, err := z.mode(ctx)
	return err == nil && mode != "follower"
}

// Client returns a client of this server that has a session; it is closed with the test.
func (z *ZooKeeper) Client() *zk.Conn {
	z.t.Helper()
	conn, events, err := zk.Connect([]string{z.Address}, zooKeeperSession, zk.WithLogger(quietLogger{}))
	z.must(err)
	z.t.Cleanup(conn.Close)
	timeout := time.After(readyWithin)
	for {
		select {
		case event := <-events:
			if event.State == zk.StateHasSession {
				return conn
			}
		case <-timeout:
			z.must(errors.New("connect to zookeeper: no session"))
		}
	}
}

type quietLogger struct{}

func (quietLogger) Printf(string, ...any) {}
