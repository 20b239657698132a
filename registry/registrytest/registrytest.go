// Package registrytest is the suite that every registry adapter must pass.
//
// An adapter's test hands over a way to start a real server, to change the truth in it, and to make it fail; the suite
// runs Watch as the Catalog does, with its pauses, and judges every view that is published:
//
//	registrytest.Run(t, registrytest.Harness{
//		New:    func(t *testing.T) (registry.Registry, registrytest.Driver) { … },
//		Cannot: map[registrytest.Case]string{registrytest.PermissionLost: "a directory has no permissions of its own"},
//	})
//
// A ledger of what the Driver did says what a view may hold. A view may lag behind, but it never goes back: an endpoint
// that was there when Watch was first called, or that a view has shown, is in every later view until the Driver begins to
// remove it; and one that a view no longer shows stays away until it is put again. This holds in every case, in and after
// every fault, for the shortest-lived view, and from one call of Watch to the next. So the Driver's way into the server
// must not go through what is made to fail, and must not remove what it does not mean to remove.
//
// Start with the cases up to NoGoroutineLeft, name the others in Cannot, then give Faults one by one. A fault between
// the adapter and the server is best made by a link of e2e/testbed that the Driver does not use. Run the suite once for
// each mode that differs in how the adapter reads (TLS, users, a cluster); what another mode shows may be named in Cannot.
//
//	HOSTMESH_SEED=n    repeats the random choices of a run that printed n
//	HOSTMESH_SOAK=3m   faults last a minute, Churn and Chaos that long
//
// Large puts 10,000 services only where the race detector is off.
package registrytest

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// Harness is what an adapter gives to the suite.
type Harness struct {
	// New starts a server that holds no service of the suite, with everything it needs to be reached, and ends it by
	// t.Cleanup. Services of the server's own (Consul's "consul") may be there. It is called once for each case.
	New func(t *testing.T) (registry.Registry, Driver)
	// Prefix is where the suite's endpoints are, of length 16; the zero Prefix is 127.20.0.0/16. For a registry that
	// refuses loopback addresses.
	Prefix netip.Prefix
	// Settle is how long a change may take to be published and Watch to return; 0 means 10 s.
	Settle time.Duration
	// Cannot names the cases that this registry has no notion of, each with the reason. A case that is not named is
	// run, and fails when the Driver lacks what it needs.
	Cannot map[Case]string
	// Services is how many services Large puts, of ten endpoints each; 0 means 10,000, and 1,000 under the race detector.
	Services int
	// Parallel is how many goroutines may call Put and Delete at a time, for different services, in Churn; 0 means one.
	Parallel int
}

// Driver changes the truth in the server. Each function returns when the server has taken the change, and fails t
// when it did not. Put and Delete are always needed; the others may be nil when Cannot names the cases that need them.
//
// The services that the suite puts are in the default namespace and have one unnamed port of protocol http; their
// endpoints are at addresses of Harness.Prefix: on loopback, where a check may really be answered. The adapter may call
// endpoints and that port as it likes, and add labels.
type Driver struct {
	// Put makes the service be exactly that: endpoints that are not in it any more leave. One that stays is never away
	// meanwhile, and what was put outlives a fault.
	Put func(t *testing.T, s *registry.Service)
	// Delete removes the service with all its endpoints.
	Delete func(t *testing.T, name registry.Name)
	// SetHealth makes the one endpoint at addr healthy, unhealthy. For HealthChange.
	SetHealth func(t *testing.T, name registry.Name, addr netip.Addr, health registry.Health)
	// Down makes the server unreachable, Up brings it back with the truth it had. For DownAndUp.
	Down, Up func(t *testing.T)
	// Deny takes the permission to read from the registry under test, Allow gives it back. For PermissionLost.
	Deny, Allow func(t *testing.T)
	// PutAll puts many services that are new, as fast as the server takes them. For Large; Put is used without it.
	PutAll func(t *testing.T, services []*registry.Service)
	// Faults are the ways in which this registry can be made to fail, for the cases of those names.
	Faults map[Fault]Injection
}

// Fault is a way in which a registry fails. Each is a case of its own, named in Cannot where the registry has no notion
// of it: the suite begins it under a watched truth, changes the truth where it can, ends it, and wants the truth in the
// view within two seconds; in between nothing may vanish that the server had not removed.
type Fault = Case

// The faults.
const (
	ServerKilled Fault = "ServerKilled" // SIGKILL, and back with its data
	LeaderKilled Fault = "LeaderKilled" // the leader of a cluster; the others go on, and it comes back at the end
	ServerPaused Fault = "ServerPaused" // SIGSTOP: connections stay open, nothing answers
	Partition    Fault = "Partition"    // the network swallows everything, both ways
	SlowAnswers  Fault = "SlowAnswers"  // every answer comes seconds late
	Truncated    Fault = "Truncated"    // connections end in the middle of an answer
	Garbage      Fault = "Garbage"      // answers are damaged on their way: over TLS, as nothing else tells a damaged letter
	HistoryLost  Fault = "HistoryLost"  // compaction, session expiry, 410 Gone: what was watched cannot be resumed
)

