package proxy_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"

	"golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// appendFrame appends a frame of HTTP/2; its stream is at its start plus 5.
func appendFrame(b []byte, kind http2.FrameType, flags http2.Flags, payload string) []byte {
	b = append(b, 0, byte(len(payload)>>8), byte(len(payload)), byte(kind), byte(flags), 0, 0, 0, 0)
	return append(b, payload...)
}

// unary2 is one end of a connection on which calls of one message go, made without allocating.
type unary2 struct {
	r     *bufio.Reader
	conn  net.Conn
	head  [9]byte
	call  []byte // frames of one message
	at    []int  // where they begin
	hello []byte
}

func newUnary(conn net.Conn, r *bufio.Reader, client bool) *unary2 {
	u := &unary2{r: r, conn: conn}
	if client {
		u.hello = append(u.hello, http2.ClientPreface...)
	}
	u.hello = appendFrame(u.hello, http2.FrameSettings, 0, "")
	u.hello = appendFrame(u.hello, http2.FrameWindowUpdate, 0, "\x3f\xff\x00\x00")
	return u
}

func (u *unary2) add(kind http2.FrameType, flags http2.Flags, payload string) {
	u.at = append(u.at, len(u.call))
	u.call = appendFrame(u.call, kind, flags, payload)
}

// send sends the message on a stream.
func (u *unary2) send(stream uint32) error {
	for _, at := range u.at {
		binary.BigEndian.PutUint32(u.call[at+5:], stream)
	}
	_, err := u.conn.Write(u.call)
	return err
}

// receive reads to the end of a message and returns its stream.
func (u *unary2) receive() (uint32, error) {
	for {
		if _, err := io.ReadFull(u.r, u.head[:]); err != nil {
			return 0, err
		}
		if _, err := u.r.Discard(int(u.head[1])<<8 | int(u.head[2])); err != nil {
			return 0, err
		}
		kind, stream := http2.FrameType(u.head[3]), binary.BigEndian.Uint32(u.head[5:])
		switch {
		case kind == http2.FrameRSTStream || kind == http2.FrameGoAway:
			return 0, io.ErrUnexpectedEOF
		case (kind == http2.FrameHeaders || kind == http2.FrameData) && http2.Flags(u.head[4]).Has(http2.FlagDataEndStream):
			return stream, nil
		}
	}
}

const (
	unaryRequest  = "\x83\x86\x84\x01\x11web.mesh.internal\x00\x02te\x08trailers\x00\x0ccontent-type\x10application/grpc" // POST http /
	unaryResponse = "\x88\x00\x0ccontent-type\x10application/grpc"
	unaryStatus   = "\x00\x0bgrpc-status\x010"
)

// TestNoAllocationOnTheHotPathOfHTTP2 is TestNoAllocationOnTheHotPath for hosts that speak HTTP/2, and clients of both versions:
// calls as gRPC makes them, with content and trailers.
func TestNoAllocationOnTheHotPathOfHTTP2(t *testing.T) {
	content := string(bytes.Repeat([]byte("a"), 128))
	host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		if _, err := r.Discard(len(http2.ClientPreface)); err != nil {
			return
		}
		u := newUnary(conn, r, false)
		u.add(http2.FrameHeaders, http2.FlagHeadersEndHeaders, unaryResponse)
		u.add(http2.FrameData, 0, content)
		u.add(http2.FrameHeaders, http2.FlagHeadersEndHeaders|http2.FlagHeadersEndStream, unaryStatus)
		_, _ = conn.Write(u.hello)
		for {
			stream, err := u.receive()
			if err != nil || u.send(stream) != nil {
				return
			}
		}
	})
	run := func(t *testing.T, down config.Protocol, call func(p *testProxy) func() error) {
		c := cluster("web", host)
		c.Protocol = config.ProtocolHTTP2
		l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
		l.HTTP.Protocol = down
		l.HTTP.AccessLogs = append(l.HTTP.AccessLogs, config.AccessLog{
			Path: "/dev/stdout", Format: &config.LogFormat{Text: "%GRPC_STATUS% %GRPC_STATUS_NUMBER% %TRAILER(GRPC-STATUS)% %REQ(X-ENVOY-EXTERNAL-ADDRESS)%\n"},
		})
		p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, func(o *proxy.Options) { o.AccessLog = io.Discard; o.Loops = 1 })
		do := call(p)
		many := func(n int) {
			for range n {
				if err := do(); err != nil {
					t.Fatal(err)
				}
			}
		}
		many(500)
		const n = 2000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		many(n)
		runtime.ReadMemStats(&after)
		if allocs := after.Mallocs - before.Mallocs; allocs > n/20 {
			t.Errorf("%d allocations for %d requests", allocs, n)
		}
	}
	t.Run("2 to 2", func(t *testing.T) {
		run(t, config.ProtocolHTTP2, func(p *testProxy) func() error {
			conn := p.dial()
			u := newUnary(conn, bufio.NewReader(conn), true)
			u.add(http2.FrameHeaders, http2.FlagHeadersEndHeaders, unaryRequest)
			u.add(http2.FrameData, http2.FlagDataEndStream, content)
			_, _ = conn.Write(u.hello)
			stream := ^uint32(0)
			return func() error {
				stream += 2
				if err := u.send(stream); err != nil {
					return err
				}
				_, err := u.receive()
				return err
			}
		})
	})
	t.Run("1 to 2", func(t *testing.T) {
		run(t, config.ProtocolHTTP1, func(p *testProxy) func() error {
			conn := p.dial()
			request := []byte("POST / HTTP/1.1\r\nHost: web.mesh.internal\r\nContent-Length: 128\r\nTE: trailers\r\n\r\n" + content)
			end, buf := []byte("grpc-status: 0\r\n\r\n"), make([]byte, 4096)
			return func() error {
				if _, err := conn.Write(request); err != nil {
					return err
				}
				for got := 0; !bytes.HasSuffix(buf[:got], end); {
					n, err := conn.Read(buf[got:])
					if err != nil {
						return err
					}
					got += n
				}
				return nil
			}
		})
	})
}
