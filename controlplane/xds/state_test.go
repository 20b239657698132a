package xds_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

func until(t *testing.T, true func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !true(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came")
		}
	}
}

// stateClient is a client of the state-of-the-world variant.
type stateClient struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[discovery.DiscoveryRequest, discovery.DiscoveryResponse]
	node   *corev3.Node
	nonce  map[string]string
	count  int
}

func (m *mesh) state(node *corev3.Node) *stateClient {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m.t.Cleanup(cancel)
	stream, err := m.dial().StreamAggregatedResources(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	return &stateClient{t: m.t, stream: stream, node: node, nonce: map[string]string{}}
}

// request asks for names, with the nonce of the last response of that type.
func (c *stateClient) request(url string, names ...string) {
	c.t.Helper()
	c.send(&discovery.DiscoveryRequest{TypeUrl: url, ResourceNames: names, ResponseNonce: c.nonce[url]})
}

func (c *stateClient) send(req *discovery.DiscoveryRequest) {
	c.t.Helper()
	req.Node, c.node = c.node, nil
	if err := c.stream.Send(req); err != nil {
		c.t.Fatal(err)
	}
}

// want receives a response and compares its type and the names of its resources.
func (c *stateClient) want(url string, names ...string) *discovery.DiscoveryResponse {
	c.t.Helper()
	r := within(c.t, c.stream.Recv)
	var got []string
	for _, packed := range r.Resources {
		m, err := packed.UnmarshalNew()
		if err != nil {
			c.t.Fatal(err)
		}
		switch m := m.(type) {
		case *endpointv3.ClusterLoadAssignment:
			got = append(got, m.ClusterName)
		case *clusterv3.Cluster:
			got = append(got, m.Name)
		case interface{ GetName() string }:
			got = append(got, m.GetName())
		}
	}
	slices.Sort(got)
	slices.Sort(names)
	if r.TypeUrl != url || !slices.Equal(got, names) {
		c.t.Fatalf("response %s %q, want %s %q", r.TypeUrl, got, url, names)
	}
	c.nonce[url] = r.Nonce
	return r
}

// quiet fails the test if anything but the answer to a question that is asked now comes: routes are sent last.
func (c *stateClient) quiet() {
	c.t.Helper()
	c.count++
	name := fmt.Sprintf("barrier-%d", c.count)
	c.request(rds, name)
	c.want(rds)
}

func TestStateClustersAndListenersAreComplete(t *testing.T) {
	m := twoServices(t)
	c := m.state(proxy("web", "*"))
	c.request(cds)
	r := c.want(cds, cluster("api"), cluster("web"))
	if r.VersionInfo != fmt.Sprint(m.number) {
		t.Errorf("version_info %s, want the snapshot's number %d", r.VersionInfo, m.number)
	}
	c.request(cds)
	c.request(lds)
	c.want(lds, "outbound", listener("web"))
	c.request(lds)
	m.set("new", "10.0.0.1:80")
	m.publish()
	c.want(cds, cluster("api"), cluster("new"), cluster("web"))
	c.request(cds)
	m.drop("web")
	m.publish()
	c.want(cds, cluster("api"), cluster("new"))
	c.want(lds, "outbound")
	c.request(cds)
	c.request(lds)
	m.set("new", "10.0.0.2:80") // endpoints only
	m.publish()
	c.quiet()
}

func TestStateEndpointsAndRoutesAreWhatChanged(t *testing.T) {
	m := twoServices(t)
	c := m.state(proxy())
	c.request(eds, cluster("api"), cluster("web"))
	c.want(eds, cluster("api"), cluster("web"))
	c.request(eds, cluster("api"), cluster("web"))
	c.quiet()
	m.set("web", "10.3.0.1:80")
	m.publish()
	c.want(eds, cluster("web"))
	c.request(eds, cluster("api"), cluster("web"), cluster("new")) // one more, unknown: answered at once
	c.want(eds)
	c.request(eds, cluster("api"), cluster("web"), cluster("new"))
	m.set("new", "10.3.0.2:80")
	m.publish()
	c.want(eds, cluster("new"))
	c.request(eds, cluster("api"), cluster("new"))
	c.quiet()
	m.drop("new") // cannot be said of endpoints
	m.set("web", "10.3.0.3:80")
	m.publish()
	c.quiet()
	c.request(eds, cluster("api"), cluster("web")) // subscribed again
	c.want(eds, cluster("web"))
}

func TestStateUnknownNamesAreAnsweredByAbsence(t *testing.T) {
	m := twoServices(t)
	c := m.state(&corev3.Node{Id: "app", UserAgentName: "gRPC Go"})
	c.request(lds, "nope.mesh.internal")
	c.want(lds)
	c.request(lds, "nope.mesh.internal", "web.mesh.internal:80", "api.mesh.internal")
	c.want(lds, "api.mesh.internal", "web.mesh.internal:80")
	c.request(cds, cluster("nope"))
	c.want(cds)
}

// After names were seen an empty list is the end of the subscription, not the wildcard.
func TestStateLegacyWildcardEnds(t *testing.T) {
	m := twoServices(t)
	c := m.state(proxy("web"))
	c.request(cds)
	c.want(cds, cluster("web"))
	c.request(cds, "*", cluster("api"))
	c.want(cds, cluster("api"), cluster("web"))
	c.request(cds, cluster("api"))
	c.quiet()
	m.drop("web")
	m.publish()
	c.quiet()
	c.request(cds)
	c.quiet()
	m.drop("api")
	m.publish()
	c.quiet()
}

func TestStateStaleNoncesAreIgnored(t *testing.T) {
	m := twoServices(t)
	c := m.state(proxy())
	c.request(eds, cluster("web"))
	first := c.want(eds, cluster("web"))
	c.request(eds, cluster("web"))
	m.set("web", "10.4.0.1:80")
	m.publish()
	c.want(eds, cluster("web"))
	c.send(&discovery.DiscoveryRequest{TypeUrl: eds, ResponseNonce: first.Nonce, ResourceNames: []string{cluster("api")}})
	c.send(&discovery.DiscoveryRequest{TypeUrl: eds, ResourceNames: []string{cluster("api")}})
	c.quiet()
	c.request(eds, cluster("web"), cluster("api"))
	c.want(eds, cluster("api"))
}

func TestStateNackIsKeptAndNotAnswered(t *testing.T) {
	m := twoServices(t)
	c := m.state(proxy())
	c.request(cds)
	r := c.want(cds, cluster("api"), cluster("web"))
	c.send(&discovery.DiscoveryRequest{TypeUrl: cds, ResponseNonce: r.Nonce, ErrorDetail: &statuspb.Status{Message: "bad cluster"}})
	c.quiet()
	status := m.server.Clients()[0]
	if n := status.Types[0].Nack; n == nil || n.Reason != "bad cluster" || status.Types[0].Acked != 0 || status.Variant != "state of the world" {
		t.Errorf("status %+v, want the refusal", status)
	}
	m.set("new", "10.0.0.1:80")
	m.publish()
	c.want(cds, cluster("api"), cluster("new"), cluster("web"))
}
