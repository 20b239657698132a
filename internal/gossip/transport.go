package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxPacket is the longest datagram taken: memberlist fills them to its UDPBufferSize of 1,400 bytes.
	maxPacket = 4096
	// maxStreams bounds the inbound streams at a time; memberlist would start a goroutine for any number of them.
	maxStreams = 128
	udpBuffer  = 1 << 20 // bytes of the kernel's, for bursts; used only while something waits there
)

// transport carries memberlist's packets and streams. memberlist's own allocates 64 KiB for every datagram, accepts any
// number of streams and leaves connections behind when it is shut down.
type transport struct {
	udp     *net.UDPConn
	tcp     *net.TCPListener
	packets chan *memberlist.Packet
	streams chan net.Conn
	slots   chan struct{}
	ctx     context.Context // ends with Shutdown
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// listen binds UDP and TCP to the same address. Nothing is read before start.
func listen(at netip.AddrPort) (*transport, error) {
	tries := 1
	if at.Port() == 0 {
		tries = 20 // the port that is free for TCP may be taken for UDP
	}
	var err error
	for range tries {
		var t *transport
		if t, err = listenOnce(at); err == nil {
			return t, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, fmt.Errorf("listen for gossip on %s: %w", at, err)
}

func listenOnce(at netip.AddrPort) (*transport, error) {
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	bound := netip.AddrPortFrom(at.Addr(), uint16(tcp.Addr().(*net.TCPAddr).Port))
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(bound))
	if err != nil {
		_ = tcp.Close()
		return nil, err
	}
	_ = udp.SetReadBuffer(udpBuffer) // best effort: the kernel caps it at net.core.rmem_max
	ctx, cancel := context.WithCancel(context.Background())
	return &transport{
		udp: udp, tcp: tcp, ctx: ctx, cancel: cancel,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		slots:   make(chan struct{}, maxStreams),
	}, nil
}

// addr returns the bound address.
func (t *transport) addr() netip.AddrPort {
	a := t.tcp.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func (t *transport) start() {
	t.wg.Go(t.readPackets)
	t.wg.Go(t.acceptStreams)
}

func (t *transport) readPackets() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(buf)
		if t.ctx.Err() != nil {
			return
		}
		if err != nil || n == 0 || n == len(buf) { // a filled buffer may be a cut one
			if err != nil && !t.pause() {
				return
			}
			continue
		}
		packet := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case t.packets <- packet:
		case <-t.ctx.Done():
			return
		}
	}
}

func (t *transport) acceptStreams() {
	for {
		select {
		case t.slots <- struct{}{}:
		case <-t.ctx.Done():
			return
		}
		conn, err := t.tcp.Accept()
		if err != nil {
			<-t.slots
			if t.ctx.Err() != nil || !t.pause() {
				return
			}
			continue
		}
		s := t.follow(conn, func() { <-t.slots })
		select {
		case t.streams <- s:
		case <-t.ctx.Done():
			_ = s.Close()
			return
		}
	}
}

// pause waits a moment after an error, such as too many open files. It reports false when the transport ends.
func (t *transport) pause() bool {
	select {
	case <-time.After(50 * time.Millisecond):
		return true
	case <-t.ctx.Done():
		return false
	}
}

// stream is a connection that is closed with the transport and gives back its slot once.
type stream struct {
	net.Conn
	once  sync.Once
	after func()
	stop  func() bool
}

func (t *transport) follow(conn net.Conn, after func()) *stream {
	s := &stream{Conn: conn, after: after}
	s.stop = context.AfterFunc(t.ctx, func() { _ = conn.Close() })
	return s
}

// Close closes the connection.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.stop()
		s.after()
	})
	return s.Conn.Close()
}

// FinalAdvertiseAddr returns what it is given: listen and advertised have found the address.
func (t *transport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil, 0, fmt.Errorf("advertise %q: %w", ip, err)
	}
	return net.IP(addr.Unmap().AsSlice()), port, nil
}

// WriteTo sends a datagram.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send gossip: %w", err)
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

// WriteToAddress sends a datagram.
func (t *transport) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, addr.Addr)
}

// DialTimeout opens a stream.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout, KeepAlive: -1}
	conn, err := dialer.DialContext(t.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	// memberlist sets no deadline before it writes: a peer that takes nothing would hold us for ever.
	_ = conn.SetDeadline(time.Now().Add(timeout))
	return t.follow(conn, func() {}), nil
}

// DialAddressTimeout opens a stream.
func (t *transport) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(addr.Addr, timeout)
}

// PacketCh returns the datagrams.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh returns the accepted streams.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown closes all sockets, the open streams too, and waits for the readers.
func (t *transport) Shutdown() error {
	t.cancel()
	_ = t.tcp.Close()
	_ = t.udp.Close()
	t.wg.Wait()
	return nil
}

// advertised returns the address to tell the others.
func advertised(c Config, bound netip.AddrPort) (netip.AddrPort, error) {
	port := bound.Port()
	if c.Advertise.IsValid() {
		if c.Advertise.Port() != 0 {
			port = c.Advertise.Port()
		}
		return netip.AddrPortFrom(c.Advertise.Addr().Unmap(), port), nil
	}
	if !bound.Addr().IsUnspecified() {
		return bound, nil
	}
	for _, seed := range c.Join {
		host, seedPort, err := splitSeed(seed, port)
		if err != nil {
			continue
		}
		// Connecting a UDP socket sends nothing; it asks the routing table for our side of the path.
		conn, err := net.DialTimeout("udp", net.JoinHostPort(host, strconv.Itoa(int(seedPort))), 2*time.Second)
		if err != nil {
			continue
		}
		own := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
		_ = conn.Close()
		if !own.IsLoopback() {
			return netip.AddrPortFrom(own, port), nil
		}
	}
	ifaces, err := net.InterfaceAddrs()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("find an address to advertise: %w", err)
	}
	for _, a := range ifaces {
		if ipnet, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(ipnet.IP); ok && addr.Unmap().IsGlobalUnicast() {
				return netip.AddrPortFrom(addr.Unmap(), port), nil
			}
		}
	}
	return netip.AddrPort{}, errors.New("find an address to advertise: no interface has one, set advertise")
}
