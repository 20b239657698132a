package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// ConsulMode says how a Consul is set up.
type ConsulMode int

const (
	// ConsulDev is one server in memory that speaks plain HTTP and has no ACLs.
	ConsulDev ConsulMode = iota
	// ConsulACL is ConsulDev with ACLs on and default policy deny.
	ConsulACL
	// ConsulTLS is ConsulDev that speaks HTTPS only.
	ConsulTLS
	// ConsulCluster is three servers that keep their data over a Restart; plain HTTP, no ACLs.
	ConsulCluster
)

// ConsulOptions says what StartConsul starts; the zero value is a ConsulDev.
type ConsulOptions struct {
	Mode           ConsulMode
	ACL            bool     // with ConsulTLS: ACLs on, default policy deny
	Persist        bool     // one server that keeps its data over a Restart; it takes a second longer to start
	VerifyIncoming bool     // with ConsulTLS: a client must show a certificate
	Datacenter     string   // dc1 if empty
	JoinWAN        *Consul  // a server of another datacenter to federate with
	HCL            []string // further fragments of the servers' configuration
}

// Consul is one running Consul server.
type Consul struct {
	Address         string // what its API answers on: http://127.0.0.1:port or https://127.0.0.1:port
	Certs           Certs  // with ConsulTLS
	ManagementToken string // with ACLs: the token that may do everything

	wan string // where its peers in other datacenters reach it

	t    testing.TB
	name string
	path string
	args []string
	proc *process
}

// managementToken is set in the configuration, so that no bootstrap is needed.
const managementToken = "11111111-1111-1111-1111-111111111111"

// readyWithin bounds how long a server may take until it has a leader; it is generous for a loaded machine.
const readyWithin = 60 * time.Second

// StartConsul starts Consul and returns its servers, one or with ConsulCluster three, when they have a leader. They
// are ended when the test ends; a test that failed shows their logs.
func StartConsul(t testing.TB, opts ConsulOptions) []*Consul {
	t.Helper()
	path, err := Build(context.Background(), "consul")
	if err != nil {
		t.Fatal(err)
	}
	var certs Certs
	if opts.Mode == ConsulTLS {
		certs = NewCerts(t)
	}
	for attempt := 1; ; attempt++ {
		servers, err := startConsul(t, path, certs, opts)
		if err == nil {
			return servers
		}
		if attempt == 5 || !errors.Is(err, errPortTaken) {
			t.Fatal(err)
		}
	}
}

// errPortTaken means that somebody took a port between our asking for it and the server's binding it.
var errPortTaken = errors.New("port was taken")

func startConsul(t testing.TB, path string, certs Certs, opts ConsulOptions) ([]*Consul, error) {
	count := 1
	if opts.Mode == ConsulCluster {
		count = 3
	}
	const perServer = 4
	ports, err := freePorts(count * perServer)
	if err != nil {
		return nil, err
	}
	var servers []*Consul
	for i := range count {
		p := ports[i*perServer : (i+1)*perServer]
		c := &Consul{
			t: t, path: path, name: fmt.Sprintf("consul-%d", i+1), Certs: certs,
			Address: fmt.Sprintf("http://127.0.0.1:%d", p[0]), wan: fmt.Sprintf("127.0.0.1:%d", p[3]),
		}
		c.args = []string{
			"agent", "-node=" + c.name, "-bind=127.0.0.1", "-client=127.0.0.1", "-disable-host-node-id", "-log-level=warn",
			fmt.Sprintf("-server-port=%d", p[1]), fmt.Sprintf("-serf-lan-port=%d", p[2]), fmt.Sprintf("-serf-wan-port=%d", p[3]),
			"-grpc-port=-1", "-grpc-tls-port=-1", "-dns-port=-1",
			"-hcl=disable_update_check=true", "-hcl=performance{raft_multiplier=1}", "-hcl=leave_on_terminate=false",
		}
		c.args = append(c.args, c.modeArgs(opts, p[0], t)...)
		for j := range count {
			if j != i {
				c.args = append(c.args, fmt.Sprintf("-retry-join=127.0.0.1:%d", ports[j*perServer+2]))
			}
		}
		servers = append(servers, c)
	}
	for i, c := range servers {
		if err := c.start(); err != nil {
			endAll(servers[:i])
			return nil, err
		}
	}
	for _, c := range servers {
		if err := c.awaitLeader(); err != nil {
			endAll(servers)
			return nil, err
		}
	}
	t.Cleanup(func() { endAll(servers) })
	return servers, nil
}

