// Package xds serves what compile makes over the aggregated discovery service (ADS), in both variants of xDS v3.
//
// A resource is marshalled once. Clients that see the same and subscribe the same share one copy of what they are owed,
// so a change costs one encoding and, for each client, one small head. What a client is owed is computed when it can
// take it: a slow one is told the latest when it is ready, holds nobody back and has no queue.
package xds

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/hostmesh/hostmesh/controlplane/compile"
)

// Source is where the state to serve comes from: the latest, nil as long as there is none, and a channel that is closed
// when there is a later one. A *watch.Value is one.
type Source interface {
	Get() (*compile.Common, <-chan struct{})
}

// Options configures a Server.
type Options struct {
	Source Source
	Log    *slog.Logger  // nil: slog.Default()
	Keep   time.Duration // how long Clients shows a client that is gone; 0: 10 minutes
}

const (
	defaultKeep = 10 * time.Minute
	maxGone     = 1000             // clients that are gone and still shown
	sweepEvery  = 10 * time.Second // prepared responses are kept that long at most
)

// Server is the discovery service. It must be registered with a grpc.Server that was made with GRPCOptions.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	source Source
	log    *slog.Logger
	keep   time.Duration
	fleet  *fleet

	mu      sync.Mutex
	streams map[*stream]struct{} // guarded by mu
	gone    []ClientStatus       // guarded by mu; oldest first
}

// New returns a Server. It serves nothing before Run has read something from its Source: streams are accepted, and
// answered then.
func New(options Options) *Server {
	s := &Server{
		source:  options.Source,
		log:     options.Log,
		keep:    options.Keep,
		fleet:   newFleet(),
		streams: map[*stream]struct{}{},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.keep == 0 {
		s.keep = defaultKeep
	}
	return s
}

// GRPCOptions are the options of a grpc.Server with which a Server is registered: the codec, which it needs, and limits
// and buffers for many clients that mostly wait. Other services may be registered there, too.
func GRPCOptions() []grpc.ServerOption {
	const readBuffer, writeBuffer, window = 4 << 10, 32 << 10, 64 << 10 // write buffers are pooled by gRPC, read buffers are not
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.ReadBufferSize(readBuffer),
		grpc.WriteBufferSize(writeBuffer),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.MaxConcurrentStreams(100),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.MaxRecvMsgSize(4 << 20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
}

// Run follows the Source until ctx ends. The streams end with the grpc.Server.
func (s *Server) Run(ctx context.Context) error {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	var last *compile.Common
	for {
		common, changed := s.source.Get()
		if common != last && common != nil {
			last = common
			for _, session := range s.fleet.update(common) {
				session.notify()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-sweep.C:
			s.fleet.sweep()
		}
	}
}

// Clients returns the clients that are connected and those that left not long ago, sorted by node.
func (s *Server) Clients() []ClientStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(time.Now())
	all := make([]ClientStatus, 0, len(s.streams)+len(s.gone))
	connected := map[string]bool{}
	for st := range s.streams {
		if c, ok := st.status(); ok {
			all, connected[c.NodeID] = append(all, c), true
		}
	}
	for _, c := range s.gone {
		if !connected[c.NodeID] {
			all = append(all, c)
		}
	}
	sortStatus(all)
	return all
}

// forget drops who left too long ago. s.mu is held.
func (s *Server) forget(now time.Time) {
	n := max(0, len(s.gone)-maxGone)
	for n < len(s.gone) && now.Sub(*s.gone[n].Disconnected) > s.keep {
		n++
	}
	s.gone = append([]ClientStatus(nil), s.gone[n:]...)
}

// DeltaAggregatedResources implements the incremental variant.
func (s *Server) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := s.newStream(g, true)
	return s.serve(st, func() (url string, nack bool, err error) {
		req, err := g.Recv()
		if err != nil {
			return "", false, err
		}
		return req.GetTypeUrl(), req.GetErrorDetail() != nil, st.session.handleDelta(req)
	})
}

// StreamAggregatedResources implements the state-of-the-world variant.
func (s *Server) StreamAggregatedResources(g discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	st := s.newStream(g, false)
	return s.serve(st, func() (url string, nack bool, err error) {
		req, err := g.Recv()
		if err != nil {
			return "", false, err
		}
		return req.GetTypeUrl(), req.GetErrorDetail() != nil, st.session.handleState(req)
	})
}

// serve takes the requests of one stream until it ends.
func (s *Server) serve(st *stream, receive func() (url string, nack bool, err error)) error {
	s.mu.Lock()
	s.streams[st] = struct{}{}
	s.mu.Unlock()
	defer s.end(st)
	var pace pace
	for {
		if err := pace.wait(st.ctx); err != nil {
			return status.FromContextError(err).Err()
		}
		url, nack, err := receive()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && st.ctx.Err() != nil:
			return status.FromContextError(st.ctx.Err()).Err()
		case err != nil:
			if status.Code(err) == codes.InvalidArgument || status.Code(err) == codes.ResourceExhausted {
				s.log.Warn("xds request refused", "peer", st.address, "error", err)
			}
			return err
		}
		if nack {
			s.logNack(st, url)
		}
		st.kick()
	}
}

func (s *Server) logNack(st *stream, url string) {
	c, _ := st.status()
	for _, t := range c.Types {
		if parsed, ok := compile.ParseType(url); ok && parsed.String() == t.Type && t.Nack != nil {
			s.log.Warn("xds response refused", "node", c.NodeID, "type", t.Type, "number", t.Nack.Number, "reason", t.Nack.Reason)
		}
	}
}

// end takes leave of a stream and keeps what an operator wants to know of it for a while.
func (s *Server) end(st *stream) {
	st.session.close()
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st)
	if c, ok := st.status(); ok {
		c.Disconnected = &now
		s.gone = slices.DeleteFunc(s.gone, func(old ClientStatus) bool { return old.NodeID == c.NodeID })
		s.gone = append(s.gone, c)
		s.forget(now)
	}
}
