package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
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

// TestSlowReadersHoldHTTP2HostsBack: clients of every version that do not read, each with a connection of its own, stop the streams of
// hosts of HTTP/2, and hosts that do not read stop uploads. Little waits for them, and who reads after all gets everything.
func TestSlowReadersHoldHTTP2HostsBack(t *testing.T) {
	for _, c := range []struct {
		name string
		down config.Protocol
		most int // bytes of each response that the proxy reads: with HTTP/1 kernels hold some
	}{{"HTTP/1", config.ProtocolHTTP1, 12 << 20}, {"HTTP/2", config.ProtocolHTTP2, 256 << 10}} {
		t.Run(c.name, func(t *testing.T) { testSlowReaders(t, c.down, c.most) })
	}
}

func testSlowReaders(t *testing.T, down config.Protocol, most int) {
	const each, size = 10, 32 << 20
	var moved atomic.Int64 // what hosts sent and took from clients, as far as they see it
	host := plainServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(size))
		for chunk := make([]byte, 32<<10); ; {
			n, err := w.Write(chunk)
			if moved.Add(int64(n)); err != nil {
				return
			}
		}
	})
	p := start2(t, down, config.ProtocolHTTP2, host, unhurried)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	readers := make([]func() int, each)
	for i := range readers {
		readers[i] = p.slowReaderOf(t, down, size)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var uploads sync.WaitGroup
	defer func() { cancel(); uploads.Wait() }()
	for range each {
		client := p.plainClient(down)
		uploads.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, pairURL+"/", counted{&moved})
			if resp, err := client.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	last := int64(-1)
	for now := moved.Load(); now != last || now == 0; now = moved.Load() { // until everything stands still
		last = now
		time.Sleep(300 * time.Millisecond)
	}
	p.waitStat("cluster.web.upstream_rq_active", strconv.Itoa(2*each))
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2*each*300<<10 {
		t.Errorf("the heap grew by %d KiB for %d stalled streams", grown>>10, 2*each)
	}
	if n := p.count("cluster.web.upstream_cx_rx_bytes_total"); n > each*most {
		t.Errorf("%d bytes of %d responses that nobody reads were read of their host, want %d at most", n, each, each*most)
	}
	if n := p.count("cluster.web.upstream_cx_tx_bytes_total"); n > each*2<<20 {
		t.Errorf("%d bytes of %d uploads were sent to a host that reads none, want %d at most", n, each, each*2<<20)
	}
	if n := readers[0](); n != size {
		t.Errorf("who reads after all gets %d bytes, want %d", n, size)
	}
}

// counted is zeros whose readers are counted.
type counted struct{ n *atomic.Int64 }

func (c counted) Read(p []byte) (int, error) {
	clear(p)
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// slowReaderOf asks on a connection of its own, and reads nothing before read is called, which tells how much content came.
func (p *testProxy) slowReaderOf(t *testing.T, version config.Protocol, size int) (read func() int) {
	t.Helper()
	if version == config.ProtocolHTTP1 {
		conn := p.dial()
		_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		_, _ = io.WriteString(conn, get)
		return func() int {
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			if err != nil {
				t.Error(err)
			}
			return int(n)
		}
	}
	f := p.dial2(t)
	f.get(1)
	return func() (n int) {
		_ = f.conn.SetDeadline(time.Now().Add(time.Minute))
		_ = f.WriteWindowUpdate(0, uint32(size))
		_ = f.WriteWindowUpdate(1, uint32(size))
		f.until(func(frame http2.Frame) bool {
			if d, ok := frame.(*http2.DataFrame); ok {
				n += len(d.Data())
			}
			return ended(1)(frame)
		})
		return n
	}
}
