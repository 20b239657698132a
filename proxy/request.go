package proxy

import (
	"errors"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/retry"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// hold keeps content of the request until an upstream can be given it.
func (x *exchange) hold(p []byte) {
	if len(p) == 0 {
		return
	}
	if x.buf == nil {
		x.buf = x.w.loop.Buffer(len(p))
	}
	x.buf = append(x.w.loop.Grow(x.buf, len(p)), p...)
	x.bytesIn += uint64(len(p))
}

// full reports whether no more of the request is wanted for now: the client is asked for more by pull.
func (x *exchange) full() bool {
	return x.up == nil || x.upgrade && !x.tunnel || x.up.Congested()
}

// requestContent passes content of the request on. end tells that it is the last.
func (x *exchange) requestContent(p loop.Piece, end bool) {
	x.touch()
	if x.answered && !x.tunnel {
		x.whole = x.whole || end // the rest is read and dropped
		return
	}
	if end {
		x.receivedAll()
	}
	if x.up == nil || x.upgrade && !x.tunnel {
		x.hold(p.Bytes())
		return
	}
	x.bytesIn += uint64(p.Len())
	if x.retain && len(x.buf)+p.Len() > retainBytes {
		x.forgetContent()
	}
	if x.retain && p.Len() > 0 {
		if x.buf == nil {
			x.buf = x.w.loop.Buffer(p.Len())
		}
		x.buf = append(x.w.loop.Grow(x.buf, p.Len()), p.Bytes()...)
	}
	if p.Len() == 0 && !end {
		return
	}
	if x.kept != nil {
		x.kept.sent = x.w.loop.Clock()
	}
	x.ended = x.ended || end
	x.up.SendContent(p, end)
	x.tunnelOver()
}

// requestTrailers ends the request.
func (x *exchange) requestTrailers(t *message.Fields) {
	if x.upgrade { // a tunnel has none (RFC 9113 section 8.5)
		x.requestContent(loop.Piece{}, true)
		return
	}
	x.touch()
	if x.answered {
		x.whole = true
		return
	}
	x.receivedAll()
	if x.up == nil || x.retain {
		x.keepTrailers(t)
	}
	if x.up != nil {
		x.ended = true
		x.up.SendTrailers(t)
	}
}

// keepTrailers keeps the trailers until an upstream can be given them.
func (x *exchange) keepTrailers(t *message.Fields) {
	x.tail = x.w.arena.Head()
	x.tail.Copy(t)
}

func (x *exchange) receivedAll() {
	x.whole = true
	x.requestReceived()
	if x.up != nil && !x.upgrade {
		x.w.loop.Start(&x.tryTimer, x.route.Retry.PerTryTimeout, x)
	}
}

// forgetContent gives up that the request can be sent again.
func (x *exchange) forgetContent() {
	x.retain = false
	x.w.loop.Release(x.buf)
	x.buf = nil
}

// connect picks a host and gets a stream to it.
func (x *exchange) connect() {
	x.attempts++
	h := x.cluster.PickBy(x.key, x.tried[:min(x.attempts-1, maxTried)])
	if h == nil {
		x.reply(503, textNoHealthy, flagNoHealthy)
		return
	}
	x.acquire(h)
}

// acquire gets a stream to a host, who counts as the one that this attempt tried: another than was picked when it had to wait.
func (x *exchange) acquire(h *upstream.Host) {
	x.host = h
	x.tried[(x.attempts-1)%maxTried] = h
	// What was sent on a connection that the host has closed can only be repeated if the method is idempotent.
	want := upstream.Pooled
	switch {
	case x.again:
		want = upstream.Fresh
	case !x.method.Idempotent() || x.attempts > 1 || x.stale > 0:
		want = upstream.Verified
	}
	up, err := x.open(h, want)
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
	x.reused = up != nil
	if up != nil {
		x.Connected(up, nil)
	}
}

// spoken is the version of HTTP that the client speaks.
func (x *exchange) spoken() config.Protocol {
	if x.down.protocol() == http2Protocol {
		return config.ProtocolHTTP2
	}
	return config.ProtocolHTTP1
}

// Free is told that a connection may be had after all.
func (x *exchange) Free() {
	x.again = false // the one that is free may be an idle one
	h := x.cluster.PickBy(x.key, x.tried[:min(x.attempts-1, maxTried)])
	if h == nil {
		x.reply(503, textNoHealthy, flagNoHealthy)
		return
	}
	x.acquire(h)
}

// Connected is told that the stream is there, or why not.
func (x *exchange) Connected(up upstream.Stream, err error) {
	if err != nil {
		x.host.Reached(upstream.LocalFailed)
		x.connectFailed(err)
		return
	}
	x.up, x.again = up, false
	if x.upgrade {
		x.convertUpgrade()
	}
	if x.kept != nil {
		x.keepConnected()
		x.kept.sent = x.w.loop.Clock()
	}
	x.host.Stats.RequestTotal++
	x.host.Reached(upstream.LocalConnected)
	if x.whole && !x.upgrade { // the time in a queue, or to connect, is not the host's
		x.w.loop.Start(&x.tryTimer, x.route.Retry.PerTryTimeout, x)
	}
	if x.route.Retry.PerTryIdle > 0 {
		x.w.loop.Start(&x.tryIdle, x.route.Retry.PerTryIdle, x)
	}
	x.send()
}

// send sends what is there of the request, and asks for the rest.
func (x *exchange) send() {
	content := x.buf
	if x.upgrade {
		content = nil // it could be a smuggled request, should the host not agree
	}
	x.ended = x.whole && x.tail == nil && !x.upgrade
	up := x.up
	x.tellAttempt()
	up.Send(&x.req, &x.edit, content, x.ended)
	if x.up != up { // it was refused, and what is to be done was done
		return
	}
	if x.tail != nil && !x.upgrade {
		x.ended = true
		up.SendTrailers(x.tail)
	}
	if up.Sent() {
		x.sentAny = true
		x.retain = x.retain && x.keepsContent() && len(x.buf) <= retainBytes
	}
	if !x.retain && !x.upgrade {
		x.w.loop.Release(x.buf)
		x.buf = nil
	}
	if !x.whole && !x.full() {
		x.down.pull()
	}
}

// Writable is told that the upstream takes more.
func (x *exchange) Writable() {
	x.touch()
	x.tunnelOver()
	if x.up != nil && !x.whole {
		x.down.pull()
	}
}

// connectFailed handles a host that cannot be reached: nothing was sent, so another one is tried whatever the method.
func (x *exchange) connectFailed(err error) {
	x.host.Stats.RequestErr++
	if x.again { // the connection that it had closed was the last: the request has met nobody
		x.again = false
		x.connect()
		return
	}
	if x.tryAgain(retry.Outcome{Failure: retry.NoConnect}, nil) {
		return
	}
	x.reply(503, x.failureText(connectReason(err)), flagConnectFailed)
}

// Cut is told that there will be no complete response.
func (x *exchange) Cut(cut upstream.Cut) {
	x.up = nil
	x.sentAny = !cut.Unsent
	switch {
	case cut.Kind == upstream.CutMalformed && !(cut.Silent && cut.Lost): // else it was no response to this request
		x.malformedResponse()
	case x.headDone:
		// The client must see that the response was cut off.
		x.cluster.Stats.Count[upstream.RequestRxReset]++
		x.host.Reached(upstream.LocalFailed)
		x.abort(cutFlag(cut))
	default:
		x.upstreamEnded(cut)
	}
}

// upstreamEnded handles an upstream that closed the connection, or the stream, before the response's head was complete.
func (x *exchange) upstreamEnded(cut upstream.Cut) {
	x.cluster.Stats.Count[upstream.RequestRxReset]++
	x.host.Stats.RequestErr++
	reused := x.reused && x.stale < 2 && cut.Silent && cut.Lost && cut.Kind != upstream.CutMalformed
	if !reused || !x.repeatable() {
		x.host.Reached(upstream.LocalFailed)
	}
	if reused && x.repeatable() {
		// The host had closed an idle connection: the request met nobody.
		x.repeatThere()
		return
	}
	o := retry.Outcome{Failure: retry.Ended}
	if cut.Kind == upstream.CutRefused {
		o.Failure = retry.Refused
	}
	if x.tryAgain(o, nil) {
		return
	}
	reason := "connection termination"
	switch {
	case cut.Kind == upstream.CutMalformed:
		x.reply(502, x.failureText("protocol error"), flagUpstreamProtocol)
		return
	case cutFlag(cut) != flagUpstreamReset:
	case cut.Kind == upstream.CutRefused:
		reason = "remote refused stream reset"
	default:
		reason = "remote reset"
	}
	x.reply(503, x.failureText(reason), cutFlag(cut))
}

// cutFlag tells whether a host has reset a stream, or is gone with its connection.
func cutFlag(cut upstream.Cut) flags {
	if !cut.Lost && cut.Kind != upstream.CutClosed {
		return flagUpstreamReset
	}
	return flagUpstreamEnded
}

// malformedResponse answers for an upstream that does not speak HTTP.
func (x *exchange) malformedResponse() {
	x.host.Stats.RequestErr++
	x.host.Reached(upstream.LocalFailed)
	if x.headDone {
		x.abort(flagUpstreamProtocol)
		return
	}
	x.cluster.Stats.Count[upstream.RequestTxReset]++
	if x.tryAgain(retry.Outcome{Failure: retry.Ended}, nil) {
		return
	}
	x.reply(502, x.failureText("protocol error"), flagUpstreamProtocol)
}

// dropUpstream ends the stream of a try that is given up.
func (x *exchange) dropUpstream() {
	x.cluster.Forget(&x.waiter)
	if up := x.up; up != nil {
		x.up = nil
		x.cluster.Stats.Count[upstream.RequestTxReset]++
		up.Drop()
	}
}

func (x *exchange) headTimeout() {
	x.stats.count[httpRqHeaderTimeout]++
	x.unparsed(408, textHeadTimeout, flagNone)
}

func (x *exchange) requestTimeout() {
	x.stats.count[httpRqTimeout]++
	x.timedOut(408, textWholeTimeout, flagNone)
}

// clientGone ends the exchange of a client that went away, as f says: the upstream is told by the end of its stream.
func (x *exchange) clientGone(f flags) {
	x.stats.count[httpRqRxReset]++
	x.drop(f, upstream.RequestCancelled)
}

// overloaded ends an exchange that holds too much: both sides see it cut off.
func (x *exchange) overloaded() {
	x.stats.count[httpRqTxReset]++
	x.drop(flagOverload, upstream.RequestTxReset)
}

// drop gives the exchange up, as f says, and counts that for the cluster.
func (x *exchange) drop(f flags, c upstream.Counter) {
	x.flags |= f
	if x.cluster != nil {
		x.cluster.Stats.Count[c]++
	}
	up := x.up
	x.up = nil
	x.account()
	if up != nil {
		up.Drop()
	}
}
