package retry_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/retry"
)

func TestDecide(t *testing.T) {
	status := func(s int) retry.Outcome { return retry.Outcome{Status: s} }
	fails := func(f retry.Failure) retry.Outcome { return retry.Outcome{Failure: f} }
	unsent := func(f retry.Failure) retry.Outcome { return retry.Outcome{Failure: f, Unsent: true} }
	const all = ^config.RetryOn(0)
	for _, c := range []struct {
		name string
		on   config.RetryOn
		o    retry.Outcome
		safe bool // what is done for a request that may be sent twice
		any  bool // and for another one
	}{
		{"connect-failure", config.RetryConnectFailure, unsent(retry.NoConnect), true, true},
		{"connect-failure: not a reset", config.RetryConnectFailure, fails(retry.Ended), false, false},
		{"reset", config.RetryReset, fails(retry.Ended), true, false},
		{"reset: no connection", config.RetryReset, unsent(retry.NoConnect), true, true},
		{"reset: too slow", config.RetryReset, fails(retry.TimedOut), true, false},
		{"reset: not a status", config.RetryReset, status(503), false, false},
		{"reset-before-request", config.RetryResetBeforeRequest, unsent(retry.Ended), true, true},
		{"reset-before-request: no connection", config.RetryResetBeforeRequest, unsent(retry.NoConnect), true, true},
		{"reset-before-request: after it", config.RetryResetBeforeRequest, fails(retry.Ended), false, false},
		{"5xx", config.Retry5xx, status(500), true, false},
		{"5xx: a reset", config.Retry5xx, fails(retry.Ended), true, false},
		{"5xx: 499", config.Retry5xx, status(499), false, false},
		{"gateway-error", config.RetryGatewayError, status(504), true, false},
		{"gateway-error: 500", config.RetryGatewayError, status(500), false, false},
		{"gateway-error: 505", config.RetryGatewayError, status(505), false, false},
		{"retriable-4xx", config.Retry4xx, status(409), true, true},
		{"retriable-4xx: 404", config.Retry4xx, status(404), false, false},
		{"retriable-status-codes", config.RetryStatusCodes, status(418), true, true},
		{"retriable-status-codes: another", config.RetryStatusCodes, status(419), false, false},
		{"retriable-headers", config.RetryHeaders, retry.Outcome{Status: 200, Header: true}, true, true},
		{"retriable-headers: without", config.RetryHeaders, status(500), false, false},
		{"envoy-ratelimited", config.RetryRateLimited, retry.Outcome{Status: 429, RateLimited: true}, true, true},
		{"rate limited and not named", all &^ config.RetryRateLimited, retry.Outcome{Status: 503, RateLimited: true}, false, false},
		{"refused-stream: nothing of HTTP/1", config.RetryRefusedStream, fails(retry.Ended), false, false},
		{"refused-stream", config.RetryRefusedStream, unsent(retry.Refused), true, true},
		{"unavailable", config.RetryUnavailable, retry.Outcome{Status: 200, GRPC: 14}, true, true},
		{"cancelled", config.RetryCancelled, retry.Outcome{Status: 200, GRPC: 1}, true, true},
		{"deadline-exceeded", config.RetryDeadlineExceeded, retry.Outcome{Status: 200, GRPC: 4}, true, true},
		{"resource-exhausted", config.RetryResourceExhausted, retry.Outcome{Status: 200, GRPC: 8}, true, true},
		{"internal", config.RetryInternal, retry.Outcome{Status: 200, GRPC: 13}, true, true},
		{"another status of gRPC", config.RetryGRPC, retry.Outcome{Status: 200, GRPC: 5}, false, false},
		{"nothing", 0, status(503), false, false},
		{"success", all &^ config.RetryHeaders, status(200), false, false},
	} {
		p := &config.Retry{On: c.on, Max: 2, Statuses: []int{418}}
		verdict := func(again bool, instead retry.Verdict) retry.Verdict {
			if again {
				return instead
			}
			return retry.Pass
		}
		unsafe := c.o.Unsent // nothing of it was sent: to send it is no repetition
		for _, s := range []struct {
			state retry.State
			want  retry.Verdict
		}{
			{retry.State{AtHand: true, Safe: true}, verdict(c.safe, retry.Again)},
			{retry.State{AtHand: true, Safe: true, Retries: 1}, verdict(c.safe, retry.Again)},
			{retry.State{AtHand: true, Safe: true, Retries: 2}, verdict(c.safe, retry.Exhausted)},
			{retry.State{AtHand: true, Safe: unsafe}, verdict(c.any, retry.Again)},
			{retry.State{AtHand: true, Safe: unsafe, Retries: 2}, verdict(c.any, retry.Exhausted)},
			{retry.State{Safe: true}, retry.Pass},
		} {
			if got := retry.Decide(p, c.o, s.state); got != s.want {
				t.Errorf("%s, %+v: verdict %d, want %d", c.name, s.state, got, s.want)
			}
		}
		p.Max = 0
		if got := retry.Decide(p, c.o, retry.State{AtHand: true, Safe: true}); got != verdict(c.safe, retry.Exhausted) {
			t.Errorf("%s without retries: verdict %d", c.name, got)
		}
	}
}

