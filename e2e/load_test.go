package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// load sends requests at a constant rate, however slowly they are answered, and counts every failure.
type load struct {
	t       testing.TB
	stop    context.CancelFunc
	stopped chan struct{}

	mu       sync.Mutex
	sent     int            // guarded by mu
	failures []string       // guarded by mu; the first few, with the time
	failed   int            // guarded by mu
	answers  map[string]int // guarded by mu; by the first line of the body
	longest  time.Duration  // guarded by mu
}

// startLoad asks addr for host at rate requests a second until finish is called.
func startLoad(t testing.TB, addr, host string, rate int) *load {
	t.Helper()
	return startLoadBy(t, &http.Transport{DialContext: (&net.Dialer{}).DialContext, MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute}, addr, host, rate)
}

// startLoadBy does so by a transport of the caller's.
func startLoadBy(t testing.TB, transport *http.Transport, addr, host string, rate int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, stop: cancel, stopped: make(chan struct{}), answers: map[string]int{}}
	client := &http.Client{Timeout: 10 * time.Second, Transport: transport}
	go func() {
		defer close(l.stopped)
		defer client.CloseIdleConnections()
		var requests sync.WaitGroup
		defer requests.Wait()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				requests.Go(func() { l.one(client, addr, host) })
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-l.stopped })
	return l
}

func (l *load) one(client *http.Client, addr, host string) {
	began := time.Now()
	body, err := func() (string, error) {
		req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/", nil)
		if err != nil {
			return "", err
		}
		req.Host = host
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return "", err
		}
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(data)))
		}
		return strings.TrimSpace(string(data)), nil
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.longest = max(l.longest, time.Since(began))
	if err != nil {
		l.failed++
		if len(l.failures) < 10 {
			l.failures = append(l.failures, began.Format("15:04:05.000 ")+err.Error())
		}
		return
	}
	l.answers[body]++
}

// finish stops the load and fails the test if any request failed.
func (l *load) finish() {
	l.t.Helper()
	l.stop()
	<-l.stopped
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t.Logf("load: %d requests, %d failed, the longest took %s, answers %v", l.sent, l.failed, l.longest.Round(time.Millisecond), l.answers)
	if l.sent == 0 {
		l.t.Error("no request was sent")
	}
	for _, f := range l.failures {
		l.t.Errorf("request failed: %s", f)
	}
}

// answered returns how many answers there were that begin with prefix.
func (l *load) answered(prefix string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for body, count := range l.answers {
		if strings.HasPrefix(body, prefix) {
			n += count
		}
	}
	return n
}
