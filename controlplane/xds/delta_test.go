package xds_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func twoServices(t *testing.T) *mesh {
	m := newMesh(t)
	m.set("api", "10.0.0.1:80")
	m.set("web", "10.0.0.2:80")
	m.publish()
	return m
}

func TestDeltaNamedSubscription(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy())
	c.subscribe(eds, cluster("web"))
	r := c.want(eds, cluster("web"))
	var cla endpointv3.ClusterLoadAssignment
	if err := r.Resources[0].Resource.UnmarshalTo(&cla); err != nil {
		t.Fatal(err)
	}
	if got := cla.Endpoints[0].LbEndpoints[0].GetEndpoint().Address.GetSocketAddress().Address; got != "10.0.0.2" {
		t.Errorf("endpoint %s, want 10.0.0.2", got)
	}
	if r.SystemVersionInfo != fmt.Sprint(m.number) {
		t.Errorf("system_version_info %s, want the snapshot's number %d", r.SystemVersionInfo, m.number)
	}
	c.ack(r)
	c.quiet()

	m.set("api", "10.0.0.9:80") // not subscribed
	m.publish()
	c.quiet()
	m.set("web", "10.0.0.3:80")
	number := m.publish()
	if r := c.want(eds, cluster("web")); r.SystemVersionInfo != number {
		t.Errorf("system_version_info %s, want %s", r.SystemVersionInfo, number)
	}
}

func TestDeltaWildcard(t *testing.T) {
	for _, subscribe := range [][]string{{"*"}, nil} {
		t.Run(fmt.Sprintf("%q", subscribe), func(t *testing.T) {
			m := twoServices(t)
			c := m.delta(proxy())
			c.subscribe(cds, subscribe...)
			c.want(cds, cluster("api"), cluster("web"))
			m.set("new", "10.0.0.1:80")
			m.publish()
			c.want(cds, cluster("new"))
			m.drop("api")
			m.publish()
			c.want(cds, "-"+cluster("api"))
			c.quiet()
		})
	}
}

func TestDeltaWildcardIsTheScope(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy("web"))
	c.subscribe(cds, "*")
	c.want(cds, cluster("web"))
	c.subscribe(lds, "*")
	c.want(lds, "outbound", listener("web"))
	m.set("new", "10.0.0.1:80")
	m.publish()
	c.quiet()
	c.subscribe(cds, cluster("new")) // out of scope: by name
	c.want(cds, cluster("new"))
}

func TestDeltaEmptyWildcardIsAnswered(t *testing.T) {
	m := newMesh(t)
	m.publish()
	c := m.delta(proxy())
	c.subscribe(cds, "*")
	c.want(cds)
}

func TestDeltaEmptySubscriptionIsNoWildcardForNamedTypes(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy())
	c.subscribe(eds)
	c.subscribe(rds)
	c.quiet()
}

func TestDeltaLegacyWildcardStaysUntilUnsubscribed(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy("web"))
	c.subscribe(cds)
	c.want(cds, cluster("web"))
	c.subscribe(cds, cluster("api"))
	c.want(cds, cluster("api"))
	m.drop("web")
	m.publish()
	c.want(cds, "-"+cluster("web"))
	c.unsubscribe(cds, "*")
	c.quiet()
	m.set("web", "10.0.0.1:80")
	m.publish()
	c.quiet()
	m.drop("api")
	m.publish()
	c.want(cds, "-"+cluster("api"))
	c.unsubscribe(cds, cluster("api"))
	c.subscribe(cds) // nothing asked: no wildcard any more
	c.quiet()
	m.set("api", "10.0.0.1:80")
	m.publish()
	c.quiet()
}

func TestDeltaUnknownNameIsAnsweredAtOnceAndRemembered(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy())
	for url, name := range map[string]string{cds: cluster("new"), eds: cluster("new"), lds: listener("new"), rds: routes("new")} {
		c.subscribe(url, name)
		c.want(url, "-"+name)
	}
	c.quiet()
	m.set("new", "10.0.0.1:80")
	m.publish()
	c.want(cds, cluster("new"))
	c.want(eds, cluster("new"))
	c.want(lds, listener("new"))
	c.want(rds, routes("new"))
	c.quiet()
}

