package proxy

import (
	"errors"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/retry"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// takeBody appends to buf what follows the head and belongs to the request, and returns the rest: pipelined requests, or
// bytes that make sense only with those to come.
func (x *exchange) takeBody(data []byte) (rest []byte, err error) {
	for len(data) > 0 {
		n, keep, err := x.body.Next(data)
		if err != nil {
			x.keep = false
			return nil, err
		}
		if n == 0 {
			break
		}
		if keep {
			x.buf = append(x.w.loop.Grow(x.buf, n), data[:n]...)
		}
		data = data[n:]
	}
	x.whole, x.bytesIn = x.body.Done(), x.body.Content()
	return data, nil
}

// connect picks a host and gets a connection to it.
func (x *exchange) connect() {
	x.attempts++
	tried := x.tried[:min(x.attempts-1, maxTried)]
	h := x.cluster.PickBy(x.key, tried)
	if h == nil {
		x.reply(503, textNoHealthy, flagNoHealthy)
		return
	}
	x.tried[(x.attempts-1)%maxTried] = h
	x.acquire(h)
}

func (x *exchange) acquire(h *upstream.Host) {
	x.host = h
	x.connectAt = x.w.loop.Clock()
	if x.whole {
		x.w.loop.Start(&x.tryTimer, x.route.Retry.PerTryTimeout, x)
	}
	// What was sent on a connection that the host has closed can only be repeated if the method is idempotent.
	want := upstream.Pooled
	if !x.method.Idempotent() || x.attempts > 1 {
		want = upstream.Verified
	}
	up, reused, err := x.cluster.Acquire(h, x, &x.waiter, want)
	switch {
	case errors.Is(err, upstream.ErrWait):
		return
	case errors.Is(err, upstream.ErrOverflow):
		x.reply(503, textOverflow, flagOverflow)
		return
	case err != nil:
		x.connectFailed(err)
		return
	}
	x.up, x.reused = up, reused
	if reused {
		x.Connected(nil)
	}
}

// Free is told that a connection may be had after all.
func (x *exchange) Free() {
	h := x.cluster.PickBy(x.key, x.tried[:min(x.attempts-1, maxTried)])
	if h == nil {
		x.reply(503, textNoHealthy, flagNoHealthy)
		return
	}
	x.acquire(h)
}

// Connected is told that the connection is there, or why not.
func (x *exchange) Connected(err error) {
	if err != nil {
		x.up = nil
		x.host.Reached(upstream.LocalFailed)
		x.connectFailed(err)
		return
	}
	x.connected = true
	if x.kept != nil {
		x.keepConnected()
	}
	x.up.Requests++
	x.host.Stats.RequestTotal++
	x.host.Reached(upstream.LocalConnected)
	if x.route.Retry.PerTryIdle > 0 {
		x.w.loop.Start(&x.tryIdle, x.route.Retry.PerTryIdle, x)
	}
	if x.sendRequest() {
		x.pumpRequest()
	}
}

// sendRequest sends what is in buf, and reports whether all of it went.
func (x *exchange) sendRequest() bool {
	if x.writeFailed {
		return false
	}
	from := x.sent
	n, err := x.up.Write(x.buf[x.sent:])
	x.sent += n
	x.cluster.Stats.Count[upstream.ConnTxBytes] += uint64(x.sent - from)
	if x.kept != nil {
		x.kept.sent = x.w.loop.Clock()
	}
	if n > 0 {
		x.sentAny = true
		x.retain = x.retain && x.keepsBody() && len(x.buf) <= retainBytes
	}
	if err != nil {
		if !errors.Is(err, syscall.EAGAIN) {
			x.writeBroken()
		}
		return false
	}
	if !x.retain {
		x.buf = x.buf[:x.meta.end]
		x.sent = x.meta.end
	}
	return true
}

// writeBroken handles an upstream that takes no more. It may have answered before it closed.
func (x *exchange) writeBroken() {
	x.writeFailed = true
	x.upKeep = false
	x.upReadable, x.upHup = true, true
	x.readResponse()
}

// pumpRequest moves the rest of the request's body, as fast as the upstream takes it.
func (x *exchange) pumpRequest() {
	c := x.c
	buf := x.w.loop.Shared()[loop.Headroom:]
	for moved := 0; !x.whole; {
		if !x.connected || x.sent < len(x.buf) {
			return
		}
		if moved >= turnBytes {
			c.Again()
			return
		}
		n := copy(buf, c.in)
		x.w.loop.Release(c.in)
		c.in = nil
		m, err := c.read(buf[n:])
		if err != nil && (n == 0 || !errors.Is(err, syscall.EAGAIN)) {
			if !errors.Is(err, syscall.EAGAIN) {
				c.gone()
			}
			return
		}
		moved += n + m
		if !x.forwardBody(buf[:n+m]) || m == 0 {
			return
		}
	}
}

// forwardBody sends a part of the request's body on. False means that the exchange has ended or has to wait.
func (x *exchange) forwardBody(data []byte) bool {
	kept, used, err := compact(&x.body, data)
	if err != nil {
		x.keep = false
		x.brokenBody(err)
		return false
	}
	x.touch()
	x.bytesIn = x.body.Content()
	x.c.save(data[used:])
	if x.body.Done() {
		x.whole = true
		x.requestReceived()
		x.w.loop.Start(&x.tryTimer, x.route.Retry.PerTryTimeout, x)
	}
	if x.retain && len(x.buf)+kept > retainBytes {
		x.retain = false
		x.buf = x.buf[:x.meta.end]
		x.sent = x.meta.end
	}
	if x.retain {
		x.buf = append(x.w.loop.Grow(x.buf, kept), data[:kept]...)
		return x.sendRequest()
	}
	if x.writeFailed {
		return true // the rest is read and dropped
	}
	n, err := x.up.Write(data[:kept])
	if x.kept != nil {
		x.kept.sent = x.w.loop.Clock()
	}
	x.cluster.Stats.Count[upstream.ConnTxBytes] += uint64(n)
	if err == nil {
		return true
	}
	if !errors.Is(err, syscall.EAGAIN) {
		x.writeBroken()
		return false
	}
	x.buf = append(x.w.loop.Grow(x.buf, kept-n), data[n:kept]...)
	return false
}

// compact moves what is to be kept of data to its start.
func compact(b *http1.Body, data []byte) (kept, used int, err error) {
	for used < len(data) {
		n, keep, err := b.Next(data[used:])
		if err != nil {
			return kept, used, err
		}
		if n == 0 {
			break
		}
		if keep {
			if kept != used {
				copy(data[kept:], data[used:used+n])
			}
			kept += n
		}
		used += n
	}
	return kept, used, nil
}

// brokenBody handles a request whose body is malformed: nothing more of it is sent, and the upstream sees it cut off.
func (x *exchange) brokenBody(err error) {
	var e http1.Error
	errors.As(err, &e)
	x.c.http().count[httpCxProtocolError]++
	if x.headDone {
		x.abort(flagProtocol)
		return
	}
	x.reply(e.Status(), textBadRequest, flagProtocol)
}

// connectFailed handles a host that cannot be reached: nothing was sent, so another one is tried whatever the method.
func (x *exchange) connectFailed(err error) {
	x.host.Stats.RequestErr++
	if x.tryAgain(retry.Outcome{Failure: retry.NoConnect}) {
		return
	}
	x.reply(503, x.failureText(connectReason(err)), flagConnectFailed)
}

// upstreamEnded handles an upstream that closed the connection before the response's head was complete.
func (x *exchange) upstreamEnded(reset bool) {
	up, reused := x.up, x.reused && x.stale < 2 && len(x.upIn) == 0
	x.up, x.connected = nil, false
	up.Discard()
	x.cluster.Stats.Count[upstream.RequestRxReset]++
	x.host.Stats.RequestErr++
	if !reused || !x.repeatable() {
		x.host.Reached(upstream.LocalFailed)
	}
	if len(x.upIn) == 0 {
		if reused && x.repeatable() {
			// The host had closed an idle connection: the request met nobody.
			x.stale++
			x.repeat(0)
			return
		}
		if x.tryAgain(retry.Outcome{Failure: retry.Ended}) {
			return
		}
	}
	reason := "connection termination"
	if reset {
		reason = "remote reset"
	}
	x.reply(503, x.failureText(reason), flagUpstreamEnded)
}

// dropUpstream ends the connection of a try that is given up.
func (x *exchange) dropUpstream() {
	x.cluster.Dequeue(&x.waiter)
	if up := x.up; up != nil {
		x.up, x.connected = nil, false
		x.cluster.Stats.Count[upstream.RequestTxReset]++
		up.Discard()
	}
}

func (x *exchange) headTimeout() {
	x.unparsed(408, "request header timeout", flagTimeoutDownstream)
}

func (x *exchange) requestTimeout() {
	x.c.http().count[httpRqTimeout]++
	x.timedOut(408, "request timeout", flagTimeoutDownstream)
}
