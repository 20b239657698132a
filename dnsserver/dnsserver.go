// Package dnsserver answers for zones, authoritatively: RFC 1034 and 1035, with EDNS (RFC 6891) over UDP and TCP
// (RFC 7766), negative answers as RFC 2308, SRV as RFC 2782, ANY as RFC 8482, errors explained as RFC 8914. A zone that has a
// signer is signed while it is served (RFC 4035), and what does not exist is denied as RFC 9824. Queries may be signed (TSIG, RFC
// 8945), and zones copied (AXFR, RFC 5936; IXFR, RFC 1995).
//
// A Zone is immutable; the server asks for the current one at every query. It knows nothing of where a zone comes from.
package dnsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

// Options say where to listen and what to answer.
type Options struct {
	// Addrs are IP:port pairs on which UDP and TCP are served. ":port" means all addresses of the host, IPv4 and IPv6;
	// with port 0 the system picks one, the same for UDP and TCP.
	Addrs []string
	// Given are sockets of another process, see Server.Sockets: those of an address of Addrs are used in the place of new ones. Listen closes
	// them; it uses copies.
	Given []int
	// TLS and HTTPS are such pairs for DNS over TLS (RFC 7858) and over HTTPS (RFC 8484, at Path), with certificates from
	// Certificate, which is asked at each handshake.
	TLS, HTTPS  []string
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Zones returns the current zones; none means that there is none yet, which is answered with SERVFAIL. It is called
	// concurrently and must not block; what it returns is not changed any more.
	Zones func() []*Zone
	Log   *slog.Logger
	// Await, if set, is called for each query within a zone that has nothing at the name, before it is answered. It returns when
	// Zones has what there is of that name, written as in zone files, or why it is not known; that is answered with SERVFAIL and told
	// (RFC 8914), see Failure. It is called concurrently and must return soon after ctx ends, which is in less than a second.
	Await func(ctx context.Context, name string) error

	// NSID is what the server calls itself for those who ask (RFC 5001); "" for nothing.
	NSID string
	// Locality returns where a client is, if it is known, and for how many bits of its address all that is so: those of a set
	// that are nearest come first, of a large set they come alone. Nil: all clients are alike. It must not block.
	Locality func(client netip.Addr) (where Locality, bits int, known bool)
	// SubnetFrom are resolvers whose word about their clients' addresses is taken (RFC 7871).
	SubnetFrom []netip.Prefix
	// RateLimit is how many answers over UDP a source (a /24 of IPv4, a /56 of IPv6) gets in a second; 0: no limit.
	RateLimit uint32

	// Keys are what others may sign with (RFC 8945).
	Keys []*tsig.Key
	// Copies has the zones for those who sign with a key and for the host itself; nil: for nobody.
	Copies Copies

	// Forward answers for names of no zone, to clients in ForwardFor, who ask for recursion; nil: such names are refused. It must know
	// which names are never to leave, as Zones may be empty. Queries that have to wait for it wait as for Await.
	Forward    Forwarder
	ForwardFor []netip.Prefix

	// Tap is shown all queries and answers; nil: nobody is.
	Tap Tap
}

const maxUDPLoops = 4 // for each address

// Server is a DNS server. It is made by New and runs once.
type Server struct {
	opts    Options
	addrs   []netip.AddrPort
	tcp     []*net.TCPListener
	secure  [transports][]*net.TCPListener // of overTLS and overHTTPS
	udp     []*udpSocket
	shards  []*shard // one for each transport, then one for each UDP socket; none is added after Listen
	conns   *connections
	cookies cookies
	limiter *limiter
	signing *signingBounds

	underWay copiesUnderWay

	refusedConns, socketErrors, panics atomic.Uint64

	life           context.Context // that of Run
	awaited        atomic.Int64    // queries over UDP that wait
	later          sync.WaitGroup  // of their goroutines
	awaitedStreams atomic.Int64    // queries over connections that wait
}

// New returns a server that does nothing until Listen or Run.
func New(opts Options) *Server {
	s := &Server{opts: opts, conns: newConnections(), limiter: newLimiter(opts.RateLimit), signing: newSigningBounds()}
	s.underWay.sources = map[netip.Addr]int{}
	for by := range transports {
		s.shards = append(s.shards, &shard{by: by})
	}
	return s
}

// Listen binds all addresses, or none when it fails. Run does it when it was not done before; who calls it must call
// Run too, which releases them.
func (s *Server) Listen() error {
	defer closeAll(s.opts.Given)
	for _, addr := range s.opts.Addrs {
		targets, err := parseAddr(addr)
		if err == nil {
			err = s.bindAll(targets)
		}
		if err != nil {
			s.closeSockets()
			return fmt.Errorf("listen for DNS on %s: %w", addr, err)
		}
	}
	for by, addrs := range map[transport][]string{overTLS: s.opts.TLS, overHTTPS: s.opts.HTTPS} {
		if err := s.listenSecure(by, addrs); err != nil {
			s.closeSockets()
			return err
		}
	}
	for range s.udp {
		s.shards = append(s.shards, &shard{by: udp})
	}
	return nil
}

// Addrs returns the addresses that Listen bound for UDP and TCP, in the order of the options.
func (s *Server) Addrs() []netip.AddrPort { return s.addrs }