func TestDeltaMakesBeforeItBreaks(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy("web", "new", "*"))
	c.subscribe(cds, "*")
	c.want(cds, cluster("api"), cluster("web"))
	c.subscribe(eds, cluster("web"), cluster("new"))
	c.want(eds, cluster("web"))
	c.want(eds, "-"+cluster("new"))
	c.subscribe(lds, "*")
	c.want(lds, "outbound", listener("web"))
	c.subscribe(rds, "outbound", routes("web"))
	c.want(rds, "outbound", routes("web"))
	m.drop("web")
	m.set("new", "10.0.0.7:80")
	m.publish()
	c.want(cds, cluster("new"))
	c.want(eds, cluster("new"))
	c.want(lds, listener("new"), "-"+listener("web"))
	c.want(rds, "outbound", "-"+routes("web"))
	c.want(cds, "-"+cluster("web"))
	c.want(eds, "-"+cluster("web"))
	c.quiet()
}

func TestDeltaUnsubscribe(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy())
	c.subscribe(eds, cluster("web"), cluster("api"))
	c.want(eds, cluster("web"), cluster("api"))
	c.unsubscribe(eds, cluster("web"))
	c.quiet()
	m.set("web", "10.1.0.1:80")
	m.publish()
	c.quiet()
	m.set("api", "10.1.0.1:80")
	m.publish()
	c.want(eds, cluster("api"))
	c.unsubscribe(eds, cluster("api"), "never subscribed")
	c.quiet()
	m.set("api", "10.1.0.2:80")
	m.publish()
	c.quiet()
	c.subscribe(eds, cluster("web")) // again: what changed meanwhile is there
	c.want(eds, cluster("web"))
}

func TestDeltaSubscribedAgainIsSentAgain(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy())
	c.subscribe(eds, cluster("web"), cluster("api"))
	c.want(eds, cluster("web"), cluster("api"))
	c.subscribe(eds, cluster("web"))
	c.want(eds, cluster("web"))
	c.subscribe(cds, "*")
	c.want(cds, cluster("web"), cluster("api"))
	c.subscribe(cds, "*")
	c.want(cds, cluster("web"), cluster("api"))
	c.quiet()
}

// Who has the wildcard and gives up a name of it cannot know whether it keeps the resource: it is told.
func TestDeltaUnsubscribeUnderWildcardIsAnswered(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy("web"))
	c.subscribe(cds, "*", cluster("web"), cluster("api"))
	c.want(cds, cluster("web"), cluster("api"))
	c.unsubscribe(cds, cluster("web"))
	c.want(cds, cluster("web"))
	c.unsubscribe(cds, cluster("api"))
	c.want(cds, "-"+cluster("api"))
	c.quiet()
}

func TestDeltaReconnectSendsDifferencesOnly(t *testing.T) {
	m := twoServices(t)
	m.set("old", "10.0.0.4:80")
	m.publish()
	first := m.delta(proxy())
	first.subscribe(eds, cluster("web"), cluster("api"), cluster("old"))
	had := map[string]string{}
	for _, r := range first.want(eds, cluster("web"), cluster("api"), cluster("old")).Resources {
		had[r.Name] = r.Version
	}
	first.subscribe(cds)
	hadClusters := map[string]string{}
	for _, r := range first.want(cds, cluster("web"), cluster("api"), cluster("old")).Resources {
		hadClusters[r.Name] = r.Version
	}
	first.cancel()

	m.drop("old")
	m.set("web", "10.7.0.1:80")
	m.set("new", "10.7.0.2:80")
	m.publish()
	c := m.delta(proxy())
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: eds, InitialResourceVersions: had, ResourceNamesSubscribe: []string{cluster("web"), cluster("api"), cluster("old")}})
	c.want(eds, cluster("web"))
	c.want(eds, "-"+cluster("old"))
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: cds, InitialResourceVersions: hadClusters})
	c.want(cds, cluster("new"))
	c.want(cds, "-"+cluster("old"))
	c.quiet()

	// Nothing new: the wildcard is answered all the same, for the client waits for it.
	same := m.delta(proxy())
	now := map[string]string{}
	c.subscribe(cds, "*")
	for _, r := range c.want(cds, cluster("api"), cluster("new"), cluster("web")).Resources {
		now[r.Name] = r.Version
	}
	same.send(&discovery.DeltaDiscoveryRequest{TypeUrl: cds, InitialResourceVersions: now})
	same.want(cds)
}

