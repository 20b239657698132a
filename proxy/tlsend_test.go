package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestSessionsAreResumedOnBothSides: a client's second handshake is short, on whatever loop it is, and so is the proxy's with a host; the
// former are counted.
func TestSessionsAreResumedOnBothSides(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s := newSafe(t)
			var mu sync.Mutex
			var seen []bool // of the host's handshakes: was it resumed
			cfg := s.serverConfig()
			cfg.MaxVersion = version
			cfg.VerifyConnection = func(state tls.ConnectionState) error {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, state.DidResume)
				return nil
			}
			host := rawBackend(t, func(conn net.Conn, _ *bufio.Reader) {
				c := tls.Server(conn, cfg)
				defer c.Close()
				if readHead(bufio.NewReader(c)) != "" {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok") // so that the next is another connection
				}
			})
			l, c := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web")), cluster("web", host)
			s.secure(l, c)
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
			const requests = 8
			for i := range requests {
				client := s.clientConfig()
				client.MaxVersion = version
				conn := tls.Client(p.dial(), client)
				_, _ = io.WriteString(conn, get)
				if resp, body := readResponse(t, bufio.NewReader(conn), "GET"); resp.StatusCode != 200 || body != "ok" {
					t.Fatalf("%s %q", resp.Status, body)
				}
				if state := conn.ConnectionState(); state.DidResume != (i > 0) || state.Version != version {
					t.Errorf("handshake %d of a client by %s: resumed %v", i, tls.VersionName(state.Version), state.DidResume)
				}
				conn.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			for i, resumed := range seen {
				if resumed != (i > 0) {
					t.Errorf("handshake %d with the host: resumed %v", i, resumed)
				}
			}
			if len(seen) != requests {
				t.Errorf("%d handshakes with the host, want %d", len(seen), requests)
			}
			p.waitStat(p.listenerStat("ssl.session_reused"), strconv.Itoa(requests-1))
		})
	}
}

// bytesOver runs a proxy that passes bytes on to a host, over TLS on the sides that are to be, and returns a client's connection to it.
func bytesOver(t *testing.T, s *safe, down, up bool, host func(net.Conn)) net.Conn {
	t.Helper()
	handle := func(conn net.Conn, _ *bufio.Reader) { host(conn) }
	if up {
		handle = s.backend(handle)
	}
	c := cluster("host", rawBackend(t, handle))
	l := &config.Listener{Name: "bytes", Addresses: []netip.AddrPort{freeAddr(t)}}
	chain := tcpChain("host", config.ChainMatch{})
	l.Chains = []*config.FilterChain{chain}
	if up {
		c.TLS = s.up
	}
	if down {
		chain.TLS = s.down
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, oneLoop)
	if down {
		return s.client(p.dial())
	}
	return p.dial()
}

type halfCloser interface{ CloseWrite() error }

// TestEachDirectionOverTLSHasItsEnd: the one who has said all still gets all that the other has to say, whoever that is and on whichever
// side TLS is spoken, also with much on its way.
func TestEachDirectionOverTLSHasItsEnd(t *testing.T) {
	s := newSafe(t)
	much := pattern(1 << 20)
	for _, side := range []struct{ down, up bool }{{true, false}, {false, true}, {true, true}} {
		for _, hostFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("TLS in %v, out %v, the host first %v", side.down, side.up, hostFirst), func(t *testing.T) {
				// The first says little and ends; when the other has seen that it says much, and ends.
				first := func(conn net.Conn) error {
					if _, err := io.WriteString(conn, "that is all"); err != nil {
						return err
					}
					if err := conn.(halfCloser).CloseWrite(); err != nil {
						return err
					}
					if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, much) {
						return fmt.Errorf("%d bytes of %d, %w", len(got), len(much), err)
					}
					return nil
				}
				second := func(conn net.Conn) error {
					if got, err := io.ReadAll(conn); err != nil || string(got) != "that is all" {
						return fmt.Errorf("%q, %w", got, err)
					}
					if _, err := conn.Write(much); err != nil {
						return err
					}
					return conn.(halfCloser).CloseWrite()
				}
				if !hostFirst {
					first, second = second, first
				}
				host := make(chan error, 1)
				conn := bytesOver(t, s, side.down, side.up, func(conn net.Conn) { host <- first(conn) })
				if err := second(conn); err != nil {
					t.Errorf("the client: %v", err)
				}
				if !hostFirst {
					conn.Close()
				}
				if err := <-host; err != nil {
					t.Errorf("the host: %v", err)
				}
			})
		}
	}
}

// cutOff ends a connection of TLS without saying so in TLS: by a FIN, as anybody on the way can send one.
func cutOff(conn net.Conn) {
	if c, ok := conn.(*tls.Conn); ok {
		_ = c.NetConn().(*net.TCPConn).CloseWrite()
	}
}

