package e2e

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// bystanders are well-behaved clients: each has a connection of its own, on which it sends one request after the other at a fixed
// low rate. None of their requests may fail whatever others do, and how long each took is kept by what went on then.
type bystanders struct {
	t       testing.TB
	stop    chan struct{}
	clients sync.WaitGroup
	period  atomic.Pointer[string] // what goes on now

	mu       sync.Mutex
	took     map[string][]time.Duration // guarded by mu
	failures []string                   // guarded by mu
	failed   int                        // guarded by mu
}

const (
	bystanderClients = 16
	bystanderRate    = 20 // requests a second of each
)

// speech is what clients speak.
type speech int

const (
	onlyHTTP1 speech = iota
	bothHTTP         // in plaintext
	bothOverTLS
)

// client returns a client of one connection, and what it asks for.
func (s speech) client(addr string, http2 bool) (url string, transport http.RoundTripper) {
	if s == bothHTTP && http2 {
		return "http://" + addr + wellBehaved, h2cTransport()
	}
	one := &http.Transport{MaxConnsPerHost: 1, DialContext: (&net.Dialer{}).DialContext}
	if s != bothOverTLS {
		return "http://" + addr + wellBehaved, one
	}
	one.TLSClientConfig, one.ForceAttemptHTTP2 = &tls.Config{InsecureSkipVerify: true}, http2
	return "https://" + addr + wellBehaved, one
}

const wellBehaved = "/well-behaved"

// startBystanders starts the clients. Unless all of them speak HTTP/1, every second one speaks HTTP/2.
func startBystanders(t testing.TB, addr string, speak speech) *bystanders {
	t.Helper()
	return startAsking(t, func(i int) (ask func() error, end func()) {
		url, transport := speak.client(addr, i%2 == 1)
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		return func() error { return bystanderRequest(client, url) }, client.CloseIdleConnections
	})
}

// startAsking starts clients, each of which asks in its own way.
func startAsking(t testing.TB, client func(i int) (ask func() error, end func())) *bystanders {
	t.Helper()
	b := &bystanders{t: t, stop: make(chan struct{}), took: map[string][]time.Duration{}}
	b.during("before")
	for i := range bystanderClients {
		ask, end := client(i)
		b.clients.Go(func() {
			defer end()
			time.Sleep(time.Duration(i) * time.Second / bystanderRate / bystanderClients) // not all at once
			b.client(ask)
		})
	}
	t.Cleanup(b.end)
	return b
}

// during names what goes on from now on.
func (b *bystanders) during(what string) { b.period.Store(&what) }

func (b *bystanders) client(ask func() error) {
	tick := time.NewTicker(time.Second / bystanderRate)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
		during, began := *b.period.Load(), time.Now()
		err := ask()
		took := time.Since(began)
		b.mu.Lock()
		b.took[during] = append(b.took[during], took)
		if err != nil {
			b.failed++
			if len(b.failures) < 5 {
				b.failures = append(b.failures, fmt.Sprintf("%s, during %s, after %s: %v", began.Format("15:04:05.000"), during, took.Round(time.Millisecond), err))
			}
		}
		b.mu.Unlock()
	}
}

func bystanderRequest(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || string(body) != wellBehaved) {
		err = errors.New(resp.Status + " " + string(body))
	}
	return err
}

func (b *bystanders) end() {
	select {
	case <-b.stop:
	default:
		close(b.stop)
	}
	b.clients.Wait()
}

// finish stops the clients; each request that failed is told.
func (b *bystanders) finish() {
	b.t.Helper()
	b.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.failures {
		b.t.Errorf("a well-behaved request failed: %s", f)
	}
	if b.failed > len(b.failures) {
		b.t.Errorf("%d well-behaved requests failed in all", b.failed)
	}
}

// quantile of what requests took during a period, and how many there were.
func (b *bystanders) quantile(during string, q float64) (time.Duration, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	took := slices.Sorted(slices.Values(b.took[during]))
	if len(took) == 0 {
		return 0, 0
	}
	return took[min(int(q*float64(len(took))), len(took)-1)], len(took)
}
