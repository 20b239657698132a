package proxy

import (
	"strconv"

	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// Head takes the head of a response.
func (x *exchange) Head(h *message.Head, end bool) {
	x.sentAny = true
	switch {
	case x.opens(h):
		x.beginTunnel(h, end)
		return
	case x.misleads(h):
		x.reply(502, x.failureText("protocol error"), flagUpstreamProtocol)
		return
	case h.Status < 200:
		x.interim(h)
		return
	}
	x.firstByte = x.w.loop.Clock()
	x.host.Answered(x.judged(h))
	if x.statusRetry(h) {
		return
	}
	x.tryTimer.Stop()
	x.bodyTimer.Stop() // as in Envoy: a call that is answered while it goes on, as one of gRPC, may take its time
	x.status = h.Status
	x.noteGRPC(h)
	x.touch()
	e := x.answerEdit(h)
	x.headDone = true
	x.down.respond(h, e, end)
	if x.kept != nil {
		x.keepAnswer(h, e)
	}
	if end {
		x.complete()
	}
}

// judged is the status by which a host is judged that gave a response: of one to a call of gRPC that says in its head how the call
// ended, what that means. As in Envoy, what trailers say is not held against a host.
func (x *exchange) judged(h *message.Head) int {
	if s := h.Known(message.GRPCStatus); s != nil && x.callsGRPC() {
		return message.OfGRPC(message.ParseGRPC(s))
	}
	return h.Status
}

// noteGRPC notes the status of gRPC in the head of a response, or in its trailers, which are the last to tell.
func (x *exchange) noteGRPC(h *message.Head) {
	if s := h.Known(message.GRPCStatus); s != nil {
		x.grpcTold, x.grpcStatus = true, message.ParseGRPC(s)
	}
}

// answerEdit is what the proxy changes in a response.
func (x *exchange) answerEdit(h *message.Head) *message.Edit {
	w := x.w
	e := &w.edit
	*e = message.Edit{Set: e.Set[:0], Drop: message.Names(message.Server, message.XEnvoyUpstreamServiceTime)}
	e.Set = append(e.Set, message.SetKnown(message.Server, x.served.server))
	if x.served.http().SuppressEnvoyHeaders {
		e.Drop = message.Names(message.Server) // what the host says passes, as in Envoy
	} else if ms, ok := x.serviceTime(); ok {
		w.extra = strconv.AppendInt(w.extra[:0], ms, 10)
		e.Set = append(e.Set, message.SetKnown(message.XEnvoyUpstreamServiceTime, w.extra))
	}
	if x.route.TellClientAttempts {
		w.attempt = x.appendAttempt(w.attempt[:0])
		e.Drop = e.Drop.Or(message.Names(message.XEnvoyAttemptCount))
		e.Set = append(e.Set, message.SetKnown(message.XEnvoyAttemptCount, w.attempt))
	}
	if via := x.served.via; via != nil {
		e.Set = append(e.Set, message.SetKnown(message.Via, via))
	}
	if h.Known(message.Date) == nil {
		e.Set = append(e.Set, message.SetKnown(message.Date, w.date()))
	}
	return e
}

// Of informational responses there may be so many to one request, with so much to say in all: who sends them for ever does not
// answer. No window holds them back, and a client that does not read has to be kept what they say. (A host that shows in this way
// that it is at work does so every 20 seconds, RFC 2518 section 10.1.)
const (
	maxInterim      = 100
	maxInterimBytes = maxHead // as one head
)

// interim passes a 1xx response on.
func (x *exchange) interim(h *message.Head) {
	x.cluster.Stats.Count[upstream.Request1xx]++
	x.retain = false // the upstream has begun to answer
	x.hints++
	x.hintBytes += uint32(len(h.Text))
	if x.hints > maxInterim || x.hintBytes > maxInterimBytes {
		up := x.up
		x.up = nil
		up.Drop()
		x.cluster.Stats.Count[upstream.ConnProtocolError]++
		x.malformedResponse()
		return
	}
	x.touch()
	x.down.inform(h)
}

// Content passes content of the response on.
func (x *exchange) Content(p loop.Piece, end bool) (more bool) {
	if x.answered { // a tunnel that waits for its other direction, to which the host has an end once more
		x.tunnelOver()
		return true
	}
	x.touch()
	x.bytesOut += uint64(p.Len())
	x.down.content(p, end)
	if end {
		x.complete()
		return false
	}
	x.held = x.down.congested()
	return !x.held
}

// Trailers ends the response.
func (x *exchange) Trailers(t *message.Fields) {
	if x.tunnel {
		x.Content(loop.Piece{}, true)
		return
	}
	x.touch()
	x.noteGRPC(t)
	if x.kept != nil {
		x.kept.keepTrailers(x.served.lines, t)
	}
	x.down.trailers(t)
	x.complete()
}

// writable is told that the client takes more.
func (x *exchange) writable() {
	if x.held && x.up != nil {
		x.held = false
		x.up.Pull()
	}
}

// complete ends an exchange whose response is complete; a tunnel goes on until its other direction has ended too.
func (x *exchange) complete() {
	x.answered = true
	if x.tunnel {
		x.tunnelOver()
		return
	}
	x.finish()
}

// becomeTunnel answers a client whose wish for a tunnel the upstream has granted: from now on content goes both ways as it
// comes.
func (x *exchange) becomeTunnel(h *message.Head) {
	x.firstByte = x.w.loop.Clock()
	x.status = h.Status
	x.headDone, x.tunnel = true, true
	x.host.Answered(h.Status)
	for _, t := range [...]*loop.Timer{&x.routeTimer, &x.tryTimer, &x.tryIdle, &x.bodyTimer} {
		t.Stop()
	}
	over := x.whole && x.down.protocol() == http2Protocol // the client has said all already
	x.whole = over                                        // of HTTP/1, what comes now is the tunnel's
	x.retain = false
	e := x.answerEdit(h)
	x.convertAccept(h, e)
	x.touch()
	x.cluster.Stats.Count[upstream.RequestCompleted]++
	x.stats.count[httpUpgradesTotal]++
	x.stats.upgrades++
	x.down.respond(h, e, false)
	if x.kept != nil {
		x.keepAnswer(h, e)
	}
	if early := x.buf; early != nil || over {
		x.buf, x.ended = nil, over
		x.up.SendContent(loop.Sealed(early), over)
		x.w.loop.Release(early)
	}
	if !x.whole {
		x.down.pull()
	}
}

// endTunnel ends a tunnel in good order: both sides see its end.
func (x *exchange) endTunnel() {
	if !x.answered {
		x.down.content(loop.Piece{}, true)
	}
	x.finish()
}

// abort ends the exchange within a response: both sides see it cut off.
func (x *exchange) abort(f flags) {
	x.flags |= f
	up, down := x.up, x.down
	x.up = nil
	x.account()
	x.w.freeExchange(x)
	if up != nil {
		up.Drop()
	}
	down.abort()
}