// TestBackOff: the longest wait doubles up to the limit, and any part of it may be drawn.
func TestBackOff(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		base, most time.Duration
		want       []time.Duration
	}{
		{0, 0, []time.Duration{25 * ms, 50 * ms, 100 * ms, 200 * ms, 250 * ms, 250 * ms}},
		{10 * ms, 15 * ms, []time.Duration{10 * ms, 15 * ms, 15 * ms}},
		{time.Second, time.Second, []time.Duration{time.Second, time.Second}},
		{math.MaxInt64 / 2, math.MaxInt64, []time.Duration{math.MaxInt64 / 2, math.MaxInt64 - 1, math.MaxInt64}},
	} {
		p := &config.Retry{BackOff: c.base, MaxBackOff: c.most}
		for n, want := range c.want {
			if got := retry.BackOff(p, n, uint64(want-1)); got != want {
				t.Errorf("base %v, retry %d: at most %v, want %v", c.base, n, got, want)
			}
			if got := retry.BackOff(p, n, uint64(want)); got != 1 {
				t.Errorf("base %v, retry %d: at least %v, want 1ns", c.base, n, got)
			}
		}
		for _, n := range []int{100, math.MaxInt} {
			if got := retry.BackOff(p, n, math.MaxUint64); got <= 0 || got > c.want[len(c.want)-1] {
				t.Errorf("base %v, retry %d: %v", c.base, n, got)
			}
		}
	}
}

func TestResetAfter(t *testing.T) {
	b := &config.RateLimitedBackOff{Max: 300 * time.Second}
	for _, c := range []struct {
		value  string
		unix   bool
		random uint64
		want   time.Duration // 0: not believed
	}{
		{"2", false, 0, 2 * time.Second},
		{"2", false, uint64(time.Second) - 1, 3*time.Second - 1},
		{"0", false, 9, 1},
		{"300", false, 0, 300 * time.Second},
		{"301", false, 0, 0},
		{"1005", true, 0, 5 * time.Second},
		{"999", true, 0, 0},
		{"", false, 0, 0},
		{"-1", false, 0, 0},
		{"1.5", false, 0, 0},
		{"Wed, 21 Oct 2015 07:28:00 GMT", false, 0, 0},
		{"999999999999999999", false, 0, 0},
		{"9999999999999999999999", false, 0, 0},
	} {
		got, ok := retry.ResetAfter(b, c.unix, []byte(c.value), 1000, c.random)
		if got != c.want || ok != (c.want > 0) {
			t.Errorf("%q: %v, %v; want %v", c.value, got, ok, c.want)
		}
	}
}

// FuzzResetAfter: whatever an upstream sends, the wait is none or within half more than the limit.
func FuzzResetAfter(f *testing.F) {
	for _, v := range []string{"1", "", "99999999999999999999", "-5", "1 2"} {
		f.Add([]byte(v), false, int64(1000), uint64(7))
		f.Add([]byte(v), true, int64(-1), uint64(math.MaxUint64))
	}
	f.Fuzz(func(t *testing.T, value []byte, unix bool, now int64, random uint64) {
		b := &config.RateLimitedBackOff{Max: time.Minute}
		if wait, ok := retry.ResetAfter(b, unix, value, now, random); ok && (wait <= 0 || wait > b.Max+b.Max/2) {
			t.Fatal(fmt.Sprint(wait))
		}
	})
}
