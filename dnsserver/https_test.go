package dnsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// Connections of DNS over HTTPS count among those of their source, and are given back, also when no TLS is spoken.
func TestHTTPSConnectionsAreCounted(t *testing.T) {
	s := testServer(func(o *Options) {
		o.Certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("none") }
	})
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serveHTTPS(ctx, l) }()
	count := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			s.conns.mu.Lock()
			n, sources := len(s.conns.open), len(s.conns.sources)
			s.conns.mu.Unlock()
			if n == want && sources == min(want, 1) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d connections of %d sources are counted, want %d", n, sources, want)
			}
		}
	}
	var conns []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	count(3)
	_, _ = conns[0].Write([]byte("GET / HTTP/1.0\r\n\r\n"))
	_ = conns[1].Close()
	count(1)
	cancel()
	_ = conns[2].Close()
	_ = conns[0].Close()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("serveHTTPS: %v", err)
	}
	count(0)
}
