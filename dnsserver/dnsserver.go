// Package dnsserver answers for one zone, authoritatively: RFC 1034 and 1035, with EDNS (RFC 6891) over UDP and TCP
// (RFC 7766), negative answers as RFC 2308, SRV as RFC 2782, ANY as RFC 8482, errors explained as RFC 8914.
//
// A Zone is immutable; the server asks for the current one at every query. It knows nothing of where a zone comes from.
package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options say where to listen and what to answer.
type Options struct {
	// Addrs are IP:port pairs on which UDP and TCP are served. ":port" means all addresses of the host, IPv4 and IPv6;
	// with port 0 the system picks one, the same for UDP and TCP.
	Addrs []string
	// Zone returns the current zone; nil means that there is none yet, which is answered with SERVFAIL. It is called
	// concurrently and must not block.
	Zone func() *Zone
	Log  *slog.Logger
}

// Bounds on what one client, or all together, can take.
const (
	maxUDPPayload  = 1232 // what fits everywhere without fragments (DNS flag day 2020)
	maxQueryBytes  = 4096
	maxTCPConns    = 1024
	tcpIdleTimeout = 10 * time.Second
	tcpWriteTime   = 5 * time.Second
	maxUDPLoops    = 4 // goroutines for each UDP socket
)

// Server is a DNS server. It is made by New and runs once.
type Server struct {
	opts  Options
	stats stats
	tcp   []*net.TCPListener
	udp   []*udpSocket
	addrs []netip.AddrPort

	mu    sync.Mutex
	conns map[net.Conn]struct{} // guarded by mu
}

// New returns a server that does nothing until Listen or Run.
func New(opts Options) *Server {
	return &Server{opts: opts, conns: map[net.Conn]struct{}{}}
}

// Listen binds all addresses, or none when it fails. Run does it when it was not done before; who calls it must call
// Run too, which releases them.
func (s *Server) Listen() error {
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
	return nil
}

// Addrs returns the addresses that Listen bound, in the order of the options.
func (s *Server) Addrs() []netip.AddrPort { return s.addrs }

// Run serves until ctx ends, then finishes the answers that are being given. It returns ctx's cause or the first failure.
func (s *Server) Run(ctx context.Context) error {
	if len(s.addrs) == 0 {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	group, running := errgroup.WithContext(ctx)
	for _, socket := range s.udp {
		for range min(maxUDPLoops, runtime.GOMAXPROCS(0)) {
			group.Go(func() error { return s.serveUDP(running, socket) })
		}
	}
	for _, listener := range s.tcp {
		group.Go(func() error { return s.serveTCP(running, listener) })
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
		var udp *udpSocket
		if udp, err = listenUDP("udp"+network, bound); err == nil {
			s.tcp = append(s.tcp, tcp)
			s.udp = append(s.udp, udp)
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

func (s *Server) closeSockets() {
	for _, l := range s.tcp {
		_ = l.Close()
	}
	for _, u := range s.udp {
		_ = u.conn.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // the answer at hand is still written
	}
}
