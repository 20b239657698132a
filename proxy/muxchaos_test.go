package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

var chaosBody = pattern(1 << 20)

// unruly answers with X-Size bytes of chaosBody, or not quite: early, late, in pieces, with trailers, too little, or not at all.
func unruly(w http.ResponseWriter, r *http.Request) {
	dice, size := rand.IntN(14), rand.IntN(1<<uint(1+rand.IntN(20)))
	w.Header().Set("X-Size", strconv.Itoa(size))
	if dice == 0 {
		panic(http.ErrAbortHandler)
	}
	if dice > 2 { // else the answer is early
		got, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Right", strconv.FormatBool(bytes.Equal(got, chaosBody[:len(got)]) && r.Header.Get("X-Sent") == strconv.Itoa(len(got))))
	}
	if dice == 3 {
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	}
	if dice%2 == 0 {
		w.Header().Set("Content-Length", strconv.Itoa(size))
	} else {
		w.Header().Set("Trailer", "X-End")
		defer w.Header().Set("X-End", "yes")
	}
	if dice == 4 || dice == 5 { // cut off
		_, _ = w.Write(chaosBody[:size/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for at := 0; at < size; {
		n := min(size-at, 1+rand.IntN(100_000))
		if _, err := w.Write(chaosBody[at : at+n]); err != nil {
			return
		}
		if at += n; dice > 9 {
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// askChaos sends a request, goes away at any time or reads slowly, and judges the answer: it is right, or it failed visibly.
func askChaos(client *http.Client, url string) (right bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	dice, size := rand.IntN(12), rand.IntN(1<<uint(1+rand.IntN(19)))
	method := []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodHead}[rand.IntN(4)]
	var body io.Reader
	if method == http.MethodGet || method == http.MethodHead {
		size = 0
	} else if body = bytes.NewReader(chaosBody[:size]); dice == 1 {
		body = io.MultiReader(body) // whose length nobody knows
	}
	if dice == 0 {
		time.AfterFunc(time.Duration(rand.IntN(5_000))*time.Microsecond, cancel)
	}
	req, _ := http.NewRequestWithContext(ctx, method, url, body)
	req.Header.Set("X-Sent", strconv.Itoa(size))
	resp, err := client.Do(req)
	if err != nil {
		return false, forgotten(ctx)
	}
	defer resp.Body.Close()
	if dice == 2 {
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
	}
	if dice == 3 {
		_, _ = io.CopyN(io.Discard, resp.Body, int64(rand.IntN(50_000)))
		return false, nil
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		return false, forgotten(ctx)
	}
	want, _ := strconv.Atoi(resp.Header.Get("X-Size"))
	if method == http.MethodHead {
		want = 0
	}
	switch {
	case len(got) != want || !bytes.Equal(got, chaosBody[:want]):
		return false, fmt.Errorf("%s of %d bytes by %s: %d of %d bytes came back, and no error", method, size, resp.Proto, len(got), want)
	case resp.Header.Get("X-Right") == "false":
		return false, fmt.Errorf("%s of %d bytes by %s: the host did not get them as they were sent", method, size, resp.Proto)
	case method != http.MethodHead && resp.Header.Get("Content-Length") == "" && resp.Trailer != nil && resp.Trailer.Get("X-End") != "yes":
		return false, fmt.Errorf("%s by %s: trailer %v", method, resp.Proto, resp.Trailer)
	}
	return true, nil
}

// forgotten tells a request that nobody ended from one that failed.
func forgotten(ctx context.Context) error {
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("a request was forgotten")
	}
	return nil
}

// TestChaosInEveryPairing: whatever clients and hosts do, in plaintext and over TLS, a request is answered right or fails visibly, and
// nothing is left of it.
func TestChaosInEveryPairing(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			p, client := startPairing(t, pair, unruly)
			testChaosOfPairing(t, p, pairURL+"/", soakTime()/2, client, p.plainClient(pair.down), p.plainClient(pair.down))
		})
		t.Run(pair.name+" over TLS", func(t *testing.T) {
			s := newSafe(t)
			p := s.startPairing(pair, unruly)
			var clients []*http.Client
			for range 3 {
				clients = append(clients, p.over(s.clientConfig(), pair.down == config.ProtocolHTTP2))
			}
			testChaosOfPairing(t, p, "https://web.mesh.internal/", soakTime()/2, clients...)
		})
	}
}

func testChaosOfPairing(t *testing.T, p *testProxy, url string, lasts time.Duration, clients ...*http.Client) {
	until := time.Now().Add(lasts)
	var right, total atomic.Int32
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			for time.Now().Before(until) && !t.Failed() {
				total.Add(1)
				ok, err := askChaos(clients[i%len(clients)], url)
				if err != nil {
					t.Error(err)
				}
				if ok {
					right.Add(1)
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d of %d requests were answered right", right.Load(), total.Load())
	if right.Load()*3 < total.Load() {
		t.Errorf("only %d of %d requests were answered right", right.Load(), total.Load())
	}
	for _, name := range []string{"http.outbound.downstream_rq_active", "cluster.web.upstream_rq_active", "cluster.web.upstream_rq_pending_active"} {
		p.waitStat(name, "0")
	}
	p.waitStreams(0)
}
