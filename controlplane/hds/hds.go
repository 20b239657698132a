// Package hds asks proxies whether endpoints that are doubted can still be reached, over Envoy's Health Discovery
// Service (envoy.service.health.v3). A registry that does not report an endpoint any more is proved right by proxies
// that cannot connect to it, and wrong by one that can.
//
// A proxy opens StreamHealthCheck and is told which endpoints to connect to, with nothing sent; while nothing is
// doubted, or others are asked, that is nothing. A proxy is named by its node's ID, so it should be one of those that
// are authenticated, or local.
package hds

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	health "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	mostAsked  = 500 // endpoints at a time
	mostAskers = 16  // proxies at a time
	mostID     = 256 // bytes of a node's ID

	mostReported = 2 * mostAsked          // endpoints in one report; further ones are not looked at
	leastPause   = 100 * time.Millisecond // between two reports of a stream, of which one is due every 2 s
	patience     = 20 * time.Second       // for the first message of a stream
	settle       = time.Second            // between two changes of what is asked
	rotate       = 10 * time.Second       // then others are asked, about others, if there are more
)

// Doubts is what there is to prove, and who takes the proofs. A *registry.Catalog is one.
type Doubts interface {
	// Doubts returns what is doubted now, and a channel that is closed when that changes.
	Doubts() ([]registry.Doubted, <-chan struct{})
	// Prove takes the report of a proxy that it tried to connect.
	Prove(proxy string, at netip.AddrPort, connected bool)
}

// Server is the service. As many proxies are asked about an endpoint as its doubt needs, and one more, 16 at most; they
// are all asked about the same endpoints, 500 at a time. Where there are more of either, others have their turn after
// 10 s.
type Server struct {
	health.UnimplementedHealthDiscoveryServiceServer // FetchHealthCheck: a proof needs a stream
	doubts                                           Doubts
	log                                              *slog.Logger
	joined                                           chan struct{} // one slot: a stream came or went

	mu      sync.Mutex
	none    *health.HealthCheckSpecifier // asks for nothing; immutable
	streams map[*stream]struct{}         // guarded by mu
	asked   map[netip.AddrPort]struct{}  // guarded by mu; what the askers are told
	current *health.HealthCheckSpecifier // guarded by mu; asked as a message
}

// stream is one proxy's.
type stream struct {
	node  string
	wake  chan struct{} // one slot: what it is to be told may be another
	asker bool          // guarded by Server.mu
}

// New returns a Server. It asks nobody before it runs.
func New(doubts Doubts, log *slog.Logger) *Server {
	return &Server{
		doubts: doubts, log: log, joined: make(chan struct{}, 1),
		streams: make(map[*stream]struct{}), none: nothing(), current: nothing(),
	}
}

// Register registers the service with a gRPC server.
func (s *Server) Register(registrar grpc.ServiceRegistrar) {
	health.RegisterHealthDiscoveryServiceServer(registrar, s)
}

// Run follows the doubts until ctx ends. The streams end with the gRPC server.
func (s *Server) Run(ctx context.Context) error {
	turn := time.NewTicker(rotate)
	defer turn.Stop()
	anew := false
	for {
		doubts, changed := s.doubts.Doubts()
		s.choose(doubts, anew)
		anew = false
		select { // not at every change of many
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-s.joined:
		case <-turn.C:
			anew = true
		}
	}
}

