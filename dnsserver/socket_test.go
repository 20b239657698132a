package dnsserver

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// TestIdleAndSlowConnectionsEnd shows that a connection lives no longer than the idle timeout without a whole query,
// whether its client is silent or sends a byte now and then.
func TestIdleAndSlowConnectionsEnd(t *testing.T) {
	packed, err := new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeSOA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	packed = append([]byte{0, byte(len(packed))}, packed...)
	for _, c := range []struct {
		name  string
		first []byte        // written at once
		drip  time.Duration // between the bytes that follow, 0 for none
	}{
		{"silent", nil, 0},
		{"silent after a query", packed, 0},
		{"half a length", []byte{0}, 0},
		{"a byte a second", nil, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Options{Zones: func() []*Zone { return nil }, Log: slog.New(slog.DiscardHandler)})
				server, client := net.Pipe()
				start := time.Now()
				ended := make(chan time.Duration, 1)
				go func() {
					s.serveConn(context.Background(), server, s.shards[tcp])
					ended <- time.Since(start)
					_ = server.Close()
				}()
				go func() { // takes the answers
					buf := make([]byte, 512)
					for {
						if _, err := client.Read(buf); err != nil {
							return
						}
					}
				}()
				if _, err := client.Write(c.first); err != nil {
					t.Fatal(err)
				}
				for i := range packed {
					if c.drip == 0 {
						break
					}
					time.Sleep(c.drip)
					if _, err := client.Write(packed[i : i+1]); err != nil {
						break
					}
				}
				if got := <-ended; got != tcpIdleTimeout {
					t.Errorf("ended after %v, want %v", got, tcpIdleTimeout)
				}
				_ = client.Close()
			})
		})
	}
}

// TestClientThatTakesNoAnswers shows that such a client costs its connection, after the write timeout.
func TestClientThatTakesNoAnswers(t *testing.T) {
	packed, err := new(dns.Msg).SetQuestion("mesh.internal.", dns.TypeSOA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{Zones: func() []*Zone { return nil }, Log: slog.New(slog.DiscardHandler)})
		server, client := net.Pipe()
		start := time.Now()
		go func() { _, _ = client.Write(append([]byte{0, byte(len(packed))}, packed...)) }()
		s.serveConn(context.Background(), server, s.shards[tcp])
		if got := time.Since(start); got != tcpWriteTime {
			t.Errorf("ended after %v, want %v", got, tcpWriteTime)
		}
		_ = server.Close()
		_ = client.Close()
	})
}

// from is a connection whose client has some address.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

func TestConnectionsAreBounded(t *testing.T) {
	c := newConnections()
	one := func(addr string) net.Conn {
		server, client := net.Pipe()
		t.Cleanup(func() { _ = client.Close() })
		return &from{server, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}
	}
	var last net.Conn
	for i := range maxSourceConns {
		if last = one("192.0.2.1:1"); !c.admit(last) {
			t.Fatalf("connection %d of a source is refused", i+1)
		}
	}
	if c.admit(one("192.0.2.1:2")) {
		t.Error("one more of a source is taken than the bound")
	}
	for i := range maxSourceConns { // one customer's network
		if !c.admit(one(fmt.Sprintf("[2001:db8:0:%x::1]:1", i))) {
			t.Fatalf("connection %d of a source is refused", i+1)
		}
	}
	if c.admit(one("[2001:db8:0:ff::2]:1")) || !c.admit(one("[2001:db8:0:100::1]:1")) {
		t.Error("IPv6 is not counted by /56")
	}
	c.release(last)
	if !c.admit(last) {
		t.Error("none is taken after one has left")
	}
	for c.admit(one("127.0.0.1:1")) {
	}
	if n := len(c.open); n != maxConns {
		t.Errorf("%d connections in all, want %d", n, maxConns)
	}
	c.release(last)
	c.end()
	if c.admit(last) {
		t.Error("one is taken while the server stops")
	}
}

// TestSocketsAreHandedOver has one server go on with the sockets of another, which ends: every question is answered, at the first try.
func TestSocketsAreHandedOver(t *testing.T) {
	zone := smallZone()
	run := func(addr string, given []int) (s *Server, stop func()) {
		s = New(Options{Addrs: []string{addr}, Given: given, Zones: func() []*Zone { return []*Zone{zone} }, Log: slog.New(slog.DiscardHandler)})
		if err := s.Listen(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		return s, func() { cancel(); <-ended }
	}
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
		t.Run(listen, func(t *testing.T) {
			now, stop := run(listen, nil)
			at := now.Addrs()[0]
			to := at
			if to.Addr().IsUnspecified() {
				to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.7"), at.Port())
			}
			var askers sync.WaitGroup
			var asked, failed atomic.Int64
			asking, enough := context.WithCancel(t.Context())
			for range 4 {
				askers.Go(func() {
					for asking.Err() == nil {
						m, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(new(dns.Msg).SetQuestion("web.default.mesh.internal.", dns.TypeA), to.String())
						if asked.Add(1); err != nil || len(m.Answer) != 2 {
							failed.Add(1)
							t.Errorf("%v, %v", m, err)
						}
					}
				})
			}
			for range 20 {
				fds, err := now.Sockets()
				if err != nil {
					t.Fatal(err)
				}
				next, stopNext := run(strings.TrimPrefix(at.String(), "0.0.0.0"), fds)
				stop()
				now, stop = next, stopNext
				if m, _, err := (&dns.Client{Net: "tcp", Timeout: 10 * time.Second}).Exchange(new(dns.Msg).SetQuestion("web.default.mesh.internal.", dns.TypeA), to.String()); err != nil || len(m.Answer) != 2 {
					t.Errorf("over TCP: %v, %v", m, err)
				}
			}
			enough()
			askers.Wait()
			stop()
			if asked.Load() < 20 || failed.Load() > 0 {
				t.Errorf("of %d questions %d had no answer", asked.Load(), failed.Load())
			}
		})
	}
}
