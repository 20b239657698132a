package proxy_test

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	slowStreams = 40      // whose windows are more than twice what a connection's is
	slowWindow  = 65535   // of a stream, where nobody says more
	soundBytes  = 4 << 20 // of who reads
)

// unhurried gives requests, and what they send, all the time that they need.
func unhurried(l *config.Listener, c *config.Cluster) {
	l.HTTP.Routes.VirtualHosts[0].Routes[0].Timeout = time.Minute
	l.HTTP.StreamIdleTimeout = time.Minute
	c.MaxConnections = 1
}

// TestSlowReadersStallNobodyElse: clients of a host share its connection. Many that do not read what they asked for hold up neither the
// others nor, for good, themselves, and what waits for them is bounded.
func TestSlowReadersStallNobodyElse(t *testing.T) {
	host := plainServer(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := make([]byte, 32<<10)
		for n := 0; r.URL.Path == "/" || n < soundBytes; n += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP2, host, unhurried)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f := p.dial2(t)
	_ = f.conn.SetDeadline(time.Now().Add(time.Minute))
	_ = f.WriteWindowUpdate(0, 1<<30)
	read := func(bytes int) {
		t.Helper()
		for got := 0; got < bytes; {
			f.until(func(frame http2.Frame) bool {
				if d, ok := frame.(*http2.DataFrame); ok {
					got += len(d.Data())
				}
				return true
			})
		}
	}
	for i := range uint32(slowStreams) {
		f.get(2*i + 1)
	}
	read(slowStreams * slowWindow) // as much as they may be sent
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, pairURL+"/sound", nil)
		resp, err := p.plainClient(config.ProtocolHTTP2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		cancel()
		if n != soundBytes || err != nil {
			t.Fatalf("who reads got %d bytes of %d: %v", n, soundBytes, err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > slowStreams*300<<10 {
		t.Errorf("the heap grew by %d KiB for %d stalled streams", grown>>10, slowStreams)
	}
	if n := p.stat("cluster.web.upstream_cx_total"); n != "1" {
		t.Errorf("%s connections to the host, want one that all share", n)
	}
	_ = f.WriteWindowUpdate(1, soundBytes)
	read(soundBytes)
}

// TestSlowHostsStallNoOtherUploads: of one client's connection, when the host takes some requests' content and not others'.
func TestSlowHostsStallNoOtherUploads(t *testing.T) {
	var stalled atomic.Int64
	host := mute(t, func(_ int, f *peer2) {
		_ = f.WriteSettings()
		_ = f.WriteWindowUpdate(0, 1<<30)
		f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		got := map[uint32]int{} // of the streams that are read
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			id := frame.Header().StreamID
			switch frame := frame.(type) {
			case *http2.MetaHeadersFrame:
				if frame.PseudoValue("path") == "/sound" {
					got[id] = 0
				}
			case *http2.DataFrame:
				n := len(frame.Data())
				if _, sound := got[id]; !sound {
					stalled.Add(int64(n))
					continue
				}
				if got[id] += n; n > 0 {
					_ = f.WriteWindowUpdate(id, uint32(n))
				}
				if frame.StreamEnded() {
					f.head(id, false, ":status", "200")
					_ = f.WriteData(id, true, []byte(strconv.Itoa(got[id])))
				}
			}
		}
	})
	p := start2(t, config.ProtocolHTTP2, config.ProtocolHTTP2, host, unhurried)
	client := p.plainClient(config.ProtocolHTTP2)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	var slow sync.WaitGroup
	defer func() { cancel(); slow.Wait() }()
	post := func(path string, content io.Reader) (string, error) {
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, pairURL+path, content)
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	}
	if got, err := post("/sound", io.LimitReader(zeros{}, 1)); got != "1" {
		t.Fatalf("got %q, %v", got, err)
	}
	for range slowStreams {
		slow.Go(func() { _, _ = post("/slow", zeros{}) })
	}
	p.await("the host got what it lets them send", func() bool { return stalled.Load() == slowStreams*slowWindow })
	for range 3 {
		if got, err := post("/sound", io.LimitReader(zeros{}, soundBytes)); got != strconv.Itoa(soundBytes) || err != nil {
			t.Fatalf("of an upload beside them %q bytes came, want %d: %v", got, soundBytes, err)
		}
	}
	if n := p.stat("http.outbound.downstream_cx_total"); n != "1" {
		t.Errorf("%s connections of clients, want one for all", n)
	}
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
