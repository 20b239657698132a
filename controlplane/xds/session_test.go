package xds

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/registry"
)

// world is a fleet whose services a test makes come, change and go.
type world struct {
	fleet    *fleet
	common   *compile.Common
	services map[int]*registry.Service
	number   uint64
}

func newWorld() *world { return &world{fleet: newFleet(), services: map[int]*registry.Service{}} }

func worldName(i int) string { return fmt.Sprintf("s%d", i) }

// set gives service i one endpoint at that port; port 0 takes the service away.
func (w *world) set(i, port int) {
	if port == 0 {
		delete(w.services, i)
		return
	}
	w.services[i] = &registry.Service{
		Name:  registry.Name{Namespace: "default", Name: worldName(i)},
		Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
		Endpoints: []*registry.Endpoint{{
			ID: "e", Addr: netip.MustParseAddr("10.0.0.1"), Ports: []registry.EndpointPort{{Number: uint16(port)}}, Weight: 1,
		}},
	}
}

func (w *world) publish() []*session {
	w.compile()
	return w.fleet.update(w.common)
}

// compile makes a state that nobody is told of: a server that is busy skips some.
func (w *world) compile() {
	w.number++
	s := &registry.Snapshot{Number: w.number}
	for _, svc := range w.services {
		s.Services = append(s.Services, svc)
	}
	slices.SortFunc(s.Services, func(a, b *registry.Service) int { return a.Name.Compare(b.Name) })
	w.common = compile.Update(w.common, s, compile.Options{})
}

func worldNode(upstreams ...any) *corev3.Node {
	metadata, err := structpb.NewStruct(map[string]any{"upstreams": upstreams})
	if err != nil {
		panic(err)
	}
	return &corev3.Node{Id: "n", Metadata: metadata}
}

// decode reads a frame as a client does.
func decode[M proto.Message](t *testing.T, f *frame, m M) M {
	t.Helper()
	data, err := newCodec().Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(data.Materialize())}, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func clusterName(i int) string { return "outbound|80||" + worldName(i) + ".default.mesh.internal" }

