package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// A hostile host says first to a request, in its own protocol, and then again as often as it is let. What the client gets is a status,
// or "cut": the response began, and that it is not whole is seen.
type hostile struct {
	name         string
	first, again []byte
	want         string
	lives        bool // the rules are those of a stream: its connection goes on
	most         int  // bytes of it that are read
}

const okHead = "HTTP/1.1 200 OK\r\n"

// hostileHTTP1 are the ways of HTTP/1.
func hostileHTTP1() []hostile {
	const chunked = okHead + "Transfer-Encoding: chunked\r\n\r\n"
	of := func(name, first, again, want string) hostile {
		if again != "" {
			again = strings.Repeat(again, 1+(16<<10)/len(again))
		}
		return hostile{name, []byte(first), []byte(again), want, false, hostileRead}
	}
	return []hostile{
		of("not HTTP", "SSH-2.0-OpenSSH\r\n\r\n", "", "502"),
		of("101 nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "", "502"),
		of("endless status line", "HTTP/1.1 200 ", "a", "502"),
		of("endless line of a head", okHead+"a: ", "a", "502"),
		of("endless lines of a head", okHead, "a: b\r\n", "502"),
		of("huge head", okHead+"a: "+strings.Repeat("b", 70<<10)+"\r\n\r\n", "", "502"),
		of("two lengths", okHead+"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "", "502"),
		of("endless 1xx", "HTTP/1.1 103 Early Hints\r\n", "\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n", "502"),
		of("endless extension of a chunk", chunked+"1;", "a", "cut"),
		of("endless extensions of a chunk", chunked+"1", ";a=b", "cut"),
		of("endless chunks with extensions", chunked, "1;"+strings.Repeat("a", 1000)+"\r\na\r\n", "cut"),
		of("endless digits of a chunk", chunked, "0", "cut"),
		of("endless line of trailers", chunked+"1\r\na\r\n0\r\na: ", "a", "cut"),
		of("endless trailers", chunked+"1\r\na\r\n0\r\n", "a: b\r\n", "cut"),
	}
}

// framesOf are what write writes.
func framesOf(write func(f *peer2)) []byte {
	var out bytes.Buffer
	f := &peer2{Framer: http2.NewFramer(&out, nil)}
	f.AllowIllegalWrites = true
	write(f)
	return out.Bytes()
}

// bomb is a head that is small, and 4 MB when decoded.
func bomb(fields ...string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = e.WriteField(hpack.HeaderField{Name: "a", Value: strings.Repeat("b", 4000)})
	return append(block.Bytes(), bytes.Repeat([]byte{0x80 | 62}, 1000)...) // the newest entry of the table
}

// hostileHTTP2 are the ways of HTTP/2, on the first stream of a connection.
func hostileHTTP2() []hostile {
	nothing := func(*peer2) {}
	ok := func(f *peer2) { f.head(1, false, ":status", "200") }
	of := func(name string, first, again func(f *peer2), want string, lives bool) hostile {
		unit := framesOf(again)
		if len(unit) > 0 {
			unit = bytes.Repeat(unit, 1+(16<<10)/len(unit))
		}
		return hostile{name, framesOf(first), unit, want, lives, hostileRead}
	}
	section := func(block []byte, end bool) func(f *peer2) {
		return func(f *peer2) {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: end})
		}
	}
	more := func(n int) func(f *peer2) {
		return func(f *peer2) { _ = f.WriteContinuation(1, false, slices.Repeat([]byte{0x88}, n)) }
	}
	ignoresReset := of("endless content beyond its length", func(f *peer2) { f.head(1, false, ":status", "200", "content-length", "2") }, func(f *peer2) { _ = f.WriteData(1, false, make([]byte, 16<<10)) }, "cut", false)
	ignoresReset.most = 17 << 20 // a thousand frames, of which nothing is kept
	return []hostile{
		of("not HTTP/2", func(f *peer2) { _ = f.WriteRawFrame('H', 'T', 'T'<<16, []byte("1.1 400 Bad Request")) }, func(f *peer2) { _ = f.WriteRawFrame(http2.FrameSettings, 0, 1, nil) }, "502", false),
		of("endless CONTINUATION", func(f *peer2) { _ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}) }, more(16<<10), "502", false),
		of("endless CONTINUATION of nothing", func(f *peer2) { _ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1}) }, more(0), "502", false),
		of("endless CONTINUATION of trailers", func(f *peer2) { ok(f); _ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true}) }, more(16<<10), "cut", false),
		of("head that is huge when decoded", section(bomb(":status", "200"), true), nothing, "502", true),
		of("trailers that are huge when decoded", func(f *peer2) { ok(f); section(bomb(), true)(f) }, nothing, "cut", true),
		of("two lengths", func(f *peer2) { f.head(1, false, ":status", "200", "content-length", "1", "content-length", "2") }, nothing, "502", true),
		of("PUSH_PROMISE", func(f *peer2) {
			_ = f.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: []byte{0x82, 0x84, 0x87}, EndHeaders: true})
		}, nothing, "502", false),
		of("endless 1xx", nothing, func(f *peer2) { f.head(1, false, ":status", "103", "link", "</a>") }, "502", false),
		of("window of the connection that overflows", func(f *peer2) { _ = f.WriteWindowUpdate(0, 1<<31-1) }, nothing, "502", false),
		of("window of a stream that overflows", func(f *peer2) { _ = f.WriteWindowUpdate(1, 1<<31-1) }, nothing, "502", true),
		of("windows, over and over", nothing, func(f *peer2) { _ = f.WriteWindowUpdate(0, 1) }, "502", false),
		of("content beyond its length", func(f *peer2) {
			f.head(1, false, ":status", "200", "content-length", "2")
			_ = f.WriteData(1, true, []byte("abc"))
		}, nothing, "cut", true),
		ignoresReset,
		of("endless content of nothing", ok, func(f *peer2) { _ = f.WriteData(1, false, nil) }, "cut", false),
		of("RST_STREAM, over and over", nothing, func(f *peer2) { _ = f.WriteRSTStream(1, http2.ErrCodeCancel) }, "503", false),
		of("GOAWAY, over and over", nothing, func(f *peer2) { _ = f.WriteGoAway(1, http2.ErrCodeNo, nil) }, "502", false),
		of("SETTINGS, over and over", nothing, func(f *peer2) { _ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16}) }, "502", false),
		of("PING, over and over", nothing, func(f *peer2) { _ = f.WritePing(false, [8]byte{}) }, "502", false),
		of("frames of no known type", nothing, func(f *peer2) { _ = f.WriteRawFrame(77, 0, 0, nil) }, "502", false),
	}
}

