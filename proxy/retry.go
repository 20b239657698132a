package proxy

import (
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/retry"
	"github.com/hostmesh/hostmesh/proxy/router"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// keepsBody reports whether a request whose sending began may have to be sent again.
func (x *exchange) keepsBody() bool {
	return x.method.Idempotent() || x.route != nil && x.route.Retry.On&config.RetryNamed != 0
}

// repeatable reports whether the request can be sent again: nothing of it was sent, or it is idempotent and still at hand.
func (x *exchange) repeatable() bool {
	return x.retain && (!x.sentAny || x.method.Idempotent()) && !x.upgrade
}

// tryAgain tries the request again, on another host if there is one, if the route's policy says so. Else the exchange is as
// before, but for the flags that say why not.
func (x *exchange) tryAgain(o retry.Outcome) bool {
	o.Unsent = !x.sentAny
	s := retry.State{Retries: x.retries, AtHand: x.retain && !x.upgrade && !x.noRetry, Safe: !x.sentAny || x.method.Idempotent()}
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
	wait := x.retryWait(o.Failure == retry.None) // before the response's bytes are gone
	x.retries++
	x.dropUpstream()
	x.repeat(wait)
	return true
}

// statusRetry tries another host because of the response's head, if the policy says so.
func (x *exchange) statusRetry(status int) bool {
	p := &x.route.Retry
	if p.On == 0 || !x.whole || status == 101 {
		return false
	}
	o := retry.Outcome{Status: status}
	if p.On&config.RetryHeaders != 0 {
		o.Header = router.AnyField(p.Headers, &x.resp)
	}
	if status >= 400 || p.On&config.RetryNamed != 0 {
		_, limited := x.resp.Next("x-envoy-ratelimited", 0)
		o.RateLimited = limited >= 0
	}
	h := x.host
	if !x.tryAgain(o) {
		return false
	}
	h.Stats.RequestErr++
	return true
}

// retryWait is the wait before the next try; 0 is none.
func (x *exchange) retryWait(answered bool) time.Duration {
	p := &x.route.Retry
	if b := p.RateLimited; b != nil && answered {
		for _, h := range b.Headers {
			value, next := x.resp.Next(h.Name, 0)
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

// repeat sends the request again after a wait.
func (x *exchange) repeat(wait time.Duration) {
	x.tryTimer.Stop()
	x.tryIdle.Stop()
	x.sent = x.meta.end
	x.connected, x.reused, x.sentAny = false, false, false
	x.writeFailed, x.upReadable, x.upHup, x.upKeep = false, false, false, false
	x.w.loop.Release(x.upIn)
	x.upIn = nil
	x.resp.Reset()
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
	case &x.streamTimer:
		x.durationOver()
	case &x.idleTimer:
		x.c.http().count[httpRqIdleTimeout]++
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
	if x.headDone {
		x.abort(flagUpstreamTimeout)
		return
	}
	x.host.Reached(upstream.LocalTimeout)
	if x.tryAgain(retry.Outcome{Failure: retry.TimedOut}) {
		return
	}
	x.reply(504, textRequestTimeout, flagUpstreamTimeout)
}

// startLimits starts what limits the exchange as a whole, once its route is known.
func (x *exchange) startLimits(m *router.Match) {
	if p := &x.route.Retry; len(p.RequestHeaders) > 0 {
		x.noRetry = !router.AnyHeader(p.RequestHeaders, &x.match, m.Path)
	}
	d := x.route.MaxDuration
	if d == 0 {
		d = x.c.served.http().MaxStreamDuration
	}
	if d > 0 {
		x.w.loop.Start(&x.streamTimer, d, x)
	}
}

// durationOver ends an exchange that has gone on for too long, whatever it is doing.
func (x *exchange) durationOver() {
	x.c.http().count[httpRqMaxDuration]++
	switch {
	case x.c.tunnel != nil:
		x.c.tunnel.end(false)
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
	count := x.c.http().count[:]
	switch x.c.served.http().Underscores {
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

// lastRequest reports whether the connection is to end with the request that it begins now.
func (c *client) lastRequest() bool {
	if c.w.shed.keepAlive {
		c.http().count[httpCxOverloadKeepAlive]++
		return true
	}
	most := c.served.http().MaxConnectionRequests
	if c.requests++; most == 0 || c.requests < most {
		return false
	}
	c.http().count[httpCxMaxRequests]++
	return true
}

// lifeOver has the connection end with its present request, or soon when there is none.
func (c *client) lifeOver() {
	c.http().count[httpCxMaxDuration]++
	c.over = true
	if c.phase == phaseIdle && !c.closing {
		c.w.loop.Start(&c.timer, c.idleTimeout(), c)
	}
}

// appendVia writes the via field that the proxy adds.
func (x *exchange) appendVia(b []byte) []byte {
	via := x.c.served.http().Via
	if via == "" {
		return b
	}
	b = append(b, http1.Via.String()...)
	b = append(b, ": "...)
	b = append(b, via...)
	return append(b, "\r\n"...)
}
