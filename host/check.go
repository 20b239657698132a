package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/internal/gossip"
	"github.com/hostmesh/hostmesh/internal/hostfile"
)

const (
	checksAtOnce  = 16
	maxCheckHead  = 16 << 10
	maxCheckBody  = 4 << 10 // read, so that the server sees its answer taken; more is not
	checkerHeader = "hostmesh-check"
)

// tally turns results into health by rise and fall. The first result decides alone: before it nothing is known, and a
// restart should not take rise intervals.
type tally struct {
	rise, fall int
	known      bool
	healthy    bool
	against    int // results in a row that contradict healthy
}

// take counts a result and reports whether the health changed or became known.
func (t *tally) take(ok bool) bool {
	if !t.known {
		t.known, t.healthy = true, ok
		return true
	}
	if ok == t.healthy {
		t.against = 0
		return false
	}
	t.against++
	need := t.fall
	if ok {
		need = t.rise
	}
	if t.against < need {
		return false
	}
	t.healthy, t.against = ok, 0
	return true
}

// state is what is known of an instance.
type state struct {
	health gossip.Health
	since  time.Time
	detail string // what the last check said
}

// probe is a check under way.
type probe struct {
	service hostfile.Service
	tally   tally
	state   state
	cancel  context.CancelFunc
}

// result is the outcome of one check; err says why it failed.
type result struct {
	key    key
	probe  *probe
	detail string
	err    error
}

// checks runs the checks of the instances. All but the checking goroutines belongs to the caller's goroutine.
type checks struct {
	ctx     context.Context
	log     *slog.Logger
	client  *http.Client
	slots   chan struct{}
	results chan result
	running map[key]*probe
	wg      sync.WaitGroup
}

func newChecks(ctx context.Context, log *slog.Logger) *checks {
	return &checks{
		ctx: ctx, log: log, client: newClient(),
		slots: make(chan struct{}, checksAtOnce), results: make(chan result), running: map[key]*probe{},
	}
}

// newClient returns a client that goes nowhere but where it is sent: no proxy, no redirect (a check that follows them
// lets the checked service choose what this host requests), no connection kept.
func newClient() *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: maxCheckHead, ReadBufferSize: 1 << 10, WriteBufferSize: 1 << 10,
		},
	}
}

// set makes the checks those of the entries. A check that stays keeps its state.
func (c *checks) set(entries []entry) {
	wanted := map[key]bool{}
	for _, e := range entries {
		if e.service.Check == nil {
			continue
		}
		wanted[e.key] = true
		old := c.running[e.key]
		if old != nil && old.service.Address == e.service.Address && reflect.DeepEqual(old.service.Check, e.service.Check) {
			continue
		}
		p := &probe{
			service: *e.service, tally: tally{rise: e.service.Check.Rise, fall: e.service.Check.Fall},
			state: state{health: gossip.Unhealthy, since: time.Now(), detail: "not checked yet"},
		}
		if old != nil { // another way to check the same instance: what is known holds until it answers
			old.cancel()
			p.state = old.state
		}
		var ctx context.Context
		ctx, p.cancel = context.WithCancel(c.ctx)
		c.running[e.key] = p
		c.wg.Go(func() { c.run(ctx, e.key, p) })
	}
	for k, p := range c.running {
		if !wanted[k] {
			p.cancel()
			delete(c.running, k)
		}
	}
}

// stop ends all checks; the context of newChecks has ended.
func (c *checks) stop() {
	for _, p := range c.running {
		p.cancel()
	}
	c.wg.Wait()
	c.client.CloseIdleConnections()
}

// take counts a result and reports whether a health changed or became known.
func (c *checks) take(r result) bool {
	p := c.running[r.key]
	if p != r.probe {
		return false // of a check that was replaced
	}
	p.state.detail = r.detail
	if r.err != nil {
		p.state.detail = r.err.Error()
	}
	first := !p.tally.known
	if !p.tally.take(r.err == nil) {
		return false
	}
	health := gossip.Unhealthy
	if p.tally.healthy {
		health = gossip.Healthy
	}
	if health != p.state.health || first {
		p.state.since = time.Now()
		c.log.Info("health of "+r.key.namespace+"/"+r.key.service, "instance", r.key.id, "health", health, "check", p.state.detail)
	}
	p.state.health = health
	return true
}

// allKnown reports whether every check has answered once.
func (c *checks) allKnown() bool {
	for _, p := range c.running {
		if !p.tally.known {
			return false
		}
	}
	return true
}

// health returns what is known of an instance.
func (c *checks) health(k key) state {
	if p := c.running[k]; p != nil {
		return p.state
	}
	return state{health: gossip.Unknown}
}

// run checks until ctx ends, at once and then at each interval, give or take a tenth so that checks spread.
func (c *checks) run(ctx context.Context, k key, p *probe) {
	interval := p.service.Check.Interval
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return
		case c.slots <- struct{}{}:
		}
		begin := time.Now()
		detail, err := c.once(ctx, &p.service)
		<-c.slots
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case c.results <- result{key: k, probe: p, detail: detail, err: err}:
		}
		next := interval*9/10 + rand.N(interval/5+1)
		timer.Reset(max(next-time.Since(begin), interval/10))
	}
}

// once runs one check within its timeout.
func (c *checks) once(ctx context.Context, s *hostfile.Service) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Check.Timeout)
	defer cancel()
	to := s.Address
	if !to.IsValid() {
		to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	at := netip.AddrPortFrom(to, s.Check.Port).String()
	if s.Check.TCP {
		conn, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", at)
		if err != nil {
			return "", fmt.Errorf("connect %s: %w", at, plain(err, s.Check.Timeout))
		}
		_ = conn.Close()
		return "connected to " + at, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+s.Check.HTTP, nil)
	if err != nil {
		return "", fmt.Errorf("check %s: %w", at, err)
	}
	request.Header.Set("User-Agent", checkerHeader)
	response, err := c.client.Do(request)
	if err != nil {
		return "", fmt.Errorf("get %s%s: %w", at, s.Check.HTTP, plain(err, s.Check.Timeout))
	}
	defer response.Body.Close()
	_, _ = io.CopyN(io.Discard, response.Body, maxCheckBody)
	said := fmt.Sprintf("get %s%s: status %d", at, s.Check.HTTP, response.StatusCode)
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return "", errors.New(said)
	}
	return said, nil
}

// plain takes from an error what the caller says better.
func plain(err error, timeout time.Duration) error {
	var refused syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %v", timeout)
	case errors.As(err, &refused):
		return refused
	}
	return err
}