// TestBytesOverTLSThatAreCutOff: an end that TLS has not announced is no end in good order for the other side, in whichever direction.
func TestBytesOverTLSThatAreCutOff(t *testing.T) {
	s := newSafe(t)
	for _, other := range []bool{false, true} { // speaks TLS too
		t.Run(fmt.Sprintf("by the client, TLS on the other side %v", other), func(t *testing.T) {
			host := make(chan error, 1)
			conn := bytesOver(t, s, true, other, func(conn net.Conn) {
				_, err := io.ReadAll(conn)
				host <- err
			})
			_, _ = io.WriteString(conn, "half of it")
			cutOff(conn)
			if err := <-host; err == nil {
				t.Error("the host saw an end in good order")
			}
		})
		t.Run(fmt.Sprintf("by the host, TLS on the other side %v", other), func(t *testing.T) {
			conn := bytesOver(t, s, other, true, func(conn net.Conn) {
				_, _ = io.ReadFull(conn, make([]byte, len("tell"))) // or the client may not even see itself connected
				_, _ = io.WriteString(conn, "half of it")
				cutOff(conn)
				_, _ = io.Copy(io.Discard, conn)
			})
			if _, err := io.WriteString(conn, "tell"); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); err == nil {
				t.Errorf("the client saw %q and an end in good order", got)
			}
		})
	}
}

// TestResponsesOverTLSThatAreCutOff: content without a length ends with the connection, and over TLS that is what
// close_notify says. Without it anybody on the way could shorten a response: then it is no whole one for the client, whatever that speaks.
func TestResponsesOverTLSThatAreCutOff(t *testing.T) {
	s := newSafe(t)
	for _, c := range []struct {
		name  string
		head  string
		end   func(net.Conn)
		whole bool
	}{
		{"no length, close_notify", "", func(conn net.Conn) { conn.Close() }, true},
		{"no length, cut off", "", cutOff, false},
		{"no length, reset", "", func(conn net.Conn) { reset(conn); conn.(*tls.Conn).NetConn().Close() }, false},
		{"a length that is met, cut off", "Content-Length: 9\r\n", cutOff, true},
		{"a length that is not met, close_notify", "Content-Length: 10\r\n", func(conn net.Conn) { conn.Close() }, false},
		{"chunks without a last one, close_notify", "Transfer-Encoding: chunked\r\n", func(conn net.Conn) { conn.Close() }, false},
	} {
		content := "all of it"
		if strings.HasPrefix(c.head, "Transfer") {
			content = "9\r\nall of it\r\n"
		}
		host := rawBackend(t, s.backend(func(conn net.Conn, r *bufio.Reader) {
			if readHead(r) == "" {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+c.head+"\r\n")
			_, _ = io.WriteString(conn, content)
			c.end(conn)
			_, _ = io.Copy(io.Discard, r)
		}))
		l, cl := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web")), cluster("web", host)
		l.HTTP.Protocol = config.ProtocolAuto
		s.secure(l, cl)
		p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cl)}, oneLoop)
		for _, two := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %v", c.name, two), func(t *testing.T) {
				resp, err := p.over(s.clientConfig(), two).Get("https://web.mesh.internal/")
				var body []byte
				if err == nil { // else it failed even sooner
					body, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if (err == nil) != c.whole || c.whole && string(body) != "all of it" {
					t.Errorf("%q, %v, want that it is whole: %v", body, err, c.whole)
				}
			})
		}
		t.Run(c.name+", HTTP/1.0", func(t *testing.T) { // to whom it ends with the connection too
			conn := s.client(p.dial())
			_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\nHost: web.mesh.internal\r\n\r\n")
			got, err := io.ReadAll(conn)
			if (err == nil) != c.whole || c.whole && !strings.HasSuffix(string(got), "\r\n\r\nall of it") {
				t.Errorf("%q, %v, want that it is whole: %v", got, err, c.whole)
			}
		})
	}
}

// TestRequestsOverTLSThatAreCutOff: a host sees that content is missing, whether the client says close_notify or not.
func TestRequestsOverTLSThatAreCutOff(t *testing.T) {
	s := newSafe(t)
	for _, pair := range pairings[:2] {
		for _, orderly := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, close_notify %v", pair.name, orderly), func(t *testing.T) {
				begun, got := make(chan error, 1), make(chan error, 1)
				p := s.startPairing(pair, func(_ http.ResponseWriter, r *http.Request) {
					_, err := io.ReadFull(r.Body, make([]byte, 3))
					begun <- err
					_, err = io.ReadAll(r.Body)
					got <- err
				})
				conn := s.client(p.dial())
				_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
				if err := <-begun; err != nil {
					t.Fatal(err)
				}
				if orderly {
					_ = conn.(halfCloser).CloseWrite()
				} else {
					cutOff(conn)
				}
				select {
				case err := <-got:
					if err == nil || errors.Is(err, io.EOF) {
						t.Errorf("the host saw whole content: %v", err)
					}
				case <-time.After(20 * time.Second):
					t.Error("the host waits")
				}
			})
		}
	}
}
