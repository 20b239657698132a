package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const lastBytes = 40 << 10 // of a response, of which the kernel takes a small part

// TestTheLastBytesOverUnixSockets: of what a client reads there the kernel tells only when a whole piece was read. One that is slower than
// that gets all of it, too.
func TestTheLastBytesOverUnixSockets(t *testing.T) {
	const patience = 500 * time.Millisecond
	for _, version := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		t.Run(map[config.Protocol]string{config.ProtocolHTTP1: "HTTP/1", config.ProtocolHTTP2: "HTTP/2"}[version], func(t *testing.T) {
			t.Parallel()
			host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				for readHead(r) != "" {
					answer(conn, strings.Repeat("x", lastBytes))
				}
			})
			path := filepath.Join(shortDir(t), "listener")
			l, c := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web")), cluster("web", host)
			l.Pipes, l.HTTP.Protocol, l.HTTP.IdleTimeout = []config.Pipe{{Path: path}}, version, 100*time.Millisecond
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
			p.FlushFor(patience)
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			p.waitStat("http.outbound.downstream_cx_active", "1")
			p.SendBufferNow(4 << 10)
			if version == config.ProtocolHTTP1 {
				_, _ = io.WriteString(conn, strings.Replace(get, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
			} else {
				_, _ = io.WriteString(conn, http2.ClientPreface)
				f := &peer2{http2.NewFramer(conn, conn), t, conn}
				_ = f.WriteSettings()
				f.get(1)
			}
			p.waitStat("http.outbound.downstream_rq_2xx", "1")
			data := make([]byte, 0, 2*lastBytes)
			for began := time.Now(); time.Since(began) < 3*patience; time.Sleep(patience / 20) {
				n, err := conn.Read(data[len(data) : len(data)+100])
				if data = data[:len(data)+n]; err != nil {
					t.Fatalf("after %d bytes: %v", len(data), err)
				}
			}
			rest, err := io.ReadAll(conn)
			if n, _ := content(t, version, append(data, rest...)); n != lastBytes || err != nil {
				t.Errorf("%d bytes came, want %d; %v", n, lastBytes, err)
			}
			if got := p.stat("http.outbound.downstream_cx_delayed_close_timeout"); got != "0" {
				t.Errorf("downstream_cx_delayed_close_timeout is %s", got)
			}
		})
	}
}

// narrow is a client's connection whose kernel keeps little, to a proxy whose kernel does too; what it asks for is the connection's last.
// With s both speak TLS.
func narrow(t *testing.T, version config.Protocol, s *safe, patience time.Duration) (p *testProxy, conn net.Conn, pace *paced) {
	t.Helper()
	host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			answer(conn, strings.Repeat("x", lastBytes))
		}
	})
	p = start2(t, version, config.ProtocolHTTP1, host, func(l *config.Listener, _ *config.Cluster) {
		l.HTTP.IdleTimeout = time.Second // this is how the connection of HTTP/2 ends
		if s != nil {
			l.Chains, l.HTTP = []*config.FilterChain{{HTTP: l.HTTP, TLS: s.down}}, nil
		}
	})
	p.FlushFor(patience)
	p.SendBuffer(4 << 10)
	pace = &paced{Conn: dialNarrow(t, p.addr.String())}
	conn = pace
	if s != nil {
		cfg := s.clientConfig()
		cfg.NextProtos = []string{map[config.Protocol]string{config.ProtocolHTTP1: "http/1.1", config.ProtocolHTTP2: "h2"}[version]}
		conn = tls.Client(pace, cfg)
	}
	if version == config.ProtocolHTTP1 {
		_, _ = io.WriteString(conn, strings.Replace(get, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		return p, conn, pace
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	f := &peer2{http2.NewFramer(conn, conn), t, conn}
	_ = f.WriteSettings()
	f.get(1)
	return p, conn, pace
}

// paced is a connection that is read so slowly: little at a time, with a pause before; without a pause as fast as it may be.
type paced struct {
	net.Conn
	pause time.Duration
}

func (c *paced) Read(p []byte) (int, error) {
	if c.pause > 0 {
		time.Sleep(c.pause)
		p = p[:min(len(p), 256)]
	}
	return c.Conn.Read(p)
}

// inEveryVersion runs f for every version of HTTP, in plaintext and over TLS.
func inEveryVersion(t *testing.T, f func(t *testing.T, version config.Protocol, s *safe)) {
	for _, version := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		name := map[config.Protocol]string{config.ProtocolHTTP1: "HTTP/1", config.ProtocolHTTP2: "HTTP/2"}[version]
		t.Run(name, func(t *testing.T) { f(t, version, nil) })
		t.Run(name+" over TLS", func(t *testing.T) { f(t, version, newSafe(t)) })
	}
}

func dialNarrow(t *testing.T, addr string) net.Conn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) }), err)
	}}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// content is what data, all that came, has of the response's content, and whether it has its end.
func content(t *testing.T, version config.Protocol, data []byte) (n int, whole bool) {
	t.Helper()
	if version == config.ProtocolHTTP1 {
		_, body, _ := bytes.Cut(data, []byte("\r\n\r\n"))
		return len(body), len(body) == lastBytes
	}
	for f := http2.NewFramer(nil, bytes.NewReader(data)); ; {
		frame, err := f.ReadFrame()
		if err != nil {
			return n, whole
		}
		if d, ok := frame.(*http2.DataFrame); ok {
			n, whole = n+len(d.Data()), d.StreamEnded()
		}
	}
}