// modeArgs returns the arguments that opts adds, and notes in c what a client needs to know.
func (c *Consul) modeArgs(opts ConsulOptions, port int, t testing.TB) []string {
	var args []string
	switch {
	case opts.Mode == ConsulCluster:
		args = append(args, "-server", "-bootstrap-expect=3", "-data-dir="+t.TempDir(), "-retry-interval=1s")
	case opts.Persist:
		args = append(args, "-server", "-bootstrap-expect=1", "-data-dir="+t.TempDir())
	default:
		args = append(args, "-dev")
	}
	if opts.Mode == ConsulTLS {
		c.Address = fmt.Sprintf("https://127.0.0.1:%d", port)
		args = append(args, "-http-port=-1", fmt.Sprintf("-https-port=%d", port), fmt.Sprintf(
			`-hcl=tls { https { ca_file = %q, cert_file = %q, key_file = %q, verify_incoming = %t } }`,
			c.Certs.CAFile, c.Certs.ServerCertFile, c.Certs.ServerKeyFile, opts.VerifyIncoming))
	} else {
		args = append(args, fmt.Sprintf("-http-port=%d", port))
	}
	if opts.Mode == ConsulACL || opts.ACL {
		c.ManagementToken = managementToken
		args = append(args, fmt.Sprintf(
			`-hcl=acl { enabled = true, default_policy = "deny", tokens { initial_management = %[1]q, agent = %[1]q } }`, managementToken))
	}
	if opts.Datacenter != "" {
		args = append(args, "-datacenter="+opts.Datacenter)
	}
	if opts.JoinWAN != nil {
		args = append(args, "-retry-join-wan="+opts.JoinWAN.wan, "-retry-interval-wan=1s")
	}
	for _, hcl := range opts.HCL {
		args = append(args, "-hcl="+hcl)
	}
	return args
}

func (c *Consul) start() error {
	proc, err := spawn(c.path, c.args)
	if err != nil {
		return err
	}
	c.proc = proc
	showLogOnFailure(c.t, c.name, proc)
	return nil
}

// awaitLeader returns when the server answers and knows a leader.
func (c *Consul) awaitLeader() error {
	client, err := c.newClient()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(readyWithin); ; time.Sleep(20 * time.Millisecond) {
		var ready bool
		if ready, err = knowsLeader(client); ready {
			return nil
		}
		if !c.proc.running() {
			log := c.proc.output.String()
			if strings.Contains(log, "address already in use") {
				return fmt.Errorf("start %s: %w", c.name, errPortTaken)
			}
			return fmt.Errorf("start %s: it ended: %w\n%s", c.name, c.proc.err, log)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start %s: no leader after %s: %w\n%s", c.name, readyWithin, err, c.proc.output.String())
		}
	}
}

// knowsLeader asks for what the first leader writes: Consul's own service.
func knowsLeader(client *api.Client) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	services, meta, err := client.Catalog().Services((&api.QueryOptions{AllowStale: true}).WithContext(ctx))
	return err == nil && meta.KnownLeader && len(services) > 0, err
}

func (c *Consul) newClient() (*api.Client, error) {
	// Its own transport, closed connections: nothing of the environment, nothing shared between tests.
	config := &api.Config{Address: c.Address, Token: c.ManagementToken, Transport: &http.Transport{
		MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Second, DisableCompression: true,
	}}
	if c.Certs.CAFile != "" {
		config.TLSConfig = api.TLSConfig{CAFile: c.Certs.CAFile, CertFile: c.Certs.ClientCertFile, KeyFile: c.Certs.ClientKeyFile}
	}
	return api.NewClient(config)
}

// Client returns a client of this server that may do everything.
func (c *Consul) Client() *api.Client {
	c.t.Helper()
	client, err := c.newClient()
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// Kill ends the server by SIGKILL, as a crash does, and waits until it is gone.
func (c *Consul) Kill() { c.t.Helper(); c.must(c.proc.kill()) }

// Stop ends the server in order and waits until it is gone.
func (c *Consul) Stop() { c.t.Helper(); c.must(c.proc.stop(10 * time.Second)) }

// Pause stops the server's execution (SIGSTOP): its connections stay open and nothing answers.
func (c *Consul) Pause() { c.t.Helper(); c.must(c.proc.signal(syscall.SIGSTOP)) }

// Continue ends a Pause.
func (c *Consul) Continue() { c.t.Helper(); c.must(c.proc.signal(syscall.SIGCONT)) }

// Start starts a killed or stopped server again, on the same ports, and does not wait for a leader. A server of a
// cluster, and one that was to Persist, has kept its data; any other comes back empty.
func (c *Consul) Start() {
	c.t.Helper()
	if c.proc.running() {
		c.t.Fatalf("start %s: it is running", c.name)
	}
	c.must(c.start())
}

// AwaitLeader returns when the server knows a leader; the test fails when it does not in a minute.
func (c *Consul) AwaitLeader() { c.t.Helper(); c.must(c.awaitLeader()) }

// Restart is Kill where it still runs, Start and AwaitLeader.
func (c *Consul) Restart() {
	c.t.Helper()
	c.Kill()
	c.Start()
	c.AwaitLeader()
}

// PID returns the process's id.
func (c *Consul) PID() int { return c.proc.cmd.Process.Pid }

// IsLeader reports whether the server says that it leads its cluster.
func (c *Consul) IsLeader() bool {
	c.t.Helper()
	self, err := c.Client().Agent().Self()
	if err != nil {
		return false
	}
	consul, _ := self["Stats"]["consul"].(map[string]any)
	return consul["leader"] == "true"
}

func (c *Consul) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func endAll(servers []*Consul) {
	for _, c := range servers {
		if c.proc != nil {
			if err := c.proc.kill(); err != nil {
				fmt.Fprintln(os.Stderr, "testbed:", err)
			}
		}
	}
}
