package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// peer2 is one end of a connection of HTTP/2 that does as the test says.
type peer2 struct {
	*http2.Framer
	t    *testing.T
	conn net.Conn
}

// dial2 opens a connection to the proxy and says hello.
func (p *testProxy) dial2(t *testing.T, settings ...http2.Setting) *peer2 {
	t.Helper()
	conn := p.dial()
	_, _ = io.WriteString(conn, http2.ClientPreface)
	f := &peer2{http2.NewFramer(conn, conn), t, conn}
	_ = f.WriteSettings(settings...)
	return f
}

// head sends a head of fields that alternate with their values.
func (f *peer2) head(stream uint32, end bool, fields ...string) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end})
}

func (f *peer2) get(stream uint32) {
	f.head(stream, true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "web.mesh.internal")
}

func (f *peer2) tunnel(stream uint32) {
	f.head(stream, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "web.mesh.internal")
}

// until reads frames until one is as wanted; the content of the others on a stream is returned.
func (f *peer2) until(want func(http2.Frame) bool) string {
	f.t.Helper()
	var content strings.Builder
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			f.t.Fatalf("%v, after %q", err, content.String())
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			content.Write(frame.Data())
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		}
		if want(frame) {
			return content.String()
		}
	}
}

func ended(stream uint32) func(http2.Frame) bool {
	return func(f http2.Frame) bool {
		return f.Header().StreamID == stream && (f.Header().Type == http2.FrameData || f.Header().Type == http2.FrameHeaders) && f.Header().Flags.Has(http2.FlagDataEndStream)
	}
}

// mute accepts connections of HTTP/2, reads the client's preface and hands them over.
func mute(t *testing.T, serve func(n int, f *peer2)) string {
	t.Helper()
	var count atomic.Int32
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := io.CopyN(io.Discard, r, int64(len(http2.ClientPreface))); err == nil {
			serve(int(count.Add(1)), &peer2{http2.NewFramer(conn, r), t, conn})
		}
	})
}

func start2(t *testing.T, down, up config.Protocol, host string, change func(*config.Listener, *config.Cluster)) *testProxy {
	t.Helper()
	l, c := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web")), cluster("web", host)
	l.HTTP.Protocol, c.Protocol = down, up
	if change != nil {
		change(l, c)
	}
	return start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
}

const webSocketRequest = "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"

// TestTunnelsThatWaitForTheHost: a tunnel waits until the host has said whether it takes any. What happens meanwhile concerns
// nobody else: its client may leave, and the host too.
func TestTunnelsThatWaitForTheHost(t *testing.T) {
	t.Run("the client leaves", func(t *testing.T) {
		host := mute(t, func(_ int, f *peer2) {
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					return
				}
				if h, ok := frame.(*http2.HeadersFrame); ok {
					_ = f.WriteSettings() // no tunnels, it says
					f.head(h.StreamID, true, ":status", "200")
				}
			}
		})
		p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP2, host, nil)
		conn := p.dial()
		_, _ = io.WriteString(conn, webSocketRequest)
		p.waitStat("cluster.web.upstream_rq_active", "1")
		for p.stat("cluster.web.upstream_cx_tx_bytes_total") == "0" {
			time.Sleep(time.Millisecond)
		}
		conn.Close()
		p.waitStat("cluster.web.upstream_rq_active", "0")
		if got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("another request got %q", got)
		}
		if n := p.stat("cluster.web.upstream_cx_total"); n != "1" {
			t.Errorf("%s connections", n)
		}
	})
	t.Run("the host leaves", func(t *testing.T) {
		host := mute(t, func(_ int, f *peer2) { _, _ = f.ReadFrame() })
		p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP2, host, func(l *config.Listener, _ *config.Cluster) { l.HTTP.StreamIdleTimeout = time.Hour })
		conn := p.dial()
		_, _ = io.WriteString(conn, webSocketRequest)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 503 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}

