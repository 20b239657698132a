package proxy

import (
	"errors"
	"net/http"
	"strconv"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/http1"
)

// flags are Envoy's response flags: who failed, as the access log tells it.
type flags uint32

const (
	flagNoHealthy flags = 1 << iota
	flagConnectFailed
	flagUpstreamTimeout
	flagUpstreamEnded
	flagOverflow
	flagNoRoute
	flagRetryLimit
	flagClientGone
	flagProtocol
	flagUpstreamProtocol
	flagStreamIdle
	flagNoCluster
	flagTimeoutDownstream
	flagOverload
	flagNone flags = 0
)

var flagNames = [...]string{"UH", "UF", "UT", "UC", "UO", "NR", "URX", "DC", "DPE", "UPE", "SI", "NC", "DT", "OM"}

// append writes the flags as the access log has them.
func (f flags) append(b []byte) []byte {
	if f == 0 {
		return append(b, '-')
	}
	first := true
	for i, name := range flagNames {
		if f>>i&1 == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, name...)
	}
	return b
}

// The texts of Envoy's local replies.
const (
	textNoHealthy      = "no healthy upstream"
	textReset          = "upstream connect error or disconnect/reset before headers. "
	textOverflow       = textReset + "reset reason: overflow"
	textRequestTimeout = "upstream request timeout"
	textStreamTimeout  = "stream timeout"
	// textDurationTimeout answers an exchange that went on for longer than it may.
	textDurationTimeout = "downstream duration timeout"
	textBadRequest      = "Bad Request"
)

// failureText says why the upstream failed.
func (x *exchange) failureText(reason string) string {
	if x.retries > 0 {
		return textReset + "retried and the latest reset reason: " + reason
	}
	return textReset + "reset reason: " + reason
}

// connectReason says why a connection could not be made.
func connectReason(err error) string {
	if errors.Is(err, syscall.ETIMEDOUT) {
		return "connection timeout"
	}
	return "remote connection failure, transport failure reason: delayed connect error: " + err.Error()
}

// badPath is the status for a request whose path is refused.
func badPath(err error) int {
	var s interface{ Status() int }
	if errors.As(err, &s) {
		return s.Status()
	}
	return http.StatusBadRequest
}

// reply answers the request without, or instead of, an upstream, and ends the exchange. Nothing of a response was sent yet.
func (x *exchange) reply(status int, text string, f flags) {
	c, w := x.c, x.w
	x.flags |= f
	if up := x.up; up != nil {
		x.dropUpstream()
	}
	if status == http.StatusBadRequest || status == http.StatusRequestTimeout || !x.whole || c.draining() {
		x.keep = false
	}
	x.status = status
	x.firstByte = w.loop.Clock()
	w.head = x.appendReply(w.head[:0], status, text)
	if c.served.lines != nil {
		x.keepReply(w.head, status, text)
	}
	x.headDone = true
	x.bytesOut = uint64(len(text))
	x.answer = http1.NewBody(http1.Framing{}, false)
	if c.send(w.head) {
		x.finish(x.keep, !x.whole)
	}
}

// appendReply writes a whole response.
func (x *exchange) appendReply(b []byte, status int, text string) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\n"...)
	if status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified {
		b = append(b, "content-length: "...)
		b = strconv.AppendInt(b, int64(len(text)), 10)
		b = append(b, "\r\n"...)
		if text != "" {
			b = append(b, "content-type: text/plain\r\n"...)
		}
	}
	b = x.w.appendDate(b)
	b = append(b, "server: "...)
	b = append(b, x.c.served.serverName()...)
	b = append(b, "\r\n"...)
	b = x.appendVia(b)
	if x.redirect {
		b = append(b, "location: "...)
		b = append(b, x.w.path...)
		b = append(b, "\r\n"...)
	}
	if text == textOverflow {
		b = append(b, "x-envoy-overloaded: true\r\n"...)
	}
	switch {
	case !x.keep:
		b = append(b, "connection: close\r\n"...)
	case x.http10:
		b = append(b, "connection: keep-alive\r\n"...)
	}
	b = append(b, "\r\n"...)
	if x.method != http1.MethodHead && status != http.StatusNoContent && status != http.StatusNotModified {
		b = append(b, text...)
	}
	return b
}

// malformed refuses what is no request: nothing of it is forwarded and the connection is closed.
func (x *exchange) malformed(err error) {
	status := http.StatusBadRequest
	var e http1.Error
	if errors.As(err, &e) {
		status = e.Status()
	}
	x.c.http().count[httpCxProtocolError]++
	x.unparsed(status, http.StatusText(status), flagProtocol)
}

// unparsed answers a request whose head was never complete.
func (x *exchange) unparsed(status int, text string, f flags) {
	c := x.c
	c.phase = phaseServing
	c.timer.Stop()
	c.http().count[httpRqTotal]++
	c.http().active++
	x.buf = append(x.w.loop.Buffer(16), "-"...)
	x.meta = meta{method: 1, path: 1, authority: 1, agent: 1, forwarded: 1, id: 1, end: 1}
	x.sent = 1
	x.keep = false
	x.reply(status, text, f)
}
