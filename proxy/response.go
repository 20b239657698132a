package proxy

import (
	"errors"
	"io"
	"strconv"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// UpstreamReady takes the events of the upstream's connection.
func (x *exchange) UpstreamReady(e loop.Event) {
	if x.c.tunnel != nil {
		x.c.tunnel.UpstreamReady(e)
		return
	}
	if e&(loop.In|loop.Hup|loop.Err) != 0 {
		x.upReadable = true
		x.upHup = x.upHup || e&(loop.Hup|loop.Err) != 0
	}
	if e&loop.Out != 0 && x.connected && x.sent < len(x.buf) && !x.writeFailed {
		c := x.c
		if x.sendRequest() {
			x.touch()
			x.pumpRequest()
		}
		if c.x != x { // the exchange has ended
			return
		}
	}
	x.readResponse()
}

// readResponse passes the response on, as fast as the client takes it.
func (x *exchange) readResponse() {
	c := x.c
	shared := x.w.loop.Shared()
	for moved := 0; x.upReadable && x.connected; {
		if len(c.out) > 0 {
			return // flush comes back
		}
		if moved >= turnBytes {
			x.up.Again()
			return
		}
		at := shared[loop.Headroom:]
		n := copy(at, x.upIn)
		if n == len(at) {
			x.badResponse()
			return
		}
		m, err := x.up.Read(at[n:])
		if err != nil {
			if errors.Is(err, syscall.EAGAIN) {
				x.upReadable = false
				return
			}
			x.responseEnded(err)
			return
		}
		x.w.loop.Release(x.upIn)
		x.upIn = nil
		moved += m
		x.upReadable = n+m == len(at) || x.upHup
		x.cluster.Stats.Count[upstream.ConnRxBytes] += uint64(m)
		if !x.forwardResponse(loop.Headroom, loop.Headroom+n+m) {
			return
		}
	}
}

// forwardResponse passes on what of shared[from:to] can be. False means that the exchange has ended.
func (x *exchange) forwardResponse(from, to int) bool {
	shared := x.w.loop.Shared()
	var head []byte
	for !x.headDone {
		n, err := x.resp.Parse(shared[from:to], http1.Limits{HeadBytes: maxHead})
		if err != nil {
			x.badResponse()
			return false
		}
		if n == 0 {
			x.keepUpstream(shared[from:to])
			return true
		}
		ended, ok := x.responseHead(&head)
		if ended || !ok {
			if !ended && x.c.tunnel != nil {
				x.c.upgraded(shared[from+n : to])
			}
			return false
		}
		from += n
		if x.headDone {
			to = x.readMore(from, to)
		}
	}
	return x.forwardAnswer(head, from, to)
}

// readMore tries once more for the rest of a short body, of which shared[from:to] is there: many upstreams send head and body
// apart, and a read costs far less than a second send.
func (x *exchange) readMore(from, to int) int {
	left := x.answer.Remaining() - int64(to-from)
	room := x.w.loop.Shared()[to:]
	if x.upReadable || left <= 0 || left > int64(len(room)) {
		return to
	}
	n, err := x.up.Read(room)
	if err != nil {
		x.upReadable = !errors.Is(err, syscall.EAGAIN) // an end is told again
		return to
	}
	x.upReadable = n == len(room) || x.upHup
	x.cluster.Stats.Count[upstream.ConnRxBytes] += uint64(n)
	return to + n
}

// keepUpstream keeps bytes of the upstream that cannot be used yet.
func (x *exchange) keepUpstream(data []byte) {
	if len(data) > 0 {
		x.upIn = append(x.w.loop.Buffer(len(data)), data...)
	}
}

// responseHead handles a complete head. It is returned in out for sending along with the body. ended means that the
// exchange is over or repeated; ok is false when its connections became a tunnel.
func (x *exchange) responseHead(out *[]byte) (ended, ok bool) {
	resp := &x.resp
	if resp.Interim() {
		x.interim()
		return x.c == nil, true
	}
	x.firstByte = x.w.loop.Clock()
	if resp.Status == 101 && !x.upgrade {
		x.badResponse()
		return true, false
	}
	x.host.Answered(resp.Status)
	if x.statusRetry(resp.Status) {
		return true, false
	}
	x.tryTimer.Stop()
	framing := resp.Framing(x.method)
	x.status = resp.Status
	x.answer = http1.NewBody(framing, x.http10)
	x.upKeep = resp.KeepAlive() && framing.Kind != http1.UntilClose
	w := http1.ResponseRewrite{}
	x.decideKeep(framing.Kind, &w)
	x.w.extra = x.responseFields(x.w.extra[:0], &w)
	w.Extra = x.w.extra
	x.w.head = resp.AppendHead(x.w.head[:0], x.method, &w)
	if x.kept != nil {
		x.keepAnswer(x.w.head)
	}
	x.headDone = true
	*out = x.w.head
	if resp.Status == 101 {
		return x.becomeTunnel(*out), false
	}
	return false, true
}

// decideKeep settles whether the client's connection outlives the response, and how the body is delimited for it.
func (x *exchange) decideKeep(kind http1.Kind, w *http1.ResponseRewrite) {
	if !x.whole {
		x.keep = false // what is left of the request cannot be told from the next one by everybody
	}
	if x.http10 && (kind == http1.Chunked || kind == http1.UntilClose) {
		x.keep, w.Unwrap = false, true
	}
	if x.c.draining() {
		x.keep = false
	}
	if kind == http1.UntilClose && !x.http10 {
		x.rechunk, w.Chunk = true, true
	}
	w.Close = !x.keep
	w.KeepAlive = x.keep && x.http10
}

// responseFields writes the fields that the proxy sets.
func (x *exchange) responseFields(b []byte, w *http1.ResponseRewrite) []byte {
	w.Drop = http1.Names(http1.Server, http1.XEnvoyUpstreamServiceTime)
	b = append(b, "server: "...)
	b = append(b, x.c.served.serverName()...)
	b = append(b, "\r\nx-envoy-upstream-service-time: "...)
	b = strconv.AppendInt(b, (x.firstByte-x.connectAt)/1e6, 10)
	b = append(b, "\r\n"...)
	b = x.appendVia(b)
	if x.resp.Known(http1.Date) == nil {
		b = x.w.appendDate(b)
	}
	return b
}

// interim passes a 1xx response on.
func (x *exchange) interim() {
	x.cluster.Stats.Count[upstream.Request1xx]++
	x.retain = false // the upstream has begun to answer
	x.w.head = x.resp.AppendHead(x.w.head[:0], x.method, &http1.ResponseRewrite{})
	x.resp.Reset()
	if !x.http10 {
		x.c.send(x.w.head)
	}
}

// forwardAnswer passes on the body bytes in shared[from:to], behind the head if that was not sent yet.
func (x *exchange) forwardAnswer(head []byte, from, to int) bool {
	shared := x.w.loop.Shared()
	data := shared[from:to]
	kept, used, err := compact(&x.answer, data)
	if err != nil {
		x.up.Discard()
		x.up = nil
		x.abort(flagUpstreamProtocol)
		return false
	}
	c := x.c
	x.bytesOut = x.answer.Content()
	x.touch()
	if used < len(data) {
		x.keepUpstream(data[used:])
	}
	done := x.answer.Done()
	end := from + kept
	if x.rechunk && kept > 0 {
		from, end = wrapChunk(shared[:cap(shared)], from, end)
	}
	if len(head) > from {
		if !c.send(head) {
			return false
		}
		head = nil
	}
	from -= len(head)
	copy(shared[from:], head)
	if from < end && !c.send(shared[from:end]) {
		return false
	}
	if done {
		x.complete()
		return false
	}
	return true
}

// wrapChunk makes buf[from:to] a chunk; there is room on both sides.
func wrapChunk(buf []byte, from, to int) (int, int) {
	var size [18]byte
	head := append(strconv.AppendInt(size[:0], int64(to-from), 16), '\r', '\n')
	from -= len(head)
	copy(buf[from:], head)
	return from, to + copy(buf[to:], "\r\n")
}

// complete ends an exchange whose response is complete.
func (x *exchange) complete() {
	x.keep = x.keep && x.whole
	x.finish(x.keep, !x.whole)
}

// responseEnded handles the end of the upstream's bytes.
func (x *exchange) responseEnded(err error) {
	x.upHup, x.upKeep = true, false
	if !x.headDone {
		x.upstreamEnded(!errors.Is(err, io.EOF))
		return
	}
	if errors.Is(err, io.EOF) && x.answer.End() == nil {
		if x.rechunk && !x.c.send([]byte("0\r\n\r\n")) {
			return
		}
		x.complete()
		return
	}
	// The client must see that the body was cut off.
	x.cluster.Stats.Count[upstream.RequestRxReset]++
	x.host.Reached(upstream.LocalFailed)
	x.abort(flagUpstreamEnded)
}

// badResponse answers for an upstream that does not speak HTTP.
func (x *exchange) badResponse() {
	x.host.Stats.RequestErr++
	x.host.Reached(upstream.LocalFailed)
	x.dropUpstream()
	x.reply(502, x.failureText("protocol error"), flagUpstreamProtocol)
}

// abort ends the exchange and the client's connection within a response: both sides see it cut off.
func (x *exchange) abort(f flags) {
	c := x.c
	x.flags |= f
	x.upKeep = false
	c.w.loop.Release(c.out)
	c.out, c.outAt = nil, 0
	c.broken = true
	x.finish(false, false)
}

// clientGone ends the exchange of a client that went away: the upstream is told by the end of its connection.
func (x *exchange) clientGone() {
	c := x.c
	x.flags |= flagClientGone
	c.http().count[httpRqRxReset]++
	if x.cluster != nil {
		x.cluster.Stats.Count[upstream.RequestCancelled]++
	}
	x.upKeep = false
	x.whole = false // never a connection to use again
	up := x.up
	x.up = nil
	x.account()
	c.dispose()
	if up != nil {
		up.Discard()
	}
}
