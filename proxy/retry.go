package proxy

import (
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/retry"
	"github.com/hostmesh/hostmesh/proxy/router"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// keepsContent reports whether a request whose sending began may have to be sent again.
func (x *exchange) keepsContent() bool {
	return x.method.Idempotent() || x.route != nil && x.route.Retry.On&(config.RetryNamed|config.RetryRefusedStream) != 0
}

// repeatable reports whether the request can be sent again: nothing of it was sent, or it is idempotent and still at hand.
func (x *exchange) repeatable() bool {
	return x.retain && (!x.sentAny || x.method.Idempotent()) && !x.upgrade
}

// tryAgain tries the request again, on another host if there is one, if the route's policy says so. Else the exchange is as
// before, but for the flags that say why not. answer is the response that is the reason, nil if there is none.
func (x *exchange) tryAgain(o retry.Outcome, answer *message.Head) bool {
	x.sentAny = x.sentAny || x.up != nil && x.up.Sent()
	o.Unsent = !x.sentAny
	s := retry.State{Retries: x.retries, AtHand: x.retain && !x.noRetry && (!x.upgrade || !x.sentAny), Safe: !x.sentAny || x.method.Idempotent()}
	switch retry.Decide(&x.route.Retry, o, s) {
	case retry.Pass:
		return false
	case retry.Exhausted:
		x.cluster.Stats.Count[upstream.RetryLimitExceeded]++
		x.flags |= flagRetryLimit
		return false
	}
	if x.retrying {
		x.cluster.Stats.Count[upstream.Retry]++
	} else if !x.cluster.BeginRetry() {
		x.flags |= flagOverflow
		return false
	}
	x.retrying = true
	wait := x.retryWait(answer) // before the response's bytes are gone
	x.retries++
	x.dropUpstream()
	x.repeat(wait)
	return true
}

// statusRetry tries another host because of the response's head, if the policy says so.
func (x *exchange) statusRetry(h *message.Head) bool {
	p, status := &x.route.Retry, h.Status
	if p.On == 0 || !x.whole {
		return false
	}
	o := retry.Outcome{Status: status}
	if p.On&config.RetryHeaders != 0 {
		o.Header = router.AnyField(p.Headers, h)
	}
	if status >= 400 || p.On&config.RetryNamed != 0 {
		_, limited := h.Next("x-envoy-ratelimited", 0)
		o.RateLimited = limited >= 0
	}
	if p.On&config.RetryGRPC != 0 {
		n, _ := message.ParseLength(h.Known(message.GRPCStatus))
		o.GRPC = int(min(n, 1000))
	}
	host := x.host
	if !x.tryAgain(o, h) {
		return false
	}
	host.Stats.RequestErr++
	return true
}

// retryWait is the wait before the next try; 0 is none.
func (x *exchange) retryWait(answer *message.Head) time.Duration {
	p := &x.route.Retry
	if b := p.RateLimited; b != nil && answer != nil {
		for _, h := range b.Headers {
			value, next := answer.Next(h.Name, 0)
			if next < 0 {
				continue
			}
			if wait, ok := retry.ResetAfter(b, h.Unix, value, time.Now().Unix(), x.w.rand.Uint64()); ok {
				x.cluster.Stats.Count[upstream.RetryBackoffRateLimited]++
				return wait
			}
		}
	}
	if p.BackOff == 0 && x.attempts < len(x.cluster.Hosts()) {
		return 0
	}
	x.cluster.Stats.Count[upstream.RetryBackoffExponential]++
	return retry.BackOff(p, x.retries, x.w.rand.Uint64())
}

// rewind makes the exchange what it was before its request was sent.
func (x *exchange) rewind() {
	x.tryTimer.Stop()
	x.tryIdle.Stop()
	x.again, x.reused, x.sentAny, x.ended, x.held = false, false, false, false, false
}

// repeatThere sends the request again to the host that had closed the connection it was sent on, over a new one. That is no other
// attempt: the host is the one that was chosen, by a session's key perhaps.
func (x *exchange) repeatThere() {
	x.stale++
	x.rewind()
	if x.host.Gone() {
		x.connect()
		return
	}
	x.again = true
	x.acquire(x.host)
}

// repeat sends the request again after a wait.
func (x *exchange) repeat(wait time.Duration) {
	x.rewind()
	if wait <= 0 {
		x.connect()
		return
	}
	x.backoff = true
	x.w.loop.StartAt(&x.tryTimer, wait, x)
}

// Expired handles the exchange's timeouts.
func (x *exchange) Expired(t *loop.Timer) {
	switch t {
	case &x.tryTimer:
		if x.backoff {
			x.backoff = false
			x.connect()
			return
		}
		x.tryTimeout(upstream.RequestPerTryTimeout)
	case &x.tryIdle:
		x.tryTimeout(upstream.RequestPerTryIdleTimeout)
	case &x.routeTimer:
		x.cluster.Stats.Count[upstream.RequestTimeout]++
		if x.up != nil && !x.headDone {
			x.host.Reached(upstream.LocalTimeout)
		}
		x.timedOut(504, textRequestTimeout, flagUpstreamTimeout)
	case &x.bodyTimer:
		x.requestTimeout()
	case &x.streamTimer:
		x.durationOver()
	case &x.idleTimer:
		x.stats.count[httpRqIdleTimeout]++
		if x.tunnel {
			x.flags |= flagStreamIdle
			x.because("stream_idle_timeout")
			x.endTunnel()
			return
		}
		if x.whole {
			x.timedOut(504, textStreamTimeout, flagStreamIdle)
		} else {
			x.timedOut(408, textStreamTimeout, flagStreamIdle)
		}
	}
}

func (x *exchange) timedOut(status int, text string, f flags) {
	if x.host != nil {
		x.host.Stats.RequestTimeout++
	}
	if x.headDone {
		x.abort(f)
		return
	}
	x.reply(status, text, f)
}

// tryTimeout ends a try that took too long as a whole, or was silent for too long.
func (x *exchange) tryTimeout(count upstream.Counter) {
	if x.headDone && count == upstream.RequestPerTryTimeout {
		return
	}
	x.cluster.Stats.Count[count]++
	x.host.Stats.RequestTimeout++
	details := "upstream_per_try_timeout"
	if count == upstream.RequestPerTryIdleTimeout {
		details = "upstream_per_try_idle_timeout"
	}
	if x.headDone {
		x.because(details)
		x.abort(flagUpstreamTimeout)
		return
	}
	x.host.Reached(upstream.LocalTimeout)
	if x.tryAgain(retry.Outcome{Failure: retry.TimedOut}, nil) {
		return
	}
	x.because(details)
	x.reply(504, textRequestTimeout, flagUpstreamTimeout)
}

// startLimits starts what limits the exchange as a whole, once its route is known.
func (x *exchange) startLimits(m *router.Match) {
	if p := &x.route.Retry; len(p.RequestHeaders) > 0 {
		x.noRetry = !router.AnyHeader(p.RequestHeaders, &x.match, m.Path)
	}
	x.limitDuration()
}

// durationOver ends an exchange that has gone on for too long, whatever it is doing.
func (x *exchange) durationOver() {
	x.stats.count[httpRqMaxDuration]++
	x.because("max_duration_timeout")
	switch {
	case x.tunnel:
		x.endTunnel()
	case x.headDone:
		x.abort(flagNone) // as in Envoy no flag tells this
	case x.whole:
		x.reply(504, textDurationTimeout, flagNone)
	default:
		x.reply(408, textDurationTimeout, flagNone)
	}
}

// underscores does what the listener's policy says about fields whose names have an underscore. It reports whether the request
// is refused for them.
func (x *exchange) underscores() bool {
	count := x.stats.count[:]
	switch x.served.http().Underscores {
	case config.UnderscoresReject:
		if x.req.Underscored(false) > 0 {
			count[httpUnderscoreRejected]++
			count[httpCxProtocolError]++
			return true
		}
	case config.UnderscoresDrop:
		count[httpUnderscoreDropped] += uint64(x.req.Underscored(true))
	}
	return false
}
