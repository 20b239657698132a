package proxy_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// headBytes is a head as one frame, or as two that are cut after so many bytes of it.
func headBytes(stream uint32, cut int, end bool, fields ...string) []byte {
	var block, out bytes.Buffer
	e, f := hpack.NewEncoder(&block), http2.NewFramer(&out, nil)
	for i := 0; i < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	p := block.Bytes()
	if cut == 0 {
		cut = len(p)
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: p[:cut], EndHeaders: cut == len(p), EndStream: end})
	if cut < len(p) {
		_ = f.WriteContinuation(stream, true, p[cut:])
	}
	return out.Bytes()
}

func requestBytes(stream uint32, cut int, end bool) []byte {
	return headBytes(stream, cut, end, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "web.mesh.internal")
}

const frameHead = 9 // bytes

// TestCVEClass16_SlowHeadsOfHTTP2End: a head that is begun and not completed in time ends the connection, which it keeps from everything else,
// whatever is sent of it meanwhile; the client is told why, and counted.
func TestCVEClass16_SlowHeadsOfHTTP2End(t *testing.T) {
	whole := requestBytes(1, 4, true)
	second := frameHead + 4 // where the CONTINUATION begins
	drip := append(append([]byte{}, whole[:second]...), bytes.Repeat([]byte{0, 0, 1, byte(http2.FrameContinuation), 0, 0, 0, 0, 1, 'x'}, 5)...)
	trailer := headBytes(1, 0, true, "x-sum", "1")
	for _, c := range []struct {
		name     string
		at, drip []byte
	}{
		{"a head and no more of it", whole[:second], nil},
		{"a head in drops", whole[:second], drip[second:]},
		{"a part of a frame", whole[:frameHead+2], nil},
		{"a part of a frame's own head", whole[:5], nil},
		{"a part of a frame behind the first", whole[:second+frameHead+2], nil},
		{"a frame in drops", whole[:5], whole[5 : frameHead+3]},
		{"trailers", append(requestBytes(1, 0, false), trailer[:len(trailer)-1]...), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, fixed(t), func(l *config.Listener, _ *config.Cluster) {
				l.HTTP.RequestHeadersTimeout, l.HTTP.DelayedCloseTimeout = 400*time.Millisecond, 100*time.Millisecond
			})
			f := p.dial2(t)
			_, _ = f.conn.Write(c.at)
			go func() {
				for i := range c.drip {
					time.Sleep(20 * time.Millisecond)
					_, _ = f.conn.Write(c.drip[i : i+1])
				}
			}()
			f.SetReuseFrames()
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					t.Fatalf("the connection ended without a reason: %v", err)
				}
				if away, ok := frame.(*http2.GoAwayFrame); ok {
					if away.ErrCode != http2.ErrCodeEnhanceYourCalm {
						t.Errorf("got %v", away)
					}
					break
				}
			}
			if frame, err := f.ReadFrame(); err == nil {
				t.Errorf("after the end came %v", frame)
			}
			p.waitStat("http.outbound.downstream_rq_header_timeout", "1")
			p.waitStat("http.outbound.downstream_cx_active", "0")
			if got := p.stat("http.outbound.downstream_cx_protocol_error"); got != "0" {
				t.Errorf("%s errors of protocol, want none", got)
			}
		})
	}
}

// TestCVEClass16_SlowPrefacesThatTellNothingEnd: what may become HTTP/2 and does not say so in time ends, however often another byte of it comes.
func TestCVEClass16_SlowPrefacesThatTellNothingEnd(t *testing.T) {
	const patience = 400 * time.Millisecond
	p := start2(t, config.ProtocolAuto, config.ProtocolHTTP1, fixed(t), func(l *config.Listener, _ *config.Cluster) { l.HTTP.RequestHeadersTimeout = patience })
	conn := p.dial()
	ended := make(chan time.Duration)
	begun := time.Now()
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		ended <- time.Since(begun)
	}()
	for i := range len(http2.ClientPreface) - 1 {
		_, _ = io.WriteString(conn, http2.ClientPreface[i:i+1])
		select {
		case <-ended:
			return
		case <-time.After(patience / 2):
		}
	}
	t.Errorf("%d bytes of a preface took %s", len(http2.ClientPreface)-1, time.Since(begun))
}

