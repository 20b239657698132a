package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// soakTime is how long the soak runs: a duration in HOSTMESH_SOAK, a minute for another value, else two seconds.
func soakTime() time.Duration {
	switch v := os.Getenv("HOSTMESH_SOAK"); v {
	case "":
		return 2 * time.Second
	default:
		if d, err := time.ParseDuration(v); err == nil {
			return d
		}
		return time.Minute
	}
}

// watchdog is how long a batch of requests may take until it counts as forgotten. The proxy's own timeouts are longer, so
// that they hide nothing.
const watchdog = 15 * time.Second

var soakBody = bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB

// soakBackend answers with what the path asks for: /size/how. Each connection serves a few requests.
func soakBackend(conn net.Conn, r *bufio.Reader) {
	for left := 1 + rand.IntN(60); left > 0; left-- {
		_ = conn.SetDeadline(time.Now().Add(4 * watchdog))
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if n, err := io.Copy(io.Discard, req.Body); err != nil || strconv.FormatInt(n, 10) != req.Header.Get("x-size") {
			return
		}
		size, how, _ := strings.Cut(req.URL.Path[1:], "/")
		n, _ := strconv.Atoi(size)
		w := bufio.NewWriterSize(conn, 1+rand.IntN(32<<10))
		switch body := soakBody[:n]; how {
		case "apart":
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n)
			time.Sleep(time.Duration(rand.IntN(2)) * time.Millisecond)
			_, _ = conn.Write(body)
		case "chunked":
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for len(body) > 0 {
				m := 1 + rand.IntN(min(len(body), 48<<10))
				fmt.Fprintf(w, "%x\r\n%s\r\n", m, body[:m])
				body = body[m:]
			}
			_, _ = w.WriteString("0\r\n\r\n")
		case "end":
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%s", body)
			left = 0
		case "last":
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", n, body)
			left = 0
		default:
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", n, body)
		}
		if w.Flush() != nil {
			return
		}
	}
}

// soakRequest writes a request to b, and returns how many bytes its response has.
func soakRequest(b *bytes.Buffer) int {
	sizes := []int{0, 1, 128, 4 << 10, 16 << 10, 64<<10 - rand.IntN(400), 256 << 10, 1 << 20}
	size := sizes[rand.IntN(len(sizes))*rand.IntN(8)/7] // the small ones more often
	how := []string{"length", "length", "length", "apart", "chunked", "end", "last"}[rand.IntN(7)]
	method, send := "GET", 0
	if rand.IntN(3) == 0 {
		method, send = "PUT", sizes[rand.IntN(7)]
	}
	fmt.Fprintf(b, "%s /%d/%s HTTP/1.1\r\nHost: web.mesh.internal\r\nX-Size: %d\r\n", method, size, how, send)
	switch {
	case method == "GET":
		b.WriteString("\r\n")
	case rand.IntN(2) == 0:
		fmt.Fprintf(b, "Content-Length: %d\r\n\r\n%s", send, soakBody[:send])
	default:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for body := soakBody[:send]; len(body) > 0; {
			n := 1 + rand.IntN(len(body))
			fmt.Fprintf(b, "%x\r\n%s\r\n", n, body[:n])
			body = body[n:]
		}
		b.WriteString("0\r\n\r\n")
	}
	return size
}

// slowly reads with pauses.
type slowly struct{ net.Conn }

func (s slowly) Read(p []byte) (int, error) {
	time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
	return s.Conn.Read(p[:min(len(p), 1+rand.IntN(64<<10))])
}