// TestTunnelsEndInEveryOrder: each direction of a tunnel has its end, whenever that comes.
func TestTunnelsEndInEveryOrder(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
	t.Run("the client's before it is accepted", func(t *testing.T) {
		host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			readHead(r)
			time.Sleep(100 * time.Millisecond)
			_, _ = io.WriteString(conn, switching)
			got, _ := io.ReadAll(r)
			fmt.Fprintf(conn, "%s and the end", got)
		})
		p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, host, nil)
		f := p.dial2(t)
		f.tunnel(1)
		_ = f.WriteData(1, true, []byte("early"))
		if got := f.until(ended(1)); got != "" && got != "early and the end" {
			t.Errorf("%q", got)
		}
		p.waitStat("http.outbound.downstream_rq_active", "0")
	})
	t.Run("the host's with its consent", func(t *testing.T) {
		host := mute(t, func(_ int, f *peer2) {
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
			f.until(func(frame http2.Frame) bool { return frame.Header().Type == http2.FrameHeaders })
			f.head(1, true, ":status", "200")
			f.until(ended(1))
		})
		p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP2, host, nil)
		conn := p.dial()
		_, _ = io.WriteString(conn, webSocketRequest)
		got, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 101") {
			t.Errorf("%q %v", got, err)
		}
		conn.Close()
		p.waitStat("http.outbound.downstream_rq_active", "0")
	})
	t.Run("the host's before it is idle", func(t *testing.T) {
		host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			readHead(r)
			_, _ = io.WriteString(conn, switching)
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, r)
		})
		p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, host, func(l *config.Listener, _ *config.Cluster) {
			l.HTTP.StreamIdleTimeout = 300 * time.Millisecond
		})
		f := p.dial2(t)
		f.tunnel(1)
		f.until(ended(1))
		f.until(func(frame http2.Frame) bool { return frame.Header().Type == http2.FrameRSTStream })
		_ = f.WritePing(false, [8]byte{1})
		f.until(func(frame http2.Frame) bool { return frame.Header().Type == http2.FramePing })
	})
}

// TestSessionsThatDrainEnd: a client that begins another request after it was told to begin no more is served, and the connection
// ends all the same.
func TestSessionsThatDrainEnd(t *testing.T) {
	p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, server(t, func(http.ResponseWriter, *http.Request) {}), func(l *config.Listener, _ *config.Cluster) {
		l.HTTP.MaxConnectionRequests = 1
	})
	f := p.dial2(t)
	f.get(1)
	f.until(ended(1))
	f.get(3)
	f.until(ended(3))
	f.until(func(frame http2.Frame) bool {
		g, ok := frame.(*http2.GoAwayFrame)
		return ok && g.LastStreamID == 3
	})
	if frame, err := f.ReadFrame(); err != io.EOF {
		t.Errorf("%v %v after the last", frame, err)
	}
}

// TestCVEClass15_WhatIsTakenBackAtOnceReachesNobody: requests that are reset in the same breath are counted, but no host hears of
// them; those beside them are served.
func TestCVEClass15_WhatIsTakenBackAtOnceReachesNobody(t *testing.T) {
	for _, up := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		t.Run(fmt.Sprintf("host %d", up), func(t *testing.T) {
			host := plainServer(t, func(http.ResponseWriter, *http.Request) {})
			p := start2(t, config.ProtocolHTTP2, up, host, nil)
			f := p.dial2(t)
			var breath bytes.Buffer
			all := &peer2{http2.NewFramer(&breath, nil), t, nil}
			for i := range uint32(50) {
				all.get(2*i + 1)
			}
			for i := range uint32(50) {
				_ = all.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
			}
			all.get(101)
			_, _ = f.conn.Write(breath.Bytes())
			f.until(ended(101))
			p.waitStat("http.outbound.downstream_rq_total", "51")
			p.waitStat("http.outbound.downstream_rq_rx_reset", "50")
			p.waitStat("http.outbound.downstream_rq_active", "0")
			p.waitStat("cluster.web.upstream_rq_total", "1")
			p.waitStat("cluster.web.upstream_cx_total", "1")
		})
	}
}