func TestDeltaStatusOfAckAndNack(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy())
	c.subscribe(eds, cluster("web"))
	first := c.want(eds, cluster("web"))
	c.ack(first)
	m.set("web", "10.1.1.1:80")
	m.publish()
	second := c.want(eds, cluster("web"))
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: eds, ResponseNonce: second.Nonce, ErrorDetail: &statuspb.Status{Code: 3, Message: "no such thing"}})
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: eds, ResponseNonce: "77"}) // never sent
	c.quiet()                                                                   // a NACK is not answered with the same again

	clients := m.server.Clients()
	if len(clients) != 1 || len(clients[0].Types) != 1 {
		t.Fatalf("Clients() = %+v, want one with one type", clients)
	}
	got := clients[0].Types[0]
	if clients[0].NodeID != "host-1" || clients[0].Kind != "proxy" || clients[0].Disconnected != nil || clients[0].Connected.IsZero() {
		t.Errorf("client %+v", clients[0])
	}
	if fmt.Sprint(got.Acked) != first.SystemVersionInfo || fmt.Sprint(got.Sent) != second.SystemVersionInfo || got.Type != "EDS" {
		t.Errorf("status %+v, want %s acknowledged and %s sent", got, first.SystemVersionInfo, second.SystemVersionInfo)
	}
	if got.Nack == nil || got.Nack.Reason != "no such thing" || fmt.Sprint(got.Nack.Number) != second.SystemVersionInfo || got.Nack.Time.IsZero() {
		t.Errorf("nack %+v, want the client's words about %s", got.Nack, second.SystemVersionInfo)
	}

	m.set("web", "10.1.1.2:80")
	m.publish()
	c.ack(c.want(eds, cluster("web")))
	c.quiet()
	if got := m.server.Clients()[0].Types[0]; got.Nack != nil || got.Acked != m.number {
		t.Errorf("status %+v after a later one was accepted", got)
	}
}

func TestClientsKnowsWhoLeft(t *testing.T) {
	m := twoServices(t)
	c := m.delta(proxy())
	c.subscribe(cds, "*")
	c.want(cds, cluster("web"), cluster("api"))
	c.cancel()
	until(t, func() bool { all := m.server.Clients(); return len(all) == 1 && all[0].Disconnected != nil })
	again := m.delta(proxy())
	again.subscribe(cds, "*")
	again.want(cds, cluster("web"), cluster("api"))
	if all := m.server.Clients(); len(all) != 1 || all[0].Disconnected != nil {
		t.Errorf("Clients() = %+v, want the one that is back", all)
	}
}

func TestDeltaBeforeThereIsAnything(t *testing.T) {
	m := newMesh(t)
	c := m.delta(proxy())
	c.subscribe(cds, "*")
	c.subscribe(eds, cluster("web"), cluster("gone"))
	until(t, func() bool { all := m.server.Clients(); return len(all) == 1 && len(all[0].Types) == 2 })
	m.set("web", "10.0.0.1:80")
	m.publish()
	c.want(cds, cluster("web"))
	c.want(eds, cluster("web"))
	c.want(eds, "-"+cluster("gone"))
	c.quiet()
}

func TestHostileRequestsEndTheirStream(t *testing.T) {
	m := twoServices(t)
	many := slices.Repeat([]string{"x"}, 100_001)
	bad, err := proxy("We b"), error(nil)
	for _, c := range []struct {
		name string
		req  *discovery.DeltaDiscoveryRequest
		code codes.Code
		want string
	}{
		{"no node", &discovery.DeltaDiscoveryRequest{TypeUrl: cds}, codes.InvalidArgument, "no node"},
		{"many names", &discovery.DeltaDiscoveryRequest{Node: proxy(), TypeUrl: eds, ResourceNamesSubscribe: many}, codes.ResourceExhausted, "want at most 100000"},
		{"long name", &discovery.DeltaDiscoveryRequest{Node: proxy(), TypeUrl: eds, ResourceNamesSubscribe: []string{strings.Repeat("x", 1025)}}, codes.InvalidArgument, "1025 bytes"},
		{"bad upstreams", &discovery.DeltaDiscoveryRequest{Node: bad, TypeUrl: cds}, codes.InvalidArgument, "metadata.upstreams"},
		{"huge message", &discovery.DeltaDiscoveryRequest{Node: &corev3.Node{Id: strings.Repeat("x", 5<<20)}}, codes.ResourceExhausted, "larger than max"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := m.delta(nil)
			if err = client.stream.Send(c.req); err == nil {
				_, err = client.stream.Recv()
			}
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("stream ended with %v, want %s with %q", err, c.code, c.want)
			}
		})
	}
	c := m.delta(proxy())
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/no.such.Type", ResourceNamesSubscribe: []string{"a"}})
	c.subscribe(cds, "*")
	c.want(cds, cluster("web"), cluster("api"))
}