// TestCVEClass16_SlowPrefacesOfHTTP2End: what a client begins a connection with has the time of a head, from its first byte on; one that
// says nothing at all is merely idle.
func TestCVEClass16_SlowPrefacesOfHTTP2End(t *testing.T) {
	for _, c := range []struct {
		name  string
		says  string
		drips string
		ends  bool
	}{
		{"nothing", "", "", false},
		{"a byte", "P", "", true},
		{"a part of the preface", http2.ClientPreface[:20], "", true},
		{"a preface in drops", "P", http2.ClientPreface[1:], true},
		{"no settings", http2.ClientPreface, "", true},
		{"a part of the settings", http2.ClientPreface + "\x00\x00\x06\x04\x00\x00", "", true},
		{"all of it", http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, fixed(t), func(l *config.Listener, _ *config.Cluster) {
				l.HTTP.RequestHeadersTimeout, l.HTTP.DelayedCloseTimeout, l.HTTP.IdleTimeout = 300*time.Millisecond, 100*time.Millisecond, 3*time.Second
			})
			conn := p.dial()
			_, _ = io.WriteString(conn, c.says)
			go func() {
				for i := range len(c.drips) {
					time.Sleep(20 * time.Millisecond)
					_, _ = io.WriteString(conn, c.drips[i:i+1])
				}
			}()
			_, _ = io.Copy(io.Discard, conn) // to the end
			p.waitStat("http.outbound.downstream_cx_active", "0")
			slow, idle := "1", "0"
			if !c.ends {
				slow, idle = "0", "1"
			}
			if s, i := p.stat("http.outbound.downstream_rq_header_timeout"), p.stat("http.outbound.downstream_cx_idle_timeout"); s != slow || i != idle {
				t.Errorf("%s ended because they were slow and %s because they were idle, want %s and %s", s, i, slow, idle)
			}
		})
	}
}

// TestHeadsInPartsHaveTheirTimeEach: one head after the other, each of which comes in parts, none of which takes long, and a pause when all are
// complete.
func TestHeadsInPartsHaveTheirTimeEach(t *testing.T) {
	t.Parallel()
	const patience, heads = 2 * time.Second, 20
	p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP1, fixed(t), func(l *config.Listener, _ *config.Cluster) { l.HTTP.RequestHeadersTimeout = patience })
	f := p.dial2(t)
	f.until(func(frame http2.Frame) bool { // which is answered now, and not within a frame
		settings, ok := frame.(*http2.SettingsFrame)
		return ok && !settings.IsAck()
	})
	answered := make(chan int)
	go func() {
		n := 0
		f.until(func(frame http2.Frame) bool {
			switch frame := frame.(type) {
			case *http2.GoAwayFrame:
				t.Errorf("got %v %v %d", frame, frame.ErrCode, frame.LastStreamID)
				return true
			case *http2.HeadersFrame:
				n++
			}
			return n == heads+1
		})
		answered <- n
	}()
	var rest []byte // of the head before
	for i := range uint32(heads) {
		head := requestBytes(2*i+1, int(i%3)*5, true)
		half := 7 + int(i%3)*6 // in the frame's head, in the section, and between frames or near that
		_, _ = f.conn.Write(append(rest, head[:half]...))
		rest = head[half:]
		time.Sleep(2 * patience / heads)
	}
	_, _ = f.conn.Write(rest)
	time.Sleep(patience)
	_, _ = f.conn.Write(requestBytes(2*heads+1, 0, true))
	if n := <-answered; n != heads+1 {
		t.Errorf("%d requests were answered, want %d", n, heads+1)
	}
	if got := p.stat("http.outbound.downstream_rq_header_timeout"); got != "0" {
		t.Errorf("downstream_rq_header_timeout is %s", got)
	}
}
