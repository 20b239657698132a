package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// framed accepts connections of HTTP/2 and has each request handled, by its number over all connections, when its stream has ended.
func framed(t *testing.T, handle func(n int32, f *http2.Framer, stream uint32, body []byte)) string {
	t.Helper()
	var count atomic.Int32
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	serve := func(conn net.Conn) {
		defer conn.Close()
		if _, err := io.CopyN(io.Discard, conn, int64(len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(conn, conn)
		_ = f.WriteSettings()
		bodies := map[uint32][]byte{}
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			ended := false
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.HeadersFrame:
				ended = frame.StreamEnded()
			case *http2.DataFrame:
				bodies[frame.StreamID] = append(bodies[frame.StreamID], frame.Data()...)
				ended = frame.StreamEnded()
			}
			if ended {
				id := frame.Header().StreamID
				handle(count.Add(1), f, id, bodies[id])
			}
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l.Addr().String()
}

// answerFramed answers a stream with what it was sent.
func answerFramed(f *http2.Framer, stream uint32, body []byte) {
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
	_ = f.WriteData(stream, true, body)
}

// TestRefusedStreamsAreRepeated: a request that the host says it has not processed is sent again, whatever its method; one that
// was merely cut off is not.
func TestRefusedStreamsAreRepeated(t *testing.T) {
	refuse := func(f *http2.Framer, stream uint32) { _ = f.WriteRSTStream(stream, http2.ErrCodeRefusedStream) }
	for _, c := range []struct {
		name string
		on   config.RetryOn
		cut  func(f *http2.Framer, stream uint32)
		want string
	}{
		{"refused", config.RetryRefusedStream, refuse, "200 body"},
		{"shut down before it", config.RetryRefusedStream, func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) }, "200 body"},
		{"refused without a policy", 0, refuse, "503 upstream connect error"},
		{"reset", config.RetryRefusedStream | config.RetryReset, func(f *http2.Framer, stream uint32) { _ = f.WriteRSTStream(stream, http2.ErrCodeInternal) }, "503 upstream connect error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := framed(t, func(n int32, f *http2.Framer, stream uint32, body []byte) {
				if n == 1 {
					c.cut(f, stream)
					return
				}
				answerFramed(f, stream, body)
			})
			v := vhost("web.mesh.internal", "web")
			v.Routes[0].Retry = config.Retry{On: c.on, Max: 1}
			cl := cluster("web", host)
			cl.Protocol = config.ProtocolHTTP2
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cl)}, nil)
			resp, err := p.plainClient(config.ProtocolHTTP1).Post(pairURL+"/", "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if got := fmt.Sprint(resp.StatusCode, " ", string(body)); !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestMalformedResponsesAreNotTheLast: a host whose response is malformed, or who does not speak HTTP/2, is not the last that is asked,
// as long as the request may be sent again.
func TestMalformedResponsesAreNotTheLast(t *testing.T) {
	malformed := func(f *http2.Framer, stream uint32) { // a head without a status
		var block bytes.Buffer
		_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: "server", Value: "broken"})
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
	}
	hinted := func(f *http2.Framer, stream uint32) {
		var block bytes.Buffer
		_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "103"})
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
		malformed(f, stream)
	}
	alien := func(f *http2.Framer, stream uint32) { _ = f.WriteRawFrame(http2.FrameSettings, 0, stream, nil) }
	for _, c := range []struct {
		name, method string
		cut          func(f *http2.Framer, stream uint32)
		want         string
	}{
		{"malformed", "PUT", malformed, "200 body"},
		{"malformed, of a POST", "POST", malformed, "502 upstream connect error"},
		{"malformed after a hint", "PUT", hinted, "502 upstream connect error"},
		{"against the rules of the connection", "PUT", alien, "200 body"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := framed(t, func(n int32, f *http2.Framer, stream uint32, body []byte) {
				if n == 1 {
					c.cut(f, stream)
					return
				}
				answerFramed(f, stream, body)
			})
			v := vhost("web.mesh.internal", "web")
			v.Routes[0].Retry = config.Retry{On: config.Retry5xx, Max: 1}
			cl := cluster("web", host)
			cl.Protocol = config.ProtocolHTTP2
			p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(cl)}, nil)
			req, _ := http.NewRequest(c.method, pairURL+"/", strings.NewReader("body"))
			resp, err := p.plainClient(config.ProtocolHTTP1).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if got := fmt.Sprint(resp.StatusCode, " ", string(body)); !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestHostsThatGoAwayAreLeft: a connection whose host takes no more requests on it is closed as soon as none is under way, which may
