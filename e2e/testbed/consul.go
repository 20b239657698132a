package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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

// Consul is one running Consul server. A server of a cluster, and one that was to Persist, keeps its data over a
// Restart; any other comes back empty.
type Consul struct {
	Address         string // what its API answers on: http://127.0.0.1:port or https://127.0.0.1:port
	Certs           Certs  // with ConsulTLS
	ManagementToken string // with ACLs: the token that may do everything

	*server
	wan string // where its peers in other datacenters reach it
}

// managementToken is set in the configuration, so that no bootstrap is needed.
const managementToken = "11111111-1111-1111-1111-111111111111"

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
	return startServers(t, func() ([]*Consul, error) { return startConsul(t, path, certs, opts) })
}

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
	var (
		consuls []*Consul
		servers []*server
	)
	for i := range count {
		p := ports[i*perServer : (i+1)*perServer]
		c := &Consul{
			server: &server{t: t, path: path, name: fmt.Sprintf("consul-%d", i+1)}, Certs: certs,
			Address: fmt.Sprintf("http://127.0.0.1:%d", p[0]), wan: fmt.Sprintf("127.0.0.1:%d", p[3]),
		}
		c.ready = c.knowsLeader
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
		consuls, servers = append(consuls, c), append(servers, c.server)
	}
	return consuls, startTogether(servers...)
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

// knowsLeader asks for what the first leader writes: Consul's own service.
func (c *Consul) knowsLeader(ctx context.Context) error {
	client, err := c.newClient()
	if err != nil {
		return err
	}
	services, meta, err := client.Catalog().Services((&api.QueryOptions{AllowStale: true}).WithContext(ctx))
	if err == nil && (!meta.KnownLeader || len(services) == 0) {
		return errors.New("it knows no leader")
	}
	return err
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

// AwaitLeader is AwaitReady: the server knows a leader.
func (c *Consul) AwaitLeader() { c.t.Helper(); c.AwaitReady() }

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
