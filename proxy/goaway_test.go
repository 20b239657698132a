package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// slowReader connects with small receive buffers: what it does not read soon stays with the proxy.
func (p *testProxy) slowReader() net.Conn {
	p.t.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10) })
	}}
	conn, err := d.DialContext(p.t.Context(), "tcp", p.addr.String())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

// askFramed sends a preface, wide windows and a request for a host.
func askFramed(t *testing.T, conn net.Conn, host string) *http2.Framer {
	t.Helper()
	var head, out bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", host}, {":path", "/"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	out.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&out, conn)
	_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 64 << 20})
	_ = f.WriteWindowUpdate(0, 64<<20)
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true, EndStream: true})
	if _, err := conn.Write(out.Bytes()); err != nil {
		t.Fatal(err)
	}
	return http2.NewFramer(conn, conn)
}

// TestDrainLosesNoResponseThatIsOnItsWay: a client that is slow to read goes on sending (here a ping, others open windows), which
// would reset a connection that the proxy had closed behind its last response, and cost that.
func TestDrainLosesNoResponseThatIsOnItsWay(t *testing.T) {
	const size = 256 << 10
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Direct = &config.DirectResponse{Status: 200, Body: string(pattern(size))}
	l := httpConfig(freeAddr(t), v)
	l.HTTP.Protocol = config.ProtocolHTTP2
	p := start(t, &config.Config{Listeners: []*config.Listener{l}}, func(o *proxy.Options) { o.DrainTime = 20 * time.Second })
	f := askFramed(t, p.slowReader(), "web.mesh.internal")
	p.waitStat("http.outbound.downstream_rq_total", "1")
	p.waitStreams(0)
	p.cancel()
	// GOAWAY, all the time there is to hear of it, GOAWAY; nothing tells when the proxy has closed or not.
	time.Sleep(3500 * time.Millisecond)
	_ = f.WritePing(false, [8]byte{1})
	time.Sleep(50 * time.Millisecond)
	got := 0
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("after %d bytes: %v", got, err)
			}
			break
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			got += len(frame.Data())
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = f.WritePing(true, frame.Data)
			}
		}
	}
	if got != size {
		t.Errorf("got %d bytes, want %d", got, size)
	}
}

// delayed connects clients to a proxy over a network on which everything takes long. It closes neither way before the other.
func (p *testProxy) delayed(ctx context.Context, delay time.Duration) (net.Conn, error) {
	far, err := new(net.Dialer).DialContext(ctx, "tcp", p.addr.String())
	if err != nil {
		return nil, err
	}
	near, l := net.Pipe()
	late := func(to io.WriteCloser, from io.Reader) {
		type piece struct {
			at   time.Time
			data []byte
		}
		pieces := make(chan piece, 1<<12)
		go func() {
			defer to.Close()
			for c := range pieces {
				time.Sleep(time.Until(c.at))
				if _, err := to.Write(c.data); err != nil {
					for range pieces { // until the other side ends
					}
					return
				}
			}
		}()
		defer close(pieces)
		for {
			buf := make([]byte, 4<<10)
			n, err := from.Read(buf)
			if n > 0 {
				pieces <- piece{time.Now().Add(delay), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	}
	go late(far, l)
	go late(l, far)
	return near, nil
}

// TestDrainOverALongWay: requests that a client has sent before it could know that it should not are answered also when that
// is longer than the proxy usually waits, and also when more come than it would bear of those that it refuses.
func TestDrainOverALongWay(t *testing.T) {
	const delay = 800 * time.Millisecond
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.Protocol = config.ProtocolHTTP2
	l.HTTP.HTTP2.MaxStreams = 10000
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", server(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok")
	})))}, func(o *proxy.Options) { o.DrainTime = 20 * time.Second })
	near, err := p.delayed(t.Context(), delay)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "web.mesh.internal"}, {":path", "/"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	first := bytes.Clone(block.Bytes())
	block.Reset()
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "web.mesh.internal"}, {":path", "/"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	again := bytes.Clone(block.Bytes())
	f := http2.NewFramer(near, near)
	_, _ = io.WriteString(near, http2.ClientPreface)
	_ = f.WriteSettings()
	told, written := make(chan struct{}), make(chan uint32, 1)
	pong := make(chan [8]byte, 16)
	go func() {
		last := uint32(0)
		for id, head := uint32(1), first; ; id, head = id+2, again {
			select {
			case <-told:
				_ = f.WritePing(true, <-pong)
				written <- last
				return
			default:
			}
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndHeaders: true, EndStream: true})
			last = id
			if id == 21 {
				p.cancel()
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	answered, lastGone, goAways := map[uint32]bool{}, uint32(0), 0
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "closed pipe") {
				t.Errorf("%v", err)
			}
			break
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			answered[frame.StreamID] = answered[frame.StreamID] || frame.StreamEnded()
		case *http2.PingFrame:
			if !frame.IsAck() {
				pong <- frame.Data
				if goAways == 1 {
					close(told)
				}
			}
		case *http2.GoAwayFrame:
			goAways++
			lastGone = frame.LastStreamID
		case *http2.RSTStreamFrame:
			t.Errorf("stream %d is reset: %v", frame.StreamID, frame.ErrCode)
		}
	}
	last := <-written
	if lastGone != last || len(answered) != int(last+1)/2 {
		t.Errorf("%d requests were sent, %d answered, the last that is taken is %d of %d", (last+1)/2, len(answered), lastGone, last)
	}
	t.Logf("%d requests", len(answered))
}
