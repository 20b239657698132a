package proxy_test

import (
	"bufio"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestStalledLogHoldsNothingBack: while the reader of a pipe that has the access log does not read, requests are answered and lines
// are dropped and counted; when it reads again lines flow; and while it stalls once more the proxy ends all the same.
func TestStalledLogHoldsNothingBack(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	own := &lockedBuffer{}
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(cluster("web", ok(t)))}, func(o *proxy.Options) {
		o.AccessLog, o.Log = w, slog.New(slog.NewTextHandler(own, nil))
	})
	get := func(path string) {
		t.Helper()
		if status, body, err := p.get(http.DefaultClient, "web.mesh.internal", path); status != 200 || body != "ok" || err != nil {
			t.Fatalf("%d %q, %v", status, body, err)
		}
	}
	dropped := func() uint64 {
		n, _ := strconv.ParseUint(p.stat("access_log.dropped_lines"), 10, 64)
		return n
	}
	stall := func() {
		t.Helper()
		before, long := dropped(), "/"+strings.Repeat("x", 20<<10)
		for range 1000 { // a queue has 64 buffers, which such a line fills
			get(long)
			if dropped() > before {
				return
			}
		}
		t.Fatalf("%d lines were dropped, as before", before)
	}
	stall()

	read := make(chan struct{}) // closed when the reader has come to a line written since, and reads no more
	go func() {
		defer close(read)
		lines := bufio.NewReaderSize(r, 64<<10)
		for {
			if line, err := lines.ReadString('\n'); err != nil || strings.Contains(line, "/again") {
				return
			}
		}
	}()
	for i, more := 0, true; more; i++ {
		select {
		case <-read:
			more = false
		case <-time.After(10 * time.Millisecond):
			if i == 1000 {
				t.Fatal("no line comes when the reader reads again")
			}
			get("/again")
		}
	}
	stall()
	p.stop()
	if !strings.Contains(own.String(), "nobody takes the last lines of an access log") {
		t.Errorf("the log says %q", own.String())
	}
}
