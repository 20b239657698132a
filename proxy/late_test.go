package proxy_test

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestEarlyAnswersHarmNobodyBeside: a host answers a stream of small messages before it ends, as who refuses an upload does. The
// thousands that its client has sent by then cost the other streams of the connection nothing.
func TestEarlyAnswersHarmNobodyBeside(t *testing.T) {
	for _, up := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		host := plainServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/early" {
				if r.ProtoMajor == 1 {
					w.Header().Set("Connection", "close") // else net/http reads the request first
				}
				w.WriteHeader(http.StatusForbidden)
				return
			}
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
		})
		p := start2(t, config.ProtocolHTTP2, up, host, nil)
		f := p.dial2(t)
		post := func(stream uint32, path string) {
			f.head(stream, false, ":method", "POST", ":scheme", "http", ":path", path, ":authority", "web.mesh.internal")
		}
		post(1, "/early")
		post(3, "/beside")
		f.until(func(frame http2.Frame) bool {
			return frame.Header().StreamID == 1 && frame.Header().Type == http2.FrameRSTStream
		})
		var underWay bytes.Buffer
		late := http2.NewFramer(&underWay, nil)
		for range 60 << 10 / 16 {
			_ = late.WriteData(1, false, make([]byte, 16))
		}
		_ = late.WriteData(3, true, []byte("alive"))
		if _, err := f.conn.Write(underWay.Bytes()); err != nil {
			t.Fatal(err)
		}
		if got := f.until(ended(3)); got != "alive" {
			t.Errorf("who is beside gets %q", got)
		}
		p.stop()
	}
}