// TestStreamsThatAreResetAreNotStale: a connection that was idle may be closed by the host at any time, so what is sent then is
// sent again. A stream that the host resets has met it.
func TestStreamsThatAreResetAreNotStale(t *testing.T) {
	var seen atomic.Int32
	host := framed(t, func(n int32, f *http2.Framer, stream uint32, body []byte) {
		if seen.Store(n); n > 1 {
			_ = f.WriteRSTStream(stream, http2.ErrCodeInternal)
			return
		}
		answerFramed(f, stream, body)
	})
	p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP2, host, func(l *config.Listener, _ *config.Cluster) {
		l.HTTP.Routes.VirtualHosts[0].Routes[0].Retry = config.Retry{}
	})
	for i, want := range []int{200, 503} {
		resp, err := p.plainClient(config.ProtocolHTTP1).Get(pairURL + "/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want || int(seen.Load()) != i+1 {
			t.Errorf("request %d: status %d, the host saw %d", i+1, resp.StatusCode, seen.Load())
		}
	}
}

// TestHostsThatBreakTheRulesAndDoNotRead: nobody waits for them to take the last words.
func TestHostsThatBreakTheRulesAndDoNotRead(t *testing.T) {
	host := mute(t, func(_ int, f *peer2) {
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
		_ = f.WriteWindowUpdate(0, 1<<30)
		time.Sleep(time.Second)
		_ = f.WriteRawFrame(http2.FrameSettings, 0, 1, nil)
		time.Sleep(8 * time.Second)
	})
	p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP2, host, func(l *config.Listener, _ *config.Cluster) {
		l.HTTP.Routes.VirtualHosts[0].Routes[0].Retry = config.Retry{}
		l.HTTP.Routes.VirtualHosts[0].Routes[0].Timeout = time.Hour
		l.HTTP.StreamIdleTimeout = time.Hour
	})
	conn := p.dial()
	go func() {
		_, _ = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: %d\r\n\r\n", 1<<30)
		for chunk := make([]byte, 1<<20); ; {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if resp.StatusCode/100 != 5 {
		t.Errorf("status %d", resp.StatusCode)
	}
	p.waitStat("cluster.web.upstream_cx_active", "0")
}

// TestClientsThatAskAndDoNotRead: responses that nobody reads do not pile up without limit, however short each is, and all of
// them come when they are read after all.
func TestClientsThatAskAndDoNotRead(t *testing.T) {
	const requests, size = 4000, 16 << 10
	body := make([]byte, size)
	host := server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
	p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, host, func(l *config.Listener, _ *config.Cluster) { l.HTTP.StreamIdleTimeout = time.Minute })
	f := p.dial2(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	_ = f.conn.SetDeadline(time.Now().Add(time.Minute))
	_ = f.conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	_ = f.WriteWindowUpdate(0, 1<<30)
	f.until(func(frame http2.Frame) bool { return frame.Header().Type == http2.FrameSettings })
	sent := make(chan struct{})
	open := make(chan struct{}, 50) // the proxy takes a hundred at once
	go func() {
		defer close(sent)
		for i := range requests {
			open <- struct{}{}
			f.get(uint32(2*i + 1))
		}
	}()
	// Without a reader the only sign that a request is served is the proxy's own count.
	last, still := 0, 0
	for still < 10 {
		total := p.count("http.outbound.downstream_rq_completed")
		for ; last < total; last++ {
			<-open
			still = 0
		}
		still++
		time.Sleep(50 * time.Millisecond)
	}
	if waits := last * size; waits > 40<<20 {
		t.Errorf("%d bytes wait for a client that reads nothing", waits)
	}
	for got, data := 0, 0; got < requests; {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%v after %d responses", err, got)
		}
		if d, ok := frame.(*http2.DataFrame); ok {
			data += len(d.Data())
		}
		if h := frame.Header(); h.Type == http2.FrameRSTStream {
			t.Fatalf("stream %d was refused after %d responses", h.StreamID, got)
		} else if ended(h.StreamID)(frame) {
			if got++; got > last {
				<-open
			}
		}
		if got == requests && data != requests*size {
			t.Errorf("%d bytes came", data)
		}
	}
	<-sent
}