// TestTheLastBytesTakeTheirTime: a client that takes its last response slowly gets all of it, for as long as that may take; the time that
// it has begins anew whenever it takes something.
func TestTheLastBytesTakeTheirTime(t *testing.T) {
	inEveryVersion(t, func(t *testing.T, version config.Protocol, s *safe) {
		t.Parallel()
		const patience = 2 * time.Second
		p, conn, pace := narrow(t, version, s, patience)
		data := make([]byte, 0, 2*lastBytes)
		read := func() {
			t.Helper()
			n, err := conn.Read(data[len(data):cap(data)])
			if data = data[:len(data)+n]; err != nil {
				t.Fatalf("after %d bytes: %v", len(data), err)
			}
		}
		p.waitStat("http.outbound.downstream_rq_2xx", "1")
		pace.pause = patience / 40
		for began := time.Now(); time.Since(began) < 2*patience; {
			read()
		}
		if n, _ := content(t, version, data); n > lastBytes*9/10 {
			t.Errorf("%d bytes are read already", n)
		}
		pace.pause = 0
		rest, err := io.ReadAll(conn)
		if n, whole := content(t, version, append(data, rest...)); n != lastBytes || !whole || err != nil {
			t.Errorf("%d bytes came, the end is there: %v; %v", n, whole, err)
		}
		if got := p.stat("http.outbound.downstream_cx_delayed_close_timeout"); got != "0" {
			t.Errorf("downstream_cx_delayed_close_timeout is %s", got)
		}
	})
}

// TestWhoDoesNotTakeTheLastBytesIsReset: a client that takes nothing more loses its connection, sees that it did not get all, and is
// counted.
func TestWhoDoesNotTakeTheLastBytesIsReset(t *testing.T) {
	inEveryVersion(t, func(t *testing.T, version config.Protocol, s *safe) {
		p, conn, _ := narrow(t, version, s, 300*time.Millisecond)
		p.waitStat("http.outbound.downstream_cx_delayed_close_timeout", "1")
		p.waitStat("http.outbound.downstream_cx_active", "0")
		data, err := io.ReadAll(conn)
		if n, whole := content(t, version, data); n >= lastBytes || whole || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%d bytes came, the end is there: %v; %v, want a reset", n, whole, err)
		}
	})
}

// TestTheLastBytesOfAStream: the same goes for a client of HTTP/2 that lets little be sent at a time, for each stream: one that lets nothing be
// sent loses that stream, and nothing else.
func TestTheLastBytesOfAStream(t *testing.T) {
	t.Parallel()
	const patience = 2 * time.Second
	host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			answer(conn, strings.Repeat("x", lastBytes))
		}
	})
	p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, host, func(l *config.Listener, _ *config.Cluster) { l.HTTP.StreamIdleTimeout = patience })
	f := p.dial2(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
	_ = f.conn.SetDeadline(time.Now().Add(time.Minute))
	f.get(1)
	f.get(3)
	p.waitStat("http.outbound.downstream_rq_2xx", "2")
	const steps = 20
	got, reset := 0, false
	f.until(func(frame http2.Frame) bool {
		switch frame := frame.(type) {
		case *http2.DataFrame:
			if frame.StreamID == 1 {
				got += len(frame.Data())
				time.Sleep(2 * patience / steps)
				_ = f.WriteWindowUpdate(1, lastBytes/steps)
				return frame.StreamEnded()
			}
		case *http2.RSTStreamFrame:
			reset = true
			if frame.StreamID != 3 {
				t.Errorf("%v after %d bytes", frame, got)
				return true
			}
		}
		return false
	})
	if got != lastBytes || !reset {
		t.Errorf("%d bytes of a slow stream came, one that stood was reset: %v", got, reset)
	}
	p.waitStat("http.outbound.downstream_rq_idle_timeout", "1")
}

// TestAnotherRequestCutsNothingOff: a client that has not got all of its last response yet, whose connection ends for another reason
// than that it asked for that, gets it whole, also when it sends another request meanwhile, which is not answered.
func TestAnotherRequestCutsNothingOff(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*config.HTTP)
		ended  string // the figure that tells
	}{
		{"last request", func(h *config.HTTP) { h.MaxConnectionRequests = 1 }, "http.outbound.downstream_rq_2xx"},
		{"idle", func(h *config.HTTP) { h.IdleTimeout = 50 * time.Millisecond }, "http.outbound.downstream_cx_idle_timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				for readHead(r) != "" {
					answer(conn, strings.Repeat("x", lastBytes))
				}
			})
			const patience = 50 * time.Millisecond
			p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP1, host, func(l *config.Listener, _ *config.Cluster) {
				l.HTTP.DelayedCloseTimeout = patience
				c.change(l.HTTP)
			})
			p.SendBuffer(8 * lastBytes) // the kernel takes all of it
			conn := dialNarrow(t, p.addr.String())
			_, _ = io.WriteString(conn, get)
			p.waitStat(c.ended, "1")
			data := make([]byte, 0, 2*lastBytes)
			const steps = 20
			for i := range steps {
				_, _ = io.WriteString(conn, get)
				n, err := io.ReadFull(conn, data[len(data):len(data)+lastBytes/2/steps])
				if data = data[:len(data)+n]; err != nil {
					t.Fatalf("step %d, after %d bytes: %v", i, len(data), err)
				}
				time.Sleep(patience / 5)
			}
			rest, err := io.ReadAll(conn)
			if n, whole := content(t, config.ProtocolHTTP1, append(data, rest...)); !whole || err != nil {
				t.Errorf("%d bytes came, want %d and the end: %v", n, lastBytes, err)
			}
		})
	}
}