// TLSAddrs are those of DNS over TLS, HTTPSAddrs those of DNS over HTTPS.
func (s *Server) TLSAddrs() []netip.AddrPort { return boundTo(s.secure[overTLS]) }

// HTTPSAddrs are those of DNS over HTTPS.
func (s *Server) HTTPSAddrs() []netip.AddrPort { return boundTo(s.secure[overHTTPS]) }

func boundTo(listeners []*net.TCPListener) (addrs []netip.AddrPort) {
	for _, l := range listeners {
		addrs = append(addrs, l.Addr().(*net.TCPAddr).AddrPort())
	}
	return addrs
}

// Run serves until ctx ends, then finishes the answers that are being given. It returns ctx's cause or the first failure.
func (s *Server) Run(ctx context.Context) error {
	if len(s.addrs)+len(s.secure[overTLS])+len(s.secure[overHTTPS]) == 0 {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	group, running := errgroup.WithContext(ctx)
	s.life = running
	defer s.later.Wait()
	for i, socket := range s.udp {
		group.Go(func() error { return s.serveUDP(running, socket, s.shards[int(transports)+i]) })
	}
	for _, listener := range s.tcp {
		group.Go(func() error { return s.serveStream(running, listener, s.shards[tcp], nil) })
	}
	for _, listener := range s.secure[overTLS] {
		group.Go(func() error { return s.serveStream(running, listener, s.shards[overTLS], s.tlsConfig("dot")) })
	}
	for _, listener := range s.secure[overHTTPS] {
		group.Go(func() error { return s.serveHTTPS(running, listener) })
	}
	group.Go(func() error {
		<-running.Done()
		s.closeSockets()
		return context.Cause(ctx)
	})
	return group.Wait()
}

func parseAddr(addr string) ([]netip.AddrPort, error) {
	if port, ok := strings.CutPrefix(addr, ":"); ok {
		v4, err := netip.ParseAddrPort("0.0.0.0:" + port)
		if err != nil {
			return nil, err
		}
		return []netip.AddrPort{v4, netip.AddrPortFrom(netip.IPv6Unspecified(), v4.Port())}, nil
	}
	one, err := netip.ParseAddrPort(addr)
	return []netip.AddrPort{one}, err
}

// bindAll binds the addresses of one option to the same port.
func (s *Server) bindAll(targets []netip.AddrPort) error {
	port := targets[0].Port()
	for _, target := range targets {
		got, err := s.bind(netip.AddrPortFrom(target.Addr(), port))
		if errors.Is(err, syscall.EAFNOSUPPORT) && len(targets) > 1 && target.Addr().Is6() {
			continue // all addresses of a host without IPv6
		}
		if err != nil {
			return err
		}
		port = got
	}
	return nil
}

// bind binds TCP and UDP to the same port. A port that TCP was given freely may be taken for UDP, so it tries some.
func (s *Server) bind(addr netip.AddrPort) (port uint16, err error) {
	if adopted, err := s.adopt(addr); adopted || err != nil {
		return addr.Port(), err
	}
	network := "4"
	if addr.Addr().Is6() {
		network = "6"
	}
	const attempts = 20
	for range attempts {
		var tcp *net.TCPListener
		if tcp, err = net.ListenTCP("tcp"+network, net.TCPAddrFromAddrPort(addr)); err != nil {
			return 0, err
		}
		bound := netip.AddrPortFrom(addr.Addr(), tcp.Addr().(*net.TCPAddr).AddrPort().Port())
		var udp []*udpSocket
		if udp, err = listenUDP("udp"+network, bound, min(maxUDPLoops, runtime.GOMAXPROCS(0))); err == nil {
			s.tcp = append(s.tcp, tcp)
			s.udp = append(s.udp, udp...)
			s.addrs = append(s.addrs, bound)
			return bound.Port(), nil
		}
		err = errors.Join(err, tcp.Close())
		if addr.Port() != 0 {
			break
		}
	}
	return 0, err
}

// listenSecure binds TCP alone.
func (s *Server) listenSecure(by transport, addrs []string) error {
	for _, addr := range addrs {
		targets, err := parseAddr(addr)
		if err == nil && s.opts.Certificate == nil {
			err = errors.New("no certificate")
		}
		for _, target := range targets {
			if err != nil {
				break
			}
			network := "tcp4"
			if target.Addr().Is6() {
				network = "tcp6"
			}
			var l *net.TCPListener
			l, err = net.ListenTCP(network, net.TCPAddrFromAddrPort(target))
			if errors.Is(err, syscall.EAFNOSUPPORT) && len(targets) > 1 && target.Addr().Is6() {
				err = nil // all addresses of a host without IPv6
				continue
			}
			if err == nil {
				s.secure[by] = append(s.secure[by], l)
			}
		}
		if err != nil {
			return fmt.Errorf("listen for DNS over %s on %s: %w", by, addr, err)
		}
	}
	return nil
}

// tlsConfig is a server's for these protocols.
func (s *Server) tlsConfig(protocols ...string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.opts.Certificate, NextProtos: protocols}
}

func (s *Server) closeSockets() {
	for _, l := range slices.Concat(s.tcp, s.secure[overTLS], s.secure[overHTTPS]) {
		_ = l.Close()
	}
	for _, u := range s.udp {
		_ = u.conn.Close()
	}
	s.conns.end()
}