// choose chooses what is asked and who. What is asked already stays so, unless it is to be chosen anew.
func (s *Server) choose(doubts []registry.Doubted, anew bool) {
	need := 0
	doubted := make(map[netip.AddrPort]struct{})
	for _, d := range doubts {
		for _, at := range d.Connect {
			doubted[at] = struct{}{}
			need = max(need, d.Proofs+1)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := pick(doubted, mostAsked, func(at netip.AddrPort) bool {
		_, ok := s.asked[at]
		return ok && !anew
	})
	if !equal(asked, s.asked) {
		s.current, s.asked = specifier(asked), asked
	}
	byNode := make(map[string]*stream) // one stream of a proxy, the one that is asked before others
	for st := range s.streams {
		if byNode[st.node] == nil || st.asker {
			byNode[st.node] = st
		}
	}
	candidates := make(map[*stream]struct{})
	for _, st := range byNode {
		candidates[st] = struct{}{}
	}
	askers := pick(candidates, min(need, mostAskers), func(st *stream) bool { return st.asker && !anew })
	for st := range s.streams {
		_, st.asker = askers[st]
		notify(st.wake)
	}
}

// pick returns up to n of all: first those to keep, then any.
func pick[T comparable](all map[T]struct{}, n int, keep func(T) bool) map[T]struct{} {
	var kept, others []T
	for v := range all {
		if keep(v) {
			kept = append(kept, v)
		} else {
			others = append(others, v)
		}
	}
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	picked := make(map[T]struct{})
	for _, v := range append(kept, others...) {
		if len(picked) == n {
			break
		}
		picked[v] = struct{}{}
	}
	return picked
}

func equal[T comparable](a, b map[T]struct{}) bool {
	if len(a) != len(b) {
		return false
	}
	for v := range a {
		if _, ok := b[v]; !ok {
			return false
		}
	}
	return true
}

// StreamHealthCheck serves one proxy.
func (s *Server) StreamHealthCheck(conn health.HealthDiscoveryService_StreamHealthCheckServer) error {
	first, err := receiveFirst(conn)
	if err != nil {
		return err
	}
	request := first.GetHealthCheckRequest()
	node := request.GetNode().GetId()
	switch {
	case request == nil:
		return status.Error(codes.InvalidArgument, "the first message is no HealthCheckRequest")
	case node == "" || len(node) > mostID:
		return status.Errorf(codes.InvalidArgument, "got a node ID of %d bytes, want 1 to %d", len(node), mostID)
	case !slices.Contains(request.GetCapability().GetHealthCheckProtocols(), health.Capability_TCP):
		return status.Error(codes.FailedPrecondition, "only TCP checks are asked for, and they are not among the capabilities")
	}
	st := &stream{node: node, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.streams[st] = struct{}{}
	s.mu.Unlock()
	notify(s.joined)
	s.log.Debug("a proxy may be asked to check endpoints", "node", node)
	defer func() {
		s.mu.Lock()
		delete(s.streams, st)
		s.mu.Unlock()
		notify(s.joined)
	}()

	ended := make(chan error, 1)
	go func() { ended <- s.receive(conn, st) }() // ends with conn
	var told *health.HealthCheckSpecifier        // at first a proxy is told in any case, so that it knows that it is heard
	for {
		if next := s.tell(st); next != told {
			if err := conn.Send(next); err != nil {
				return err
			}
			told = next
		}
		select {
		case err := <-ended:
			return err
		case <-conn.Context().Done():
			return conn.Context().Err()
		case <-st.wake:
		}
	}
}

// receiveFirst ends a stream whose client says nothing. What still receives then ends with it.
func receiveFirst(conn health.HealthDiscoveryService_StreamHealthCheckServer) (*health.HealthCheckRequestOrEndpointHealthResponse, error) {
	var (
		m        *health.HealthCheckRequestOrEndpointHealthResponse
		err      error
		received = make(chan struct{})
	)
	go func() {
		defer close(received)
		m, err = conn.Recv()
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-received:
		return m, err
	case <-late.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "no request came within %v", patience)
	}
}

// tell returns what a stream is to be told.
func (s *Server) tell(st *stream) *health.HealthCheckSpecifier {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.asker {
		return s.current
	}
	return s.none
}

// receive takes reports until the stream ends.
func (s *Server) receive(conn health.HealthDiscoveryService_StreamHealthCheckServer, st *stream) error {
	for {
		message, err := conn.Recv()
		if err != nil {
			return err
		}
		// Requests that come again say nothing new.
		n := 0
		for at, connected := range reports(message.GetEndpointHealthResponse()) {
			if n++; n > mostReported {
				break // nobody was asked about so many
			}
			if s.asks(st, at) {
				s.doubts.Prove(st.node, at, connected)
			}
		}
		select { // who says more than is asked for is read slowly, and then waits itself
		case <-conn.Context().Done():
			return conn.Context().Err()
		case <-time.After(leastPause):
		}
	}
}

// asks reports whether a stream is asked about an address.
func (s *Server) asks(st *stream, at netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.asked[at]
	return ok && st.asker
}

func notify(slot chan<- struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}