// be at once; nobody waits for it to be idle for long enough.
func TestHostsThatGoAwayAreLeft(t *testing.T) {
	for _, idle := range []bool{true, false} {
		t.Run(fmt.Sprintf("idle: %v", idle), func(t *testing.T) {
			leave := make(chan struct{})
			host := framed(t, func(n int32, f *http2.Framer, stream uint32, body []byte) {
				if n == 1 && !idle {
					_ = f.WriteGoAway(stream, http2.ErrCodeNo, nil)
				}
				answerFramed(f, stream, body)
				if n == 1 && idle {
					<-leave
					_ = f.WriteGoAway(stream, http2.ErrCodeNo, nil)
				}
			})
			p := start2(t, config.ProtocolHTTP1, config.ProtocolHTTP2, host, nil)
			client := p.plainClient(config.ProtocolHTTP1)
			ask := func() {
				resp, err := client.Post(pairURL+"/", "text/plain", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != 200 {
					t.Errorf("status %d", resp.StatusCode)
				}
			}
			ask()
			p.waitStat("cluster.web.upstream_rq_active", "0") // the connection is idle
			close(leave)
			p.waitStat("cluster.web.upstream_cx_active", "0")
			ask()
			p.waitStat("cluster.web.upstream_cx_total", "2")
		})
	}
}

// TestStatusesOfGRPCAreRepeated: a call that got nothing but a status which the policy names is made again.
func TestStatusesOfGRPCAreRepeated(t *testing.T) {
	for _, c := range []struct {
		name, status string
		on           config.RetryOn
		calls        string
	}{
		{"cancelled", "1", config.RetryCancelled, "2"},
		{"deadline exceeded", "4", config.RetryDeadlineExceeded, "2"},
		{"resource exhausted", "8", config.RetryResourceExhausted, "2"},
		{"internal", "13", config.RetryInternal, "2"},
		{"unavailable", "14", config.RetryUnavailable, "2"},
		{"cancelled, not named", "1", config.RetryGRPC &^ config.RetryCancelled, "1"},
		{"deadline exceeded, not named", "4", config.RetryGRPC &^ config.RetryDeadlineExceeded, "1"},
		{"resource exhausted, not named", "8", config.RetryGRPC &^ config.RetryResourceExhausted, "1"},
		{"internal, not named", "13", config.RetryGRPC &^ config.RetryInternal, "1"},
		{"unavailable, not named", "14", config.RetryGRPC &^ config.RetryUnavailable, "1"},
		{"one that cannot be named", "2", config.RetryGRPC, "1"},
		{"OK", "0", config.RetryGRPC, "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var calls atomic.Int32
			host := framed(t, func(n int32, f *http2.Framer, stream uint32, body []byte) {
				if calls.Store(n); n > 1 {
					answerFramed(f, stream, body)
					return
				}
				var block bytes.Buffer
				e := hpack.NewEncoder(&block)
				for _, field := range [][2]string{{":status", "200"}, {"content-type", "application/grpc"}, {"grpc-status", c.status}} {
					_ = e.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
				}
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
			})
			v := vhost("web.mesh.internal", "web")
			v.Routes[0].Retry = config.Retry{On: c.on, Max: 1}
			cl := cluster("web", host)
			cl.Protocol = config.ProtocolHTTP2
			l := httpConfig(freeAddr(t), v)
			l.HTTP.Protocol = config.ProtocolHTTP2
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cl)}, nil)
			resp, err := p.plainClient(config.ProtocolHTTP2).Post(pairURL+"/", "application/grpc", strings.NewReader("message"))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if got := fmt.Sprint(calls.Load()); got != c.calls {
				t.Errorf("%s calls, want %s", got, c.calls)
			}
		})
	}
}

// TestHostsThatLimitStreams: a host that takes few requests at once gets no more on a connection, and the rest goes over others.
func TestHostsThatLimitStreams(t *testing.T) {
	var now, most atomic.Int32
	block := make(chan struct{})
	s := plainServer(t, func(http.ResponseWriter, *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-block
		now.Add(-1)
	})
	cl := cluster("web", s)
	cl.Protocol, cl.HTTP2.MaxStreams = config.ProtocolHTTP2, 3
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))}, Clusters: clusters(cl)}, nil)
	client := p.plainClient(config.ProtocolHTTP1)
	done := make(chan error)
	for range 10 {
		go func() {
			resp, err := client.Get(pairURL + "/")
			if err == nil {
				resp.Body.Close()
			}
			done <- err
		}()
	}
	p.waitStat("cluster.web.upstream_rq_active", "10")
	for now.Load() < 10 {
	}
	if got := p.stat("cluster.web.upstream_cx_active"); got != "4" && got != "5" { // of two loops, each of which fills its own
		t.Errorf("%s connections for 10 requests of which each takes 3", got)
	}
	close(block)
	for range 10 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
