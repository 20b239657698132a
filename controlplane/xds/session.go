package xds

import (
	"slices"
	"strconv"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/hostmesh/hostmesh/controlplane/compile"
)

// wildcard is the name that stands for all that the server thinks the client needs.
const wildcard = "*"

// Bounds of what one stream may ask for.
const (
	maxNames       = 100_000 // of one type
	maxName        = 1024    // bytes
	maxOutstanding = 64      // responses of one type whose answer is awaited; older ones are forgotten
)

// session is the protocol of one stream: requests in, responses out, no I/O. What a client is owed is never queued but
// computed when the stream can take it, from the state that it has to the present one, so a slow client costs nothing
// but its own delay. Its methods are safe for concurrent use.
type session struct {
	fleet  *fleet
	delta  bool
	notify func() // called, without locks, when something new may be owed
	now    func() time.Time

	mu        sync.Mutex
	node      *compile.Node // guarded by mu, as is everything below; nil until the first request
	class     *class
	interests [compile.Types]interest
	nonce     uint64
	closed    bool
}

// interest is what a stream wants of one type and what it has of it.
type interest struct {
	asked    bool // a request was seen
	named    bool // names were seen: an empty list no longer means the wildcard
	wildcard bool
	names    []string // sorted, shared; never changed in place
	group    *group   // nil until asked
	have     *state   // what has been sent; nil: nothing
	debt     debt
	answer   bool      // a response is owed even if there is nothing to say
	pending  []*part   // rest of a payload that is being sent
	removals []string  // to be said when nothing refers to them any more; sorted
	sent     []receipt // not yet acknowledged, oldest first
	status   TypeStatus
}

// part is one response to be.
type part struct {
	payload
	number uint64
}

type receipt struct{ nonce, number uint64 }

func newSession(f *fleet, delta bool, notify func()) *session {
	return &session{fleet: f, delta: delta, notify: notify, now: time.Now}
}

// open reads the node of a stream's first request.
func (s *session) open(n *corev3.Node) error {
	if s.node != nil {
		return nil
	}
	if n == nil {
		return status.Error(codes.InvalidArgument, "read first request: no node in it")
	}
	node, err := compile.ParseNode(n)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	s.node = &node
	s.class = s.fleet.enter(classKey{node.Class(), s.delta})
	return nil
}

// close gives back what s shares. Nothing is owed any more.
func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for t := range s.interests {
		if g := s.interests[t].group; g != nil {
			s.fleet.quit(s, g)
		}
	}
	if s.class != nil {
		s.fleet.leave(s.class)
	}
}

// interest returns the interest a request is about, nil when the type is not served.
func (s *session) interest(url string) (compile.Type, *interest) {
	t, ok := compile.ParseType(url)
	if !ok {
		return 0, nil
	}
	return t, &s.interests[t]
}

func hasWildcard(t compile.Type) bool { return t == compile.Cluster || t == compile.Listener }

// checkNames refuses what is too much for one stream.
func checkNames(names []string, total int) error {
	if total > maxNames {
		return status.Errorf(codes.ResourceExhausted, "read request: got %d resource names, want at most %d", total, maxNames)
	}
	for _, name := range names {
		if len(name) > maxName {
			return status.Errorf(codes.InvalidArgument, "read request: got a resource name of %d bytes, want at most %d", len(name), maxName)
		}
	}
	return nil
}

// handleDelta takes a request of the incremental variant. An error ends the stream.
func (s *session) handleDelta(req *discovery.DeltaDiscoveryRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(req.GetNode()); err != nil {
		return err
	}
	t, in := s.interest(req.GetTypeUrl())
	if in == nil || s.closed {
		return nil
	}
	if req.GetResponseNonce() != "" {
		s.receipt(in, req.GetResponseNonce(), req.GetErrorDetail())
	}
	subscribe, unsubscribe := req.GetResourceNamesSubscribe(), req.GetResourceNamesUnsubscribe()
	if in.asked && len(subscribe) == 0 && len(unsubscribe) == 0 {
		return nil
	}
	if err := checkNames(subscribe, len(in.names)+len(subscribe)); err != nil {
		return err
	}
	if !in.asked {
		if len(req.GetInitialResourceVersions()) > maxNames {
			return status.Errorf(codes.ResourceExhausted, "read request: got %d initial versions, want at most %d", len(req.GetInitialResourceVersions()), maxNames)
		}
		in.asked, in.debt.claimed = true, req.GetInitialResourceVersions()
		if len(subscribe) == 0 && hasWildcard(t) {
			in.subscribeAll()
		}
	}
	in.subscribe(t, subscribe)
	in.unsubscribe(t, unsubscribe)
	s.join(t, in)
	return nil
}

// subscribeAll adds the wildcard. All that it covers is owed, even if it was sent before.
func (in *interest) subscribeAll() {
	in.wildcard, in.answer = true, true
	in.debt.all = in.have != nil
}

// subscribe adds names. Each is answered, even if it was before.
func (in *interest) subscribe(t compile.Type, names []string) {
	added := make([]string, 0, len(names))
	first := in.have == nil && in.group == nil
	for _, name := range names {
		if name == wildcard && hasWildcard(t) {
			in.subscribeAll()
			continue
		}
		added = append(added, name)
		if !first {
			delete(in.debt.claimed, name)
		}
		in.refresh(name)
	}
	in.names = union(in.names, added)
}

// refresh makes name owed whatever the client has. A client that has nothing is owed everything anyway.
func (in *interest) refresh(name string) {
	if in.have == nil {
		return
	}
	if in.debt.fresh == nil {
		in.debt.fresh = map[string]struct{}{}
	}
	in.debt.fresh[name] = struct{}{}
}

