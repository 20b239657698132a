// Package controlplane is mesh control: it follows the catalog, compiles it for proxies and for DNS, and serves both.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/controlplane/hds"
	"github.com/hostmesh/hostmesh/controlplane/xds"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
	"github.com/hostmesh/hostmesh/dnsserver/dnstap"
	"github.com/hostmesh/hostmesh/dnsserver/forward"
	"github.com/hostmesh/hostmesh/dnsserver/transfer"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/registry"
)

// Options say what a Server serves and where. An empty address is not served.
type Options struct {
	Domain  string // of the mesh, without a trailing dot
	Catalog *registry.Catalog
	XDS     []string // "unix:/path" or a loopback host:port; any other address is refused, for xDS is not yet encrypted
	HTTP    string   // loopback host:port of the API
	DNS     DNS
	Log     *slog.Logger
}

// Server is one control plane.
type Server struct {
	domain    string
	catalog   *registry.Catalog
	log       *slog.Logger
	xds       *xds.Server
	hds       *hds.Server
	dns       *dnsserver.Server
	queryLog  *dnstap.Log        // nil without one
	forwarder *forward.Forwarder // nil without one

	forwardFor []netip.Prefix
	copies     *transfer.Primary // of the zones; nil as dns is
	keys       []*dnssec.Keys    // of the zones that are signed
	signers    []*dnssec.Signer
	unsigned   map[string]string // zones whose keys cannot be used, and why
	resources  *watch.Value[*compile.Common]
	zones      *watch.Value[[]*dnsserver.Zone]
	compiler   compiler
	listeners  []net.Listener // for xDS
	http       net.Listener
}

const (
	stopTimeout = 5 * time.Second
	apiTimeout  = time.Minute // for a client to take an answer, or to ask again
)

// New binds every TCP and unix address, so that a port that is taken is told before anything starts. If the catalog is
// settled by its sealed views, the first client is answered from them.
func New(o Options) (_ *Server, err error) {
	s := &Server{
		domain: o.Domain, catalog: o.Catalog, log: o.Log,
		resources: new(watch.Value[*compile.Common]), zones: new(watch.Value[[]*dnsserver.Zone]), unsigned: map[string]string{},
	}
	zones, err := s.zoneBuilders(o)
	if err != nil {
		return nil, err
	}
	s.compiler = compiler{options: compile.Options{Domain: o.Domain}, zones: zones}
	select {
	case <-o.Catalog.Settled(): // all from sealed views
		snapshot, _ := o.Catalog.Current()
		s.publish(snapshot)
	default:
	}
	s.xds = xds.New(xds.Options{Source: s.resources, Log: o.Log})
	s.hds = hds.New(o.Catalog, o.Log)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, addr := range o.XDS {
		l, err := listenXDS(addr)
		if err != nil {
			return nil, err
		}
		s.listeners = append(s.listeners, l)
	}
	if o.HTTP != "" {
		if s.http, err = net.Listen("tcp", o.HTTP); err != nil {
			return nil, fmt.Errorf("listen for the API: %w", err)
		}
		if !isLoopback(s.http.Addr().String()) {
			return nil, fmt.Errorf("listen for the API: got %s, want a loopback address (nobody is authenticated there)", o.HTTP)
		}
	}
	// Last, for who calls Listen must call Run.
	if o.DNS.served() {
		s.copies = transfer.New(transfer.Options{
			Zones: s.zones.Get, Renumber: o.Catalog.Renumber, Secondaries: o.DNS.secondaries(), Log: o.Log,
		})
		options := o.DNS.options(s.zones.Load, o.Log)
		options.Copies = s.copies
		s.dns, s.queryLog, s.forwarder = dnsserver.New(options), o.DNS.QueryLog, o.DNS.Forward
		s.forwardFor = o.DNS.ForwardFor
		if err := s.dns.Listen(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Server) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
	if s.http != nil {
		_ = s.http.Close()
	}
}

// Run serves until ctx ends or one of the servers fails. Clients are served from the last snapshot to the end.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.follow(ctx) })
	group.Go(func() error { return s.xds.Run(ctx) })
	group.Go(func() error { return s.hds.Run(ctx) })
	group.Go(func() error { return s.serveXDS(ctx) })
	if s.dns != nil {
		group.Go(func() error { return s.dns.Run(ctx) })
		group.Go(func() error { return s.copies.Run(ctx) })
	}
	if s.forwarder != nil {
		group.Go(func() error { return s.forwarder.Run(ctx) })
	}
	if s.queryLog != nil {
		group.Go(func() error { return s.queryLog.Run(ctx) })
	}
	for _, keys := range s.keys {
		group.Go(func() error { return keys.Run(ctx) })
	}
	if s.http != nil {
		group.Go(func() error { return s.serveHTTP(ctx) })
	}
	return group.Wait()
}

func (s *Server) serveXDS(ctx context.Context) error {
	server := grpc.NewServer(xds.GRPCOptions()...)
	discovery.RegisterAggregatedDiscoveryServiceServer(server, s.xds)
	s.hds.Register(server)
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range s.listeners {
		group.Go(func() error {
			s.log.Info("xds listening", "addr", l.Addr().String())
			if err := server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				return fmt.Errorf("serve xds on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		server.Stop() // streams never end by themselves
		return nil
	})
	return group.Wait()
}

func (s *Server) serveHTTP(ctx context.Context) error {
	server := &http.Server{
		Handler: s.apiHandler(), ReadHeaderTimeout: stopTimeout, WriteTimeout: apiTimeout, IdleTimeout: apiTimeout, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.http) }()
	s.log.Info("api listening", "addr", s.http.Addr().String())
	select {
	case err := <-failed:
		return fmt.Errorf("serve the API on %s: %w", s.http.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		return server.Close()
	}
	return nil
}
