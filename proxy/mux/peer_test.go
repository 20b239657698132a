package mux_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	oracle "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// peer is the other end: it writes any frames, and lists those that it gets. What it writes is sent at once by send.
type peer struct {
	*oracle.Framer
	t      testing.TB
	e      *end
	conn   *net.UnixConn
	out    bytes.Buffer
	enc    *hpack.Encoder
	block  bytes.Buffer
	dec    *hpack.Decoder
	server bool // the end under test is one
	wide   bool // window updates and acknowledgements are listed too
}

// serve begins a server's connection and does a client's part of the beginning, with these settings.
func serve(t testing.TB, l *loop.Loop, limits http2.Limits, settings ...oracle.Setting) *peer {
	t.Helper()
	return begin(t, l, limits, true, 0, settings)
}

// dial begins a client's connection, does a server's part, and opens the streams 1, 3 and 5, which have sent their heads.
func dial(t testing.TB, l *loop.Loop, limits http2.Limits, settings ...oracle.Setting) *peer {
	t.Helper()
	p := begin(t, l, limits, false, 0, settings)
	for range 3 {
		if x := p.e.open(); x == nil {
			t.Fatal("no stream")
		}
	}
	if got := p.fence(); !slices.Equal(got, []string{"1 GET /", "3 GET /", "5 GET /"}) {
		t.Fatalf("%q", got)
	}
	return p
}

func begin(t testing.TB, l *loop.Loop, limits http2.Limits, server bool, buffers int, settings []oracle.Setting) *peer {
	t.Helper()
	fd, conn := pair(t, buffers)
	e := newEnd(t, l, fd)
	e.begin(server, limits, nil)
	p := newPeer(t, e, conn, server)
	if server {
		p.out.WriteString(oracle.ClientPreface)
	} else {
		p.skipPreface()
	}
	_ = p.WriteSettings(settings...)
	_ = p.WriteSettingsAck()
	p.fence()
	return p
}

// skipPreface reads what a client says first.
func (p *peer) skipPreface() {
	p.t.Helper()
	preface := make([]byte, len(oracle.ClientPreface))
	if _, err := io.ReadFull(p.conn, preface); err != nil || string(preface) != oracle.ClientPreface {
		p.t.Fatalf("%q %v", preface, err)
	}
}

func newPeer(t testing.TB, e *end, conn *net.UnixConn, server bool) *peer {
	p := &peer{t: t, e: e, conn: conn, server: server}
	p.Framer = oracle.NewFramer(&p.out, conn)
	p.AllowIllegalWrites = true
	p.enc = hpack.NewEncoder(&p.block)
	p.dec = hpack.NewDecoder(4096, nil)
	return p
}

// encode makes a field section of names that alternate with values.
func (p *peer) encode(fields ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(p.block.Bytes())
}

// start is the fields with which a message begins: a request to a server, a response to a client.
func (p *peer) start(more ...string) []string {
	if p.server {
		return append([]string{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "web"}, more...)
	}
	return append([]string{":status", "200"}, more...)
}

func (p *peer) headers(id uint32, last bool, fields ...string) {
	_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: id, BlockFragment: p.encode(fields...), EndStream: last, EndHeaders: true})
}

// message begins a message with a head.
func (p *peer) message(id uint32, last bool, more ...string) {
	p.headers(id, last, p.start(more...)...)
}

// raw writes a frame as it is.
func (p *peer) raw(kind oracle.FrameType, flags oracle.Flags, id uint32, payload ...byte) {
	_ = p.WriteRawFrame(kind, flags, id, payload)
}

// send sends what was written.
func (p *peer) send() {
	p.t.Helper()
	_, err := p.conn.Write(p.out.Bytes())
	p.out.Reset()
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		p.t.Fatal(err)
	}
}

var fenceData = [8]byte{'f', 'e', 'n', 'c', 'e'}

// fence sends what was written and a ping, and lists what comes until that is answered, or until the end.
func (p *peer) fence() (lines []string) {
	p.t.Helper()
	_ = p.WritePing(false, fenceData)
	p.send()
	for {
		line := p.next()
		switch line {
		case "pong fence":
			return lines
		case "":
			continue
		}
		lines = append(lines, line)
		if line == "end" {
			return lines
		}
	}
}

// next is the next frame as a line; "" if it is not listed.
func (p *peer) next() string {
	p.t.Helper()
	f, err := p.ReadFrame()
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) { // on which of them it is depends on what was not read
			return "end"
		}
		p.t.Fatalf("read frame: %v", err)
	}
	id := f.Header().StreamID
	switch f := f.(type) {
	case *oracle.HeadersFrame:
		return p.section(id, f.HeaderBlockFragment(), f.StreamEnded())
	case *oracle.DataFrame:
		return fmt.Sprintf("%d %q%s", id, brief(f.Data()), ending(f.StreamEnded()))
	case *oracle.RSTStreamFrame:
		return fmt.Sprintf("%d reset %s", id, f.ErrCode)
	case *oracle.GoAwayFrame:
		return fmt.Sprintf("goaway %d %s", f.LastStreamID, f.ErrCode)
	case *oracle.PingFrame:
		if f.IsAck() {
			return "pong " + string(bytes.TrimRight(f.Data[:], "\x00"))
		}
		return "ping"
	case *oracle.WindowUpdateFrame:
		if p.wide {
			return fmt.Sprintf("%d window +%d", id, f.Increment)
		}
		return ""
	case *oracle.SettingsFrame:
		if p.wide && f.IsAck() {
			return "settings acknowledged"
		}
		return ""
	}
	return fmt.Sprint(f.Header())
}

func (p *peer) section(id uint32, block []byte, last bool) string {
	all, err := p.dec.DecodeFull(block)
	if err != nil {
		p.t.Fatalf("a head that cannot be decoded: %v", err)
	}
	line := fmt.Sprint(id)
	for _, f := range all {
		switch f.Name {
		case ":status", ":method", ":path":
			line += " " + f.Value
		case ":scheme", ":authority":
		default:
			line += " " + f.Name + "=" + f.Value
		}
	}
	return line + ending(last)
}
