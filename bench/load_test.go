package main

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// proxyTo is a proxy that does what the peers do, over HTTP/1.1 or h2c on both sides; change may spoil it.
func proxyTo(t *testing.T, backend netip.AddrPort, http2 bool, change func(http.Header)) netip.AddrPort {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	target := &url.URL{Scheme: "http", Host: backend.String()}
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 16, Protocols: protocols},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
			r.Out.Host = r.In.Host
			r.Out.Header.Set("X-Request-Id", "1")
			change(r.Out.Header)
		},
		FlushInterval: -1, // trailers
		ErrorLog:      silent(),
	})
	proxy.Config.Protocols = protocols
	proxy.Start()
	t.Cleanup(func() {
		proxy.CloseClientConnections() // a request may be outstanding at the load, which has ended
		proxy.Close()
	})
	return netip.MustParseAddrPort(proxy.Listener.Addr().String())
}

func silent() *log.Logger { return log.New(io.Discard, "", 0) }

func unspoilt(http.Header) {}

func openLoad(t *testing.T, p protocol, busy int) *load {
	t.Helper()
	l, err := newLoad(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	l.busy = busy
	return l
}

func TestLoad(t *testing.T) {
	for _, tt := range []struct {
		name string
		protocol
		http2 bool
		most  int // streams outstanding
	}{
		{"128 B", newHTTP1(128), false, 1},
		{"16 KiB", newHTTP1(16 << 10), false, 1},
		{"1 MiB", newHTTP1(1 << 20), false, 1},
		{"HTTP/2", newH2(1, 128), true, 1},
		{"HTTP/2, many streams", newH2(16, 128), true, 16},
		{"HTTP/2, 16 KiB", newH2(4, 16<<10), true, 4},
		{"gRPC", newGRPC(16, 128), true, 16},
		{"gRPC, messages that wait for windows", newGRPC(16, 10<<10), true, 16},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := openLoad(t, tt.protocol, 8)
			if err := l.connect(proxyTo(t, l.addr, tt.http2, unspoilt)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if n, err := runSome(l, 200*time.Millisecond); err != nil {
					t.Fatalf("%d requests answered, %v", n, err)
				}
			}
			if err := l.disconnect(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestLoadKeepsItsPace(t *testing.T) {
	l := openLoad(t, newHTTP1(128), 0)
	l.paced, l.rate = 32, 500
	if err := l.connect(proxyTo(t, l.addr, false, unspoilt)); err != nil {
		t.Fatal(err)
	}
	n, err := l.run(400 * time.Millisecond)
	if err != nil || n > 201 {
		t.Errorf("%d requests answered, %v; want at most 201", n, err)
	}
}

// What a proxy keeps waiting is in the latencies from when it was due, also what could not be sent for that.
func TestLatencyCountsFromWhenARequestWasDue(t *testing.T) {
	l := openLoad(t, newHTTP1(128), 0)
	l.paced, l.rate, l.latency = 1, 100, new(histogram)
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	defer server.Close()
	defer close(over)
	if err := l.connect(netip.MustParseAddrPort(server.Listener.Addr().String())); err != nil {
		t.Fatal(err)
	}
	if _, err := l.run(time.Second); err != nil {
		t.Fatal(err)
	}
	// One is outstanding, and 99 more were due: their median has waited for half of the time.
	if p50 := l.latency.quantile(0.5); l.latency.total != 99 || p50 < 400*time.Millisecond {
		t.Errorf("%d latencies, median %v", l.latency.total, p50)
	}
}

func TestLoadRefusesLessWork(t *testing.T) {
	for _, name := range []string{"X-Request-Id", "X-Forwarded-For"} {
		for _, p := range []protocol{newHTTP1(128), newH2(2, 128)} {
			_, http2 := p.(*h2)
			l := openLoad(t, p, 1)
			addr := proxyTo(t, l.addr, http2, func(h http.Header) {
				if h[name] = nil; name == "X-Request-Id" {
					delete(h, name)
				}
			})
			if err := l.connect(addr); err != nil {
				t.Fatal(err)
			}
			if n, err := l.run(5 * time.Second); err == nil || !strings.Contains(err.Error(), strings.ToLower(name)) {
				t.Errorf("%T without %s: %d requests answered, %v", p, name, n, err)
			}
		}
	}
}

func TestLoadRefusesWrongAnswers(t *testing.T) {
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
	}{
		{"status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }},
		{"length", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("short")) }},
		{"end", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	} {
		for _, p := range []protocol{newHTTP1(128), newH2(2, 128), newGRPC(2, 128)} {
			server := httptest.NewUnstartedServer(tt.handle)
			server.Config.Protocols = both
			server.Start()
			l := openLoad(t, p, 1)
			if err := l.connect(netip.MustParseAddrPort(server.Listener.Addr().String())); err != nil {
				t.Fatal(err)
			}
			if n, err := l.run(5 * time.Second); err == nil {
				t.Errorf("%s of %T: %d requests answered, want an error", tt.name, p, n)
			}
			l.disconnect()
			server.Close()
		}
	}
}

// tlsProxy is a server of TLS that answers by itself.
func tlsProxy(t *testing.T, c *certificates, version uint16) netip.AddrPort {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(c.Server.Chain, c.Server.Key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(40<<10))
		w.Write(make([]byte, 40<<10))
	}))
	server.Config.ErrorLog = silent()
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: version}
	server.StartTLS()
	t.Cleanup(server.Close)
	return netip.MustParseAddrPort(server.Listener.Addr().String())
}

func TestLoadSpeaksTLS(t *testing.T) {
	certs, err := newCertificates(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keepAlive, err := http1Load(40<<10, 4, 0, 0, true)(certs)
	if err != nil {
		t.Fatal(err)
	}
	each, err := handshakeLoad(40<<10, 4)(certs)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range []generator{keepAlive, each} {
		defer g.close()
		if err := g.connect(tlsProxy(t, certs, tls.VersionTLS13)); err != nil {
			t.Fatal(err)
		}
		if n, err := runSome(g, 200*time.Millisecond); err != nil {
			t.Errorf("%T: %d requests answered, %v", g, n, err)
		}
		err := g.connect(tlsProxy(t, certs, tls.VersionTLS12))
		if err == nil {
			_, err = runSome(g, 200*time.Millisecond)
		}
		if err == nil {
			t.Errorf("%T takes TLS 1.2", g)
		}
	}
}
