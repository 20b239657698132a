// Package probe finds out whether a proxy drops anything: it keeps requests coming at a rate that does not depend on the
// answers, on kept and on fresh connections, holds WebSockets open, and counts what got no whole answer and why.
//
// It hides nothing: no request is sent twice, and a kept connection that is closed under a request counts, although
// HTTP allows a server to do that and clients are expected to try again.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options say what to send where. Zero values have the defaults that are named.
type Options struct {
	URL        string        // http://address:port/path, or https
	Host       string        // of the Host field; default: the URL's
	Rate       int           // requests a second; default 100
	Duration   time.Duration // default 10 s
	Kept       int           // connections that are used again and again; default 16
	Fresh      int           // of 100 requests, how many have a connection of their own
	WebSockets int           // connections to a service that sends every message back
	Interval   time.Duration // between the messages of one of them; default 1 s
	Timeout    time.Duration // for an answer; default 10 s
	HTTP2      bool          // requests are HTTP/2: over TLS by ALPN, in plaintext by prior knowledge; WebSockets are not
	TLS        *tls.Config   // of https; default: verify the URL's host by the system's roots
}

// Result is what was found.
type Result struct {
	Requests   uint64            `json:"requests"` // that were due
	Answered   uint64            `json:"answered"`
	WebSockets uint64            `json:"webSockets"`
	Messages   uint64            `json:"messages"` // that came back
	Dropped    uint64            `json:"dropped"`
	Reasons    map[string]uint64 `json:"reasons,omitempty"`
	P50        time.Duration     `json:"p50"` // from the time at which a request was due
	P99        time.Duration     `json:"p99"`
	Max        time.Duration     `json:"max"`
}

// workers is how many requests may be under way on fresh connections.
const workers = 64

// maxSamples bounds the memory for latencies; beyond that the latest are kept.
const maxSamples = 1 << 20

// prober is a run.
type prober struct {
	Options
	addr   string
	target string
	secure bool

	mu      sync.Mutex
	result  Result          // guarded by mu
	latency []time.Duration // guarded by mu
	at      int             // in latency, guarded by mu
}

// job is a request that is due.
type job struct{ due time.Time }

// Run sends until the duration is over or ctx ends, and waits for the last answers.
func Run(ctx context.Context, o Options) (Result, error) {
	p, err := newProber(o)
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Duration)
	defer cancel()
	kept, fresh := make(chan job, p.Rate*10+1), make(chan job, p.Rate*10+1)
	var g errgroup.Group
	keep, renew := p.keep, p.renew
	if p.HTTP2 {
		keep, renew = p.keep2, p.renew2
	}
	for range p.Kept {
		g.Go(func() error { keep(kept); return nil })
	}
	for range workers {
		g.Go(func() error { renew(fresh); return nil })
	}
	for i := range p.WebSockets {
		// Spread over an interval, so that they do not all speak at once.
		g.Go(func() error { p.webSocket(ctx, p.Interval*time.Duration(i)/time.Duration(p.WebSockets)); return nil })
	}
	p.schedule(ctx, kept, fresh)
	close(kept)
	close(fresh)
	_ = g.Wait()
	return p.sum(), nil
}

func newProber(o Options) (*prober, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("probe: got url %q, want http://address:port/path, or https", o.URL)
	}
	p := &prober{Options: o, addr: u.Host, target: u.RequestURI(), secure: u.Scheme == "https", result: Result{Reasons: map[string]uint64{}}}
	if u.Port() == "" {
		p.addr = net.JoinHostPort(u.Hostname(), map[bool]string{false: "80", true: "443"}[p.secure])
	}
	if p.TLS == nil {
		p.TLS = &tls.Config{}
	}
	if p.TLS.ServerName == "" {
		p.TLS = p.TLS.Clone()
		p.TLS.ServerName = u.Hostname()
	}
	defaults := func(v *int, otherwise int) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	defaults(&p.Rate, 100)
	defaults(&p.Kept, 16)
	for v, otherwise := range map[*time.Duration]time.Duration{&p.Duration: 10 * time.Second, &p.Interval: time.Second, &p.Timeout: 10 * time.Second} {
		if *v <= 0 {
			*v = otherwise
		}
	}
	if p.Fresh < 0 || p.Fresh > 100 {
		return nil, fmt.Errorf("probe: got %d %% of fresh connections, want 0 to 100", p.Fresh)
	}
	if p.Host == "" {
		p.Host = u.Host
	}
	return p, nil
}

// schedule makes requests due until ctx ends, as many a second as the rate says, however long the answers take.
func (p *prober) schedule(ctx context.Context, kept, fresh chan<- job) {
	began, sent := time.Now(), 0
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for due := int(time.Since(began).Seconds() * float64(p.Rate)); sent < due; sent++ {
			j := job{began.Add(time.Duration(float64(sent) / float64(p.Rate) * float64(time.Second)))}
			to := kept
			if (sent*p.Fresh)/100 != ((sent+1)*p.Fresh)/100 {
				to = fresh
			}
			p.count(func(r *Result) { r.Requests++ })
			select {
			case to <- j:
			default:
				p.drop("not sent: too many answers are outstanding")
			}
		}
	}
}

func (p *prober) count(f func(*Result)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.result)
}

func (p *prober) drop(reason string) {
	p.count(func(r *Result) { r.Dropped++; r.Reasons[reason]++ })
}

// failed notes a request without a whole answer.
func (p *prober) failed(what string, err error) {
	text := err.Error()
	var errno syscall.Errno
	switch { // without addresses: a reason each would be a reason for each port
	case errors.As(err, &errno):
		text = errno.Error()
	case errors.Is(err, os.ErrDeadlineExceeded):
		text = "no answer in time"
	}
	p.drop(what + ": " + text)
}

func (p *prober) answered(j job) {
	took := time.Since(j.due)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Answered++
	if len(p.latency) < maxSamples {
		p.latency = append(p.latency, took)
		return
	}
	p.latency[p.at%maxSamples] = took
	p.at++
}

func (p *prober) sum() Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.result
	if n := len(p.latency); n > 0 {
		slices.Sort(p.latency)
		r.P50, r.P99, r.Max = p.latency[n/2], p.latency[n*99/100], p.latency[n-1]
	}
	return r
}
