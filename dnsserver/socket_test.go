package dnsserver

import (
	"context"
	"log/slog"
	"net"
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
				s := New(Options{Zone: func() *Zone { return nil }, Log: slog.New(slog.DiscardHandler)})
				server, client := net.Pipe()
				start := time.Now()
				ended := make(chan time.Duration, 1)
				go func() {
					s.serveConn(context.Background(), server)
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
		s := New(Options{Zone: func() *Zone { return nil }, Log: slog.New(slog.DiscardHandler)})
		server, client := net.Pipe()
		start := time.Now()
		go func() { _, _ = client.Write(append([]byte{0, byte(len(packed))}, packed...)) }()
		s.serveConn(context.Background(), server)
		if got := time.Since(start); got != tcpWriteTime {
			t.Errorf("ended after %v, want %v", got, tcpWriteTime)
		}
		_ = server.Close()
		_ = client.Close()
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	s := New(Options{Log: slog.New(slog.DiscardHandler)})
	var last net.Conn
	for i := range maxTCPConns {
		server, client := net.Pipe()
		t.Cleanup(func() { _ = client.Close() })
		if !s.admit(t.Context(), server) {
			t.Fatalf("connection %d is refused", i+1)
		}
		last = server
	}
	server, client := net.Pipe()
	defer client.Close()
	if s.admit(t.Context(), server) {
		t.Error("one more is taken than the bound")
	}
	s.release(last)
	if !s.admit(t.Context(), server) {
		t.Error("none is taken after one has left")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.release(server)
	if s.admit(ctx, server) {
		t.Error("one is taken while the server stops")
	}
}