// attack does it until the connection is closed.
func (h *hostile) attack(t *testing.T, conn net.Conn) {
	_ = conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
	_, err := conn.Write(h.first)
	for err == nil && len(h.again) > 0 {
		_, err = conn.Write(h.again)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("nobody closes the host's connection")
	}
}

// startHostileHost runs a host that does so when it is asked for /hostile, and serves all others.
func startHostileHost(t *testing.T, up config.Protocol, h *hostile) string {
	if up == config.ProtocolHTTP1 {
		return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			for head := readHead(r); head != ""; head = readHead(r) {
				if !strings.HasPrefix(head, "GET /hostile ") {
					answer(conn, "served")
					continue
				}
				h.attack(t, conn)
				_, _ = io.Copy(io.Discard, r)
			}
		})
	}
	return mute(t, func(_ int, f *peer2) {
		_ = f.WriteSettings()
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.MetaHeadersFrame:
				if frame.PseudoValue("path") == "/hostile" {
					h.attack(t, f.conn)
					continue
				}
				f.head(frame.StreamID, false, ":status", "200")
				_ = f.WriteData(frame.StreamID, true, []byte("served"))
			}
		}
	})
}

// TestCVEClass18_HostileHosts: whatever a host says without an end, or against the rules, little of it is read, its client is told in
// its own protocol's words, the connection is closed and counted, and nobody else is concerned: neither who uses the same connection
// of the client, nor the next who asks that host.
func TestCVEClass18_HostileHosts(t *testing.T) {
	for _, pair := range pairings {
		ways := hostileHTTP1()
		if pair.up == config.ProtocolHTTP2 {
			ways = hostileHTTP2()
		}
		for i := range ways {
			t.Run(pair.name+"/"+ways[i].name, func(t *testing.T) { testHostileHost(t, pair, &ways[i]) })
		}
	}
}

const (
	hostileRead  = 1 << 20
	hostileAlloc = 16 << 20 // by both ends
)