func subscribed(t *testing.T, w *world, typ compile.Type, names ...string) *session {
	t.Helper()
	s := newSession(w.fleet, true, func() {})
	err := s.handleDelta(&discovery.DeltaDiscoveryRequest{Node: worldNode(), TypeUrl: typ.URL(), ResourceNamesSubscribe: names})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drain(s *session) (n int) {
	for s.next() != nil {
		n++
	}
	return n
}

func TestAChangeTouchesOnlyWhoSubscribedTheName(t *testing.T) {
	w := newWorld()
	for i := range 10 {
		w.set(i, 80)
	}
	w.publish()
	one := subscribed(t, w, compile.Endpoint, clusterName(1))
	both := subscribed(t, w, compile.Endpoint, clusterName(1), clusterName(2))
	other := subscribed(t, w, compile.Endpoint, clusterName(2))
	clusters := subscribed(t, w, compile.Cluster, "*")
	for _, s := range []*session{one, both, other, clusters} {
		drain(s)
	}
	w.set(1, 81)
	touched := w.publish()
	if len(touched) != 2 || !slices.Contains(touched, one) || !slices.Contains(touched, both) {
		t.Errorf("%d sessions touched, want the two that subscribed the name", len(touched))
	}
	if drain(other)+drain(clusters) != 0 || drain(one) != 1 || drain(both) != 1 {
		t.Error("want one response for each who subscribed the name and none for the others")
	}
}

func TestEqualSubscriptionsShareWhatTheyAreSent(t *testing.T) {
	w := newWorld()
	w.set(1, 80)
	w.publish()
	a := subscribed(t, w, compile.Endpoint, clusterName(1), clusterName(2))
	b := subscribed(t, w, compile.Endpoint, clusterName(2), clusterName(1))
	drain(a)
	drain(b)
	if a.interests[compile.Endpoint].group != b.interests[compile.Endpoint].group {
		t.Fatal("two groups for one subscription")
	}
	w.set(1, 81)
	w.publish()
	x, y := a.next(), b.next()
	if &x.shared[0].ReadOnlyData()[0] != &y.shared[0].ReadOnlyData()[0] {
		t.Error("the resource was copied for each client")
	}
	for _, s := range []*session{a, b} {
		s.close()
		s.close()
	}
	if len(w.fleet.classes) != 0 {
		t.Error("something is kept for clients that are gone")
	}
}

// A client that takes nothing is owed the latest, not all that there was, and holds nobody back.
func TestASlowClientHasNoQueue(t *testing.T) {
	w := newWorld()
	w.set(1, 80)
	w.publish()
	slow, fast := subscribed(t, w, compile.Endpoint, clusterName(1)), subscribed(t, w, compile.Endpoint, clusterName(1))
	drain(slow)
	drain(fast)
	for port := 81; port < 1081; port++ {
		w.set(1, port)
		w.publish()
		if n := drain(fast); n != 1 {
			t.Fatalf("the fast client got %d responses for a change", n)
		}
	}
	r := decode(t, slow.next(), &discovery.DeltaDiscoveryResponse{})
	if len(r.Resources) != 1 || r.SystemVersionInfo != fmt.Sprint(w.number) {
		t.Errorf("the slow client got %d resources of %s, want one of %d", len(r.Resources), r.SystemVersionInfo, w.number)
	}
	if slow.next() != nil {
		t.Error("the slow client is owed more than the latest")
	}
	if n := len(slow.interests[compile.Endpoint].group.memo); n > 2 {
		t.Errorf("%d ways are remembered", n)
	}
	w.set(1, 5000)
	w.publish()
	w.set(1, 1080) // back to what the slow client has
	w.publish()
	if slow.next() != nil {
		t.Error("a change that was taken back is sent")
	}
}

func TestALargeAnswerComesInParts(t *testing.T) {
	w := newWorld()
	var names []string
	for i := range 3000 {
		w.set(i, 80)
		names = append(names, fuzzName(compile.Listener, i))
	}
	w.publish()
	s := subscribed(t, w, compile.Listener, names...)
	seen := map[string]bool{}
	parts := 0
	for f := s.next(); f != nil; f = s.next() {
		parts++
		size := len(f.head)
		for _, b := range f.shared {
			size += b.Len()
		}
		if size > maxPart+4096 {
			t.Errorf("part %d has %d bytes", parts, size)
		}
		for _, r := range decode(t, f, &discovery.DeltaDiscoveryResponse{}).Resources {
			seen[r.Name] = true
		}
	}
	if parts < 2 || len(seen) != len(names) {
		t.Errorf("%d resources in %d parts, want %d in more than one", len(seen), parts, len(names))
	}
}

func TestUnacknowledgedResponsesAreBounded(t *testing.T) {
	w := newWorld()
	w.set(1, 80)
	w.publish()
	s := subscribed(t, w, compile.Endpoint, clusterName(1))
	for i := range 10 * maxOutstanding {
		w.set(1, 100+i)
		w.publish()
		drain(s)
	}
	in := &s.interests[compile.Endpoint]
	if len(in.sent) != maxOutstanding {
		t.Errorf("%d receipts are kept, want %d", len(in.sent), maxOutstanding)
	}
	refused := &statuspb.Status{Message: string(make([]byte, 1<<20))}
	err := s.handleDelta(&discovery.DeltaDiscoveryRequest{TypeUrl: compile.Endpoint.URL(), ResponseNonce: fmt.Sprint(s.nonce), ErrorDetail: refused})
	if err != nil || len(in.sent) != 0 || in.status.Nack == nil || len(in.status.Nack.Reason) > maxReason+4 {
		t.Errorf("after a NACK: %v, %d receipts, reason of %d bytes", err, len(in.sent), len(in.status.Nack.Reason))
	}
}

func TestAFloodOfRequestsIsReadSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		start := time.Now()
		for range 5*maxRequests + 1 {
			if err := p.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("%d requests were taken in %v, want 5s", 5*maxRequests+1, took)
		}
		time.Sleep(time.Minute)
		if p.wait(t.Context()) != nil || time.Since(start) != 65*time.Second {
			t.Error("a stream that was quiet has to wait")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range maxRequests {
			if p.wait(ctx) != nil {
				return
			}
		}
		t.Error("a stream that ended waits")
	})
}

func TestWhoLeftIsForgotten(t *testing.T) {
	s := New(Options{Keep: time.Minute})
	now := time.Now()
	for i := range maxGone + 10 {
		at := now.Add(time.Duration(i) * time.Millisecond)
		s.gone = append(s.gone, ClientStatus{NodeID: fmt.Sprint(i), Disconnected: &at})
	}
	s.forget(now)
	if len(s.gone) != maxGone || s.gone[0].NodeID != "10" {
		t.Errorf("%d are kept, want the last %d", len(s.gone), maxGone)
	}
	s.forget(now.Add(time.Minute + 500*time.Millisecond))
	if len(s.gone) != maxGone+10-500 {
		t.Errorf("%d are kept, want those of the last minute, %d", len(s.gone), maxGone+10-500)
	}
}

// Another subscription must not make a client that lags behind look up to date.
func TestALaggingClientThatSubscribesMoreIsOwedBoth(t *testing.T) {
	w := newWorld()
	w.set(1, 80)
	w.set(2, 80)
	w.set(3, 80)
	w.publish()
	s := subscribed(t, w, compile.Endpoint, clusterName(1), clusterName(3))
	drain(s)
	w.set(1, 81)
	w.publish()
	err := s.handleDelta(&discovery.DeltaDiscoveryRequest{TypeUrl: compile.Endpoint.URL(), ResourceNamesSubscribe: []string{clusterName(2)}})
	if err != nil {
		t.Fatal(err)
	}
	r := decode(t, s.next(), &discovery.DeltaDiscoveryResponse{})
	if len(r.Resources) != 2 || r.Resources[0].Name != clusterName(1) || r.Resources[1].Name != clusterName(2) {
		t.Errorf("response %v, want what changed and what was subscribed", r.Resources)
	}
	if s.next() != nil {
		t.Error("more is sent than that")
	}
}