// soakClient sends batches of pipelined requests on one connection until the proxy closes it; done counts whole responses.
func soakClient(conn net.Conn, end time.Time, done, refused *atomic.Int64) error {
	var in io.Reader = conn
	if rand.IntN(4) == 0 {
		in = slowly{conn}
		_ = conn.(*net.TCPConn).SetReadBuffer(128 << 10) // less than a segment of the loopback device would wait for TCP's own timers
	}
	r := bufio.NewReader(in)
	for left := 1 + rand.IntN(40); left > 0 && time.Now().Before(end); left-- {
		_ = conn.SetDeadline(time.Now().Add(watchdog))
		var batch bytes.Buffer
		var sizes []int
		for range 1 + rand.IntN(4)*rand.IntN(2) {
			sizes = append(sizes, soakRequest(&batch))
		}
		sent := make(chan struct{})
		go func() { _, _ = conn.Write(batch.Bytes()); close(sent) }()
		err := soakResponses(r, sizes, done, refused)
		if err == io.EOF { // closed in good order; what was pipelined behind it has to be sent again
			_ = conn.SetDeadline(time.Now()) // for the writer
			<-sent
			return nil
		}
		if err != nil {
			return err // the writer ends with the connection
		}
		<-sent
	}
	return nil
}

func soakResponses(r *bufio.Reader, sizes []int, done, refused *atomic.Int64) error {
	for _, size := range sizes {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return fmt.Errorf("read response of %d bytes: %w", size, err)
		}
		body, err := io.ReadAll(resp.Body)
		switch {
		case err != nil:
			return fmt.Errorf("read body of %d bytes, got %d: %w", size, len(body), err)
		case resp.StatusCode == 503:
			refused.Add(1) // the backend closed and the request could not be repeated
		case resp.StatusCode != 200 || !bytes.Equal(body, soakBody[:size]):
			return fmt.Errorf("got %s with %d bytes, want %d", resp.Status, len(body), size)
		default:
			done.Add(1)
		}
		if resp.Close {
			return io.EOF
		}
	}
	return nil
}

// TestSoakNothingIsForgotten has clients and backends of all speeds meet on few loops: whatever is ready on one side and
// waits for the other must be taken up again, and every request be answered.
func TestSoakNothingIsForgotten(t *testing.T) {
	for _, c := range []struct {
		name        string
		loops       int
		connections uint32
	}{{"one loop", 1, 0}, {"two loops", 2, 0}, {"few connections", 2, 6}} {
		t.Run(c.name, func(t *testing.T) {
			v := vhost("web.mesh.internal", "web")
			v.Routes[0].Timeout, v.Routes[0].Retry.Max = 4*watchdog, 5
			onUnix := filepath.Join(shortDir(t), "web")
			acceptRaw(t, listenUnix(t, onUnix), soakBackend)
			cl := cluster("web", rawBackend(t, soakBackend), onUnix)
			cl.MaxConnections = c.connections
			l := httpConfig(freeAddr(t), v)
			l.HTTP.StreamIdleTimeout, l.HTTP.RequestHeadersTimeout, l.HTTP.AccessLogs = 4*watchdog, 4*watchdog, nil
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cl)}, func(o *proxy.Options) { o.Loops = c.loops })
			var done, refused atomic.Int64
			var all sync.WaitGroup
			end := time.Now().Add(soakTime() / 3)
			var failed sync.Once
			for range 48 {
				all.Go(func() {
					for time.Now().Before(end) && !t.Failed() {
						conn, err := net.Dial("tcp", p.addr.String())
						if err != nil {
							t.Error(err)
							return
						}
						if err := soakClient(conn, end, &done, &refused); err != nil {
							failed.Do(func() { t.Errorf("%s: %v\n%s", conn.LocalAddr(), err, p.Dump()) })
						}
						conn.Close()
					}
				})
			}
			all.Wait()
			t.Logf("%d requests, %d refused", done.Load(), refused.Load())
			if done.Load() < 20 || refused.Load() > max(2, done.Load()/10) { // few on a machine that has other things to do
				t.Errorf("%d requests answered, %d refused", done.Load(), refused.Load())
			}
			p.waitStat("cluster.web.upstream_rq_active", "0")
		})
	}
}