func testHostileHost(t *testing.T, pair pairing, h *hostile) {
	v := plain("web")
	v.Routes = append([]*config.Route{{Path: "/echo", Clusters: []config.WeightedCluster{{Name: "sound", Weight: 1}}}}, v.Routes...)
	l, web := httpConfig(freeAddr(t), v), cluster("web", startHostileHost(t, pair.up, h))
	l.HTTP.Protocol, web.Protocol = pair.down, pair.up
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(web, cluster("sound", plainServer(t, echoAtOnce)))}, oneLoop)
	client := p.plainClient(pair.down)
	var dialed atomic.Int32
	tr := client.Transport.(*http.Transport)
	dial := tr.DialContext
	tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed.Add(1)
		return dial(ctx, network, addr)
	}
	neighbour, body := beside(t, client)
	pooled := int32(-1)
	for pair.down == config.ProtocolHTTP2 && pooled != dialed.Load() { // net/http shares a new connection a moment after its first request
		pooled = dialed.Load()
		if status, _, err := fetchPath(client, "/echo"); status != 200 || err != nil {
			t.Fatal(status, err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := outcome(t, client, pair.down)
	p.await("the host's offence is counted", func() bool { return p.count("cluster.web.upstream_cx_protocol_error") > 0 })
	conns := "1"
	if !h.lives {
		p.waitStat("cluster.web.upstream_cx_active", "0")
		conns = "2"
	}
	runtime.ReadMemStats(&after)
	if got != h.want {
		t.Errorf("the client got %q, want %q", got, h.want)
	}
	if n := p.count("cluster.web.upstream_cx_rx_bytes_total"); n > h.most {
		t.Errorf("%d bytes of the host were read, want %d at most", n, h.most)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > hostileAlloc {
		t.Errorf("%d bytes were allocated, want %d at most", n, hostileAlloc)
	}
	if status, text, err := fetchPath(client, "/next"); status != 200 || text != "served" || err != nil {
		t.Errorf("the next who asks the host gets %d %q %v", status, text, err)
	}
	p.waitStat("cluster.web.upstream_cx_total", conns)
	_, _ = io.WriteString(body, " and goes on")
	_ = body.Close()
	if rest, err := io.ReadAll(neighbour.Body); string(rest) != " and goes on" || err != nil {
		t.Errorf("who is beside gets %q %v", rest, err)
	}
	neighbour.Body.Close()
	// After too many 1xx net/http may leave a connection by itself.
	if n := dialed.Load() - pooled; pair.down == config.ProtocolHTTP2 && n != 0 && h.name != "endless 1xx" {
		t.Errorf("the client needed %d connections more", n)
	}
	p.waitStat("http.outbound.downstream_rq_active", "0")
	p.waitStat("cluster.web.upstream_rq_active", "0")
}

// echoAtOnce says what it reads when it reads it.
func echoAtOnce(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	_ = c.EnableFullDuplex()
	for buf := make([]byte, 100); ; {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(buf[:n])
		if _ = c.Flush(); err != nil {
			return
		}
	}
}

// beside begins an exchange with a sound host that goes on as long as the test writes.
func beside(t *testing.T, client *http.Client) (*http.Response, io.WriteCloser) {
	t.Helper()
	body, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	go func() { _, _ = io.WriteString(w, "begins") }()
	resp, err := client.Post(pairURL+"/echo", "text/plain", body)
	if err != nil {
		t.Fatal(err)
	}
	begins := make([]byte, len("begins"))
	if _, err := io.ReadFull(resp.Body, begins); err != nil {
		t.Fatal(err)
	}
	return resp, w
}

func fetchPath(client *http.Client, path string) (status int, body string, err error) {
	resp, err := client.Get(pairURL + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// outcome is the status of a whole response to a request for /hostile, or how it was cut off.
func outcome(t *testing.T, client *http.Client, version config.Protocol) string {
	t.Helper()
	status, body, err := fetchPath(client, "/hostile")
	var reset http2.StreamError
	switch {
	case err == nil && status == 502 && !strings.Contains(body, "reset reason: protocol error"), err == nil && status == 503 && !strings.Contains(body, "reset reason: remote reset"):
		return body
	case err == nil:
		return strconv.Itoa(status)
	case version == config.ProtocolHTTP1 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)):
		return "cut"
	case version == config.ProtocolHTTP2 && errors.As(err, &reset):
		return "cut"
	}
	return err.Error()
}