// unsubscribe takes names away. A client that still has the wildcard cannot know whether that covers such a name, so it
// is told.
func (in *interest) unsubscribe(t compile.Type, names []string) {
	gone := make(map[string]bool, len(names))
	for _, name := range names {
		if name == wildcard && hasWildcard(t) {
			in.wildcard, in.debt.all = false, false
			continue
		}
		gone[name] = true
	}
	if len(gone) == 0 {
		return
	}
	kept := make([]string, 0, len(in.names))
	for _, name := range in.names {
		switch {
		case !gone[name]:
			kept = append(kept, name)
		case in.wildcard:
			in.refresh(name)
		default:
			delete(in.debt.fresh, name)
		}
	}
	in.names = kept
	in.removals = slices.DeleteFunc(slices.Clone(in.removals), func(name string) bool { return gone[name] && !in.wildcard })
}

// handleState takes a request of the state-of-the-world variant. An error ends the stream.
func (s *session) handleState(req *discovery.DiscoveryRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(req.GetNode()); err != nil {
		return err
	}
	t, in := s.interest(req.GetTypeUrl())
	if in == nil || s.closed {
		return nil
	}
	// A request that does not answer the last response was sent before that arrived. Another will follow.
	if last := in.status.lastNonce; last != 0 {
		if req.GetResponseNonce() != strconv.FormatUint(last, 10) {
			return nil
		}
		s.receipt(in, req.GetResponseNonce(), req.GetErrorDetail())
	}
	names := req.GetResourceNames()
	if err := checkNames(names, len(names)); err != nil {
		return err
	}
	wanted := union(nil, names)
	all := hasWildcard(t) && len(names) == 0 && !in.named
	if i, found := slices.BinarySearch(wanted, wildcard); found && hasWildcard(t) {
		wanted, all = slices.Delete(wanted, i, i+1), true
	}
	in.named = in.named || len(names) > 0
	if in.asked && all == in.wildcard && slices.Equal(wanted, in.names) {
		return nil
	}
	if all && !in.wildcard {
		in.subscribeAll()
	}
	in.asked, in.wildcard, in.debt.all = true, all, in.debt.all && all
	for _, name := range wanted {
		if _, had := slices.BinarySearch(in.names, name); !had {
			in.refresh(name)
			in.answer = true
		}
	}
	in.names = wanted
	s.join(t, in)
	return nil
}

// join makes the members of the group for what in subscribes now.
func (s *session) join(t compile.Type, in *interest) {
	sub := &subscription{wildcard: in.wildcard, names: in.names}
	in.group, in.have = s.fleet.move(s, in.group, s.class, t, sub, in.have)
	in.names = in.group.sub.names // the shared copy
	in.status.Subscribed, in.status.Wildcard = len(in.names), in.wildcard
}

// next returns the next response that is owed, or nil. What is added goes out in the order clusters, endpoints,
// listeners, routes, what is removed of the first two after that: nothing ever refers to what is not there.
func (s *session) next() *frame {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	for t := range compile.Type(compile.Types) {
		in := &s.interests[t]
		if len(in.pending) == 0 {
			s.settle(t, in)
		}
		if len(in.pending) > 0 {
			p := in.pending[0]
			in.pending = in.pending[1:]
			return s.respond(t, in, p)
		}
	}
	for _, t := range []compile.Type{compile.Cluster, compile.Endpoint} {
		in := &s.interests[t]
		if len(in.removals) == 0 {
			continue
		}
		gone, number := s.fleet.gone(in.group, in.removals)
		in.removals = nil
		if len(gone) > 0 {
			return s.respond(t, in, &part{payload{removed: gone}, number})
		}
	}
	return nil
}

// settle computes what is owed of one type and takes it for sent.
func (s *session) settle(t compile.Type, in *interest) {
	if in.group == nil {
		return
	}
	way, now, number := s.fleet.owed(in.group, in.have, in.debt)
	if now == nil {
		return // there is nothing to serve yet
	}
	first := in.have == nil
	in.have, in.debt = now, debt{}
	if way == nil {
		way = &payload{}
	}
	// A client that asked for everything is told even that there is nothing: it waits for that.
	answer := in.answer || first && in.wildcard
	in.answer = false
	for _, resources := range way.parts {
		in.pending = append(in.pending, &part{payload{parts: []mem.BufferSlice{resources}}, number})
	}
	removed := way.removed
	if len(removed) > 0 && (t == compile.Cluster || t == compile.Endpoint) {
		in.removals, removed = union(in.removals, removed), nil
	}
	switch n := len(in.pending); {
	case n > 0:
		in.pending[n-1].removed = removed
	case len(removed) > 0 || answer && len(in.removals) == 0:
		in.pending = []*part{{payload{removed: removed}, number}}
	}
}

// respond makes p a response and notes that it was sent.
func (s *session) respond(t compile.Type, in *interest, p *part) *frame {
	s.nonce++
	if len(in.sent) == maxOutstanding {
		in.sent = slices.Delete(in.sent, 0, 1)
	}
	in.sent = append(in.sent, receipt{s.nonce, p.number})
	in.status.Sent, in.status.lastNonce = p.number, s.nonce
	var resources mem.BufferSlice
	if len(p.parts) > 0 {
		resources = p.parts[0]
	}
	return newFrame(t, p.number, s.nonce, p.removed, resources)
}

// union returns the sorted union of a, which is sorted, and b. It changes neither.
func union(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	all := make([]string, 0, len(a)+len(b))
	all = append(append(all, a...), b...)
	slices.Sort(all)
	return slices.Compact(all)
}
