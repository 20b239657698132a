package proxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestLiveTrafficOutlastsItsListener: the drain_timeout of a connection manager cuts nothing. A response and a WebSocket that
// are under way when their listener is removed, or its chain replaced because a certificate in the configuration is another
// one, go on after it; an idle connection ends soon.
func TestLiveTrafficOutlastsItsListener(t *testing.T) {
	a := testbed.NewAuthority(t)
	for _, c := range []struct {
		name   string
		change func(t *testing.T, l *config.Listener) []*config.Listener
	}{
		{"listener removed", func(*testing.T, *config.Listener) []*config.Listener { return nil }},
		{"certificate rotated", func(t *testing.T, l *config.Listener) []*config.Listener {
			next, chain := *l, *l.Chains[0]
			chain.TLS = settings(t, a.Leaf("web.mesh.internal", "second"))
			next.Chains = []*config.FilterChain{&chain}
			return []*config.Listener{&next}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			hold := make(chan struct{})
			release := sync.OnceFunc(func() { close(hold) })
			defer release()
			backend := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
				if head := readHead(r); head[:10] == "GET /idle " {
					answer(conn, "idle")
					return
				} else if head[:8] == "GET /ws " {
					_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
					_, _ = io.Copy(conn, r)
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwh")
				<-hold
				_, _ = io.WriteString(conn, "ole")
			})
			l, _ := tlsWeb(t, settings(t, a.Leaf("web.mesh.internal", "first")))
			l.Chains[0].HTTP.DrainTimeout = 50 * time.Millisecond
			cl := clusters(cluster("web", backend))
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: cl}, oneLoop)
			open := func(text string) (net.Conn, *bufio.Reader) {
				conn := tls.Client(p.dial(), &tls.Config{RootCAs: a.Pool(), ServerName: "first"})
				_, _ = io.WriteString(conn, text)
				return conn, bufio.NewReader(conn)
			}
			const host = " HTTP/1.1\r\nHost: web.mesh.internal\r\n"
			_, download := open("GET /" + host + "\r\n")
			resp, err := http.ReadResponse(download, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			socket, echo := open("GET /ws" + host + "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			readHead(echo)
			_, idle := open("GET /idle" + host + "\r\n")
			if resp, body := readResponse(t, idle, "GET"); body != "idle" || resp.Close {
				t.Fatalf("%s %q", resp.Status, body)
			}
			p.config.Set(&config.Config{Version: "2", Listeners: c.change(t, l), Clusters: cl})
			if _, err := idle.ReadByte(); err != io.EOF { // and more time than the drain timeout has passed
				t.Errorf("the idle connection ends with %v", err)
			}
			_, _ = io.WriteString(socket, "still there\n")
			if line, err := echo.ReadString('\n'); line != "still there\n" {
				t.Errorf("the WebSocket: %q, %v", line, err)
			}
			release()
			if body, err := io.ReadAll(resp.Body); string(body) != "whole" {
				t.Errorf("the download: %q, %v", body, err)
			}
		})
	}
}

// TestPauseBetweenGoAways: between the GOAWAY that names no stream and the one that does lies the drain_timeout of the connection
// manager, in which a client may begin requests; it is not waited out with a client that has heard and has nothing under way.
func TestPauseBetweenGoAways(t *testing.T) {
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if head := readHead(r); head[:6] == "GET / " {
			answer(conn, "late")
			return
		}
		<-hold
		answer(conn, "first")
	}), func(l *config.Listener, _ *config.Cluster) { l.HTTP.DrainTimeout = time.Minute })
	f := p.dial2(t)
	f.head(1, true, ":method", "GET", ":scheme", "http", ":path", "/hang", ":authority", "web.mesh.internal")
	p.waitStat("cluster.web.upstream_rq_active", "1")
	p.config.Set(&config.Config{Version: "2", Clusters: clusters(cluster("web", freeAddr(t).String()))})
	f.until(func(frame http2.Frame) bool {
		g, ok := frame.(*http2.GoAwayFrame)
		return ok && g.LastStreamID == 1<<31-1
	})
	f.until(func(frame http2.Frame) bool {
		ping, ok := frame.(*http2.PingFrame)
		if ok {
			_ = f.WritePing(true, ping.Data)
		}
		return ok
	})
	time.Sleep(1500 * time.Millisecond) // what is refused after a second is not by then
	f.get(3)
	answered := false
	f.until(func(frame http2.Frame) bool {
		switch frame := frame.(type) {
		case *http2.GoAwayFrame:
			t.Fatalf("stream %d is the last", frame.LastStreamID)
		case *http2.HeadersFrame:
			answered = frame.StreamID == 3
		}
		return answered
	})
	release()
	f.until(ended(1))
	f.until(func(frame http2.Frame) bool {
		g, ok := frame.(*http2.GoAwayFrame)
		return ok && g.LastStreamID == 3
	})
	if frame, err := f.ReadFrame(); err != io.EOF {
		t.Errorf("%v %v after the last", frame, err)
	}
}