// Injection begins and ends a Fault. Both return when that is done; what the server needs until it answers again
// belongs to End. End is called after a Begin that failed t, too.
type Injection struct {
	Begin, End func(t *testing.T)
	// Writable says that Put and Delete work during the fault, on a way around it.
	Writable bool
	// Blameless says that Watch may go on without an error: the fault may pass unnoticed. Else the fault lasts until
	// Watch returned one, at most Settle.
	Blameless bool
}

// Case is one case of the suite.
type Case string

// The cases, in the order in which they are run. In each of them every view must validate, a service that did not
// change must keep its pointer and its content, publish must not be called concurrently nor after Watch returned, and
// Watch must return soon after its context ended.
const (
	EmptyView       Case = "EmptyView"       // a server without services is a view too, and the first one
	FirstView       Case = "FirstView"       // the first view holds everything that was there before Watch
	Add             Case = "Add"             // a service, and an endpoint, that is added
	Change          Case = "Change"          // an endpoint's port number changes
	Remove          Case = "Remove"          // an endpoint is removed, then the service
	Labels          Case = "Labels"          // labels arrive at the endpoint or the service, and change
	Weight          Case = "Weight"          // weights arrive
	Protocol        Case = "Protocol"        // the port's protocol arrives
	HealthChange    Case = "HealthChange"    // an endpoint turns unhealthy, and healthy again
	DownAndUp       Case = "DownAndUp"       // Watch says that the server is away, loses nothing, and sees the next change
	PermissionLost  Case = "PermissionLost"  // Watch returns ErrPermission, loses nothing, and sees the next change; what is removed meanwhile is gone afterwards, and not before
	PointerIdentity Case = "PointerIdentity" // a change of one service leaves the pointer of the others
	NoGoroutineLeft Case = "NoGoroutineLeft" // what Watch started is gone when it returned; it may be called again
	// The faults come here, each a case of its own: the truth is changed before, meanwhile (if Writable) and after, and
	// a call of Watch is ended meanwhile.
	Large Case = "Large" // 10,000 services of 10 endpoints: the first view is complete, a change arrives
	Churn Case = "Churn" // rapid random changes: none is lost
	Chaos Case = "Chaos" // random faults and changes, one after the other: then the truth, and in between nothing vanishes
)

var cases = [...]struct {
	name Case
	run  func(*suite)
}{
	{EmptyView, (*suite).emptyView},
	{FirstView, (*suite).firstView},
	{Add, (*suite).add},
	{Change, (*suite).change},
	{Remove, (*suite).remove},
	{Labels, (*suite).labels},
	{Weight, (*suite).weight},
	{Protocol, (*suite).protocol},
	{HealthChange, (*suite).healthChange},
	{DownAndUp, (*suite).downAndUp},
	{PermissionLost, (*suite).permissionLost},
	{PointerIdentity, (*suite).pointerIdentity},
	{NoGoroutineLeft, (*suite).noGoroutineLeft},
	{ServerKilled, fault(ServerKilled)},
	{LeaderKilled, fault(LeaderKilled)},
	{ServerPaused, fault(ServerPaused)},
	{Partition, fault(Partition)},
	{SlowAnswers, fault(SlowAnswers)},
	{Truncated, fault(Truncated)},
	{Garbage, fault(Garbage)},
	{HistoryLost, fault(HistoryLost)},
	{Large, (*suite).large},
	{Churn, (*suite).churn},
	{Chaos, (*suite).chaos},
}

// Run runs every case as a subtest of t, one after the other. Nothing else should run in the process meanwhile, as
// goroutines are counted. A case in h.Cannot is listed with its reason instead.
func Run(t *testing.T, h Harness) {
	h.Settle = cmp.Or(h.Settle, 10*time.Second)
	h.Services = cmp.Or(h.Services, LargeServices)
	if !h.Prefix.IsValid() {
		h.Prefix = netip.MustParsePrefix("127.20.0.0/16")
	}
	if h.Prefix.Bits() != 16 || !h.Prefix.Addr().Is4() {
		t.Fatalf("Prefix is %s, want one of IPv4 and of length 16", h.Prefix)
	}
	record, seed := new(record), seed(t)
	known := make(map[Case]bool, len(cases))
	for _, c := range cases {
		known[c.name] = true
		t.Run(string(c.name), func(t *testing.T) {
			if reason, ok := h.Cannot[c.name]; ok {
				if reason == "" {
					t.Errorf("Cannot[%s] gives no reason", c.name)
				}
				t.Logf("not run, this registry cannot: %s", reason)
				return
			}
			c.run(newSuite(t, h, record, seed))
		})
	}
	for _, c := range slices.Sorted(maps.Keys(h.Cannot)) {
		if !known[c] {
			t.Errorf("Cannot names %q, which is no case", c)
		}
	}
	if s := record.String(); s != "" {
		t.Logf("settled at the latest: %s", s)
	}
}
