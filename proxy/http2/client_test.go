package http2

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// clientOf returns a client that has sent one request, stream 1.
func clientOf(method string) (*recorder, *peer) {
	r := new(recorder)
	r.conn.InitClient(Limits{}, new(Arena))
	h := requestHead()
	h.MethodText = h.Put(method)
	h.Method = message.ParseMethod([]byte(method))
	r.conn.AppendHeaders(nil, r.conn.Open(), h, nil, true)
	p := newPeer()
	p.out.Reset()
	_ = p.WriteSettings()
	return r, p
}

// What a back end may not send resets the stream or ends the connection; what it may is told.
func TestResponses(t *testing.T) {
	for _, c := range []struct {
		name, method string
		write        func(p *peer)
		want         string
	}{
		{"plain", "GET", func(p *peer) { p.headers(1, false, ":status", "200"); _ = p.WriteData(1, true, []byte("a")) }, "1 end"},
		{"informational", "GET", func(p *peer) { p.headers(1, false, ":status", "103"); p.headers(1, true, ":status", "200") }, "1 headers true 200"},
		{"trailers only", "POST", func(p *peer) { p.headers(1, true, ":status", "200", "grpc-status", "0") }, "1 headers true 200\ngrpc-status: 0"},
		{"HEAD with a length", "HEAD", func(p *peer) { p.headers(1, true, ":status", "200", "content-length", "5") }, "1 headers true 200\ncontent-length: 5"},
		{"not modified with a length", "GET", func(p *peer) { p.headers(1, true, ":status", "304", "content-length", "5") }, "1 headers true 304\ncontent-length: 5"},
		{"content for HEAD", "HEAD", func(p *peer) { p.headers(1, false, ":status", "200"); _ = p.WriteData(1, true, []byte("a")) }, "rst 1 1"},
		{"content of 204", "GET", func(p *peer) { p.headers(1, false, ":status", "204"); _ = p.WriteData(1, true, []byte("a")) }, "rst 1 1"},
		{"informational that ends", "GET", func(p *peer) { p.headers(1, true, ":status", "100") }, "rst 1 1"},
		{"101", "GET", func(p *peer) { p.headers(1, false, ":status", "101") }, "rst 1 1"},
		{"no status", "GET", func(p *peer) { p.headers(1, true, "x", "y") }, "rst 1 1"},
		{"status of four digits", "GET", func(p *peer) { p.headers(1, true, ":status", "2000") }, "rst 1 1"},
		{"signed status", "GET", func(p *peer) { p.headers(1, true, ":status", "+20") }, "rst 1 1"},
		{"method", "GET", func(p *peer) { p.headers(1, true, ":status", "200", ":method", "GET") }, "rst 1 1"},
		{"line end in a value", "GET", func(p *peer) { p.headers(1, true, ":status", "200", "x", "a\r\nset-cookie: b") }, "rst 1 1"},
		{"content before the head", "GET", func(p *peer) { _ = p.WriteData(1, true, nil) }, "rst 1 1"},
		{"short", "GET", func(p *peer) {
			p.headers(1, false, ":status", "200", "content-length", "2")
			_ = p.WriteData(1, true, []byte("a"))
		}, "rst 1 1"},
		{"push", "GET", func(p *peer) {
			_ = p.WritePushPromise(oracle.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}, "goaway 1"},
		{"a stream of its own", "GET", func(p *peer) { p.headers(2, true, ":status", "200") }, "goaway 1"},
		{"a stream that is not begun", "GET", func(p *peer) { p.headers(3, true, ":status", "200") }, "goaway 1"},
		{"push allowed", "GET", func(p *peer) { _ = p.WriteSettings(oracle.Setting{ID: oracle.SettingEnablePush, Val: 1}) }, "goaway 1"},
		{"refused", "GET", func(p *peer) { _ = p.WriteRSTStream(1, oracle.ErrCodeRefusedStream) }, "1 reset 7 true"},
		{"not processed", "GET", func(p *peer) { _ = p.WriteGoAway(0, oracle.ErrCodeNo, nil) }, "1 reset 7 true"},
		{"GOAWAY that grows", "GET", func(p *peer) {
			_ = p.WriteGoAway(1, oracle.ErrCodeNo, nil)
			_ = p.WriteGoAway(3, oracle.ErrCodeNo, nil)
		}, "goaway 1"},
	} {
		r, p := clientOf(c.method)
		c.write(p)
		if got := r.run(t, p.out.Bytes()); !slices.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// What an encoder changes: names of one hop and Host stay behind, the edit comes through, the head stays as it was.
func TestEncoderEdits(t *testing.T) {
	h := requestHead()
	for _, f := range []string{"Host", "Connection", "keep-alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "HTTP2-Settings"} {
		h.AddField(f, "x")
	}
	h.AddField("X-Mixed", "Case")
	h.AddField("te", "gzip")
	before := render(h)
	client, server := new(Conn), new(recorder)
	client.InitClient(Limits{}, new(Arena))
	server.conn.InitServer(Limits{}, new(Arena))
	e := &message.Edit{
		Target: []byte("/other?z"), Authority: []byte("b:1"), Drop: message.Names(message.Authorization, message.Cookie, message.XRequestID),
		Set: []message.Set{{Known: message.Via, Value: []byte("2 mesh")}, {Name: []byte("x-set"), Value: []byte("1")}},
	}
	got := server.run(t, client.AppendHeaders(nil, client.Open(), h, e, true))
	want := "1 headers true POST http b:1 /other?z\ncontent-type: application/grpc\nte: trailers\nx-mixed: Case\nvia: 2 mesh\nx-set: 1"
	if !slices.Contains(got, want) || render(h) != before {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A section that is too large resets its stream and keeps the tables in step; one that does not end is cut off.
func TestLargeSections(t *testing.T) {
	p := newPeer()
	fields := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a"}
	for i := range 200 {
		fields = append(fields, fmt.Sprint("x-", i), "y")
	}
	p.headers(1, true, fields...)
	p.request(3, true, "x-199", "y")
	got := serverOf(Limits{}).run(t, p.out.Bytes())
	if !slices.Contains(got, "rst 1 11") || !slices.ContainsFunc(got, func(l string) bool { return strings.HasPrefix(l, "3 headers") && strings.HasSuffix(l, "x-199: y") }) {
		t.Errorf("%q", got)
	}
}

// An imitation of a name that the proxy sets is hidden, as in HTTP/1 (CVE-2026-33433).
func TestCVEClass13_ImitationsAreHidden(t *testing.T) {
	p := newPeer()
	p.request(1, true, "x_forwarded_for", "1.2.3.4", "my_own", "a")
	r := serverOf(Limits{})
	hidden := &hider{recorder: r}
	if _, err := r.conn.Feed(p.out.Bytes(), hidden); err != nil || hidden.hop != "x_forwarded_for" {
		t.Errorf("%v, hidden %q", err, hidden.hop)
	}
}

type hider struct {
	*recorder
	hop string
}

func (h *hider) Headers(_ *Stream, head *message.Head, _ bool) {
	for i := range head.Len() {
		if f := head.Field(i); f.Hop {
			h.hop += string(head.Bytes(f.Name))
		}
	}
}

// FuzzFeed feeds both ends with anything behind a good start, whole and cut: no panic, the same actions, bounded memory.
func FuzzFeed(f *testing.F) {
	p := newPeer()
	start := p.out.Len()
	p.request(1, false, "content-length", "3")
	_ = p.WriteDataPadded(1, true, []byte("abc"), make([]byte, 3))
	_ = p.WriteContinuation(1, true, nil)
	f.Add(p.out.Bytes()[start:], 20, false)
	_, q := clientOf("GET")
	q.headers(1, false, ":status", "200")
	_ = q.WriteGoAway(1, oracle.ErrCodeNo, nil)
	f.Add(q.out.Bytes(), 10, true)
	f.Add([]byte{0, 0, 0, 1, 0xff, 0, 0, 0, 1}, 3, false)
	f.Fuzz(func(t *testing.T, in []byte, cut int, client bool) {
		made := func() (*recorder, []byte) {
			if client {
				r, p := clientOf("GET")
				return r, p.out.Bytes()
			}
			return serverOf(Limits{}), newPeer().out.Bytes()
		}
		r, start := made()
		all := append(slices.Clone(start), in...)
		want := r.run(t, all)
		if cap(r.conn.control) > 8*controlBytes || r.conn.active > 101 {
			t.Fatalf("%d bytes of control, %d streams", cap(r.conn.control), r.conn.active)
		}
		r, _ = made()
		if got := r.run(t, all, min(len(all), len(start)+max(0, cut%(len(in)+1)))); !slices.Equal(got, want) {
			t.Fatalf("cut: got %q, want %q", got, want)
		}
		r.conn.Close(InternalError, r)
	})
}

// A tunnel by :protocol is opened only where the server said that it takes one (RFC 8441).
func TestExtendedConnect(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		client, server := new(recorder), new(recorder)
		client.conn.InitClient(Limits{}, new(Arena))
		server.conn.InitServer(Limits{ExtendedConnect: allowed}, new(Arena))
		if _, err := client.conn.Feed(server.conn.AppendControl(nil), client); err != nil {
			t.Fatal(err)
		}
		if client.conn.ExtendedConnect() != allowed {
			t.Errorf("the client was told %v, want %v", !allowed, allowed)
		}
		h := new(message.Head)
		h.Reset()
		h.MethodText, h.Method = h.Put("CONNECT"), message.MethodConnect
		h.Scheme, h.Authority, h.Protocol = h.Put("https"), h.Put("a"), h.Put("websocket")
		h.SetPath(h.Put("/chat"))
		in := client.conn.AppendHeaders(client.conn.AppendControl(nil), client.conn.Open(), h, nil, false)
		got := server.run(t, in)
		if slices.Contains(got, "1 headers false CONNECT https a /chat") != allowed || slices.Contains(got, "rst 1 1") == allowed {
			t.Errorf("allowed %v: %q", allowed, got)
		}
	}
}
