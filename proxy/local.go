package proxy

import (
	"errors"
	"net/http"
	"strconv"
	"syscall"

	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// flags are Envoy's response flags: who failed, as the access log tells it.
type flags uint32

const (
	// flagRetryLimit comes first: what ended the last try is told after it, as by Envoy.
	flagRetryLimit flags = 1 << iota
	flagNoHealthy
	flagConnectFailed
	flagUpstreamTimeout
	flagUpstreamEnded
	flagOverflow
	flagNoRoute
	flagClientGone
	flagProtocol
	flagUpstreamProtocol
	flagStreamIdle
	flagNoCluster
	flagOverload
	flagUpstreamReset // the stream alone
	flagClientReset
	flagConnectLimit       // flagRetryLimit of TCP, which Envoy tells after the failure of the last attempt
	flagNone         flags = 0
)

var flagNames = [...]string{"URX", "UH", "UF", "UT", "UC", "UO", "NR", "DC", "DPE", "UPE", "SI", "NC", "OM", "UR", "DR", "URX"}

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
	// textHeadTimeout and textWholeTimeout answer a request that is not complete in time. No flag tells that, as in Envoy.
	textHeadTimeout  = "request header timeout"
	textWholeTimeout = "request timeout"
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
	w := x.w
	x.flags |= f
	if x.up != nil {
		x.dropUpstream()
	}
	if status == http.StatusBadRequest || status == http.StatusRequestTimeout {
		x.whole = false // nobody knows where another request begins
	}
	x.firstByte = w.loop.Clock()
	h, body := &w.reply, text
	h.Reset()
	if x.callsGRPC() {
		x.status, x.instead = http.StatusOK, status
		x.grpcHead(h, status, text)
		body = ""
	} else {
		x.status = status
		x.replyHead(h, status, text)
	}
	x.replyFields(h, text)
	x.noteGRPC(h)
	x.headDone, x.answered, x.tunnel = true, true, false
	x.bytesOut = uint64(len(body))
	bodiless := x.method == message.MethodHead || x.status == http.StatusNoContent || x.status == http.StatusNotModified
	x.down.respond(h, nil, bodiless || body == "")
	if x.served.lines != nil {
		x.keepReply(h, status, text)
	}
	if !bodiless && body != "" {
		w.extra = append(w.extra[:0], body...)
		x.down.content(loop.Sealed(w.extra), true)
	}
	x.finish()
}

// replyHead makes the head of a response of the proxy's own.
func (x *exchange) replyHead(h *message.Head, status int, text string) {
	w := x.w
	h.Status = status
	if status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified {
		h.ContentLength = int64(len(text))
		w.extra = strconv.AppendInt(w.extra[:0], int64(len(text)), 10)
		h.AddBytes(message.ContentLength, w.extra)
		if text != "" {
			h.AddField("content-type", "text/plain")
		}
	}
}

// callsGRPC reports whether the request is a call of gRPC, whose client knows a failure by the status of gRPC only.
func (x *exchange) callsGRPC() bool {
	return x.parsed && message.IsGRPC(x.req.Known(message.ContentType))
}

// grpcHead is replyHead for a call of gRPC: the head is the whole response.
func (x *exchange) grpcHead(h *message.Head, status int, text string) {
	w := x.w
	h.Status = http.StatusOK
	h.AddField("content-type", "application/grpc")
	code := message.GRPCOf(status)
	if text == textDurationTimeout {
		code = message.GRPCDeadlineExceeded
	}
	w.extra = strconv.AppendInt(w.extra[:0], int64(code), 10)
	h.AddBytes(message.GRPCStatus, w.extra)
	if text != "" && x.method != message.MethodHead {
		w.extra = message.AppendGRPCText(w.extra[:0], text)
		h.AddBytes(message.GRPCMessage, w.extra)
	}
}

// replyFields adds what all responses of the proxy's own have.
func (x *exchange) replyFields(h *message.Head, text string) {
	h.AddBytes(message.Date, x.w.date())
	h.AddBytes(message.Server, x.served.server)
	if via := x.served.via; via != nil {
		h.AddBytes(message.Via, via)
	}
	if x.redirect {
		h.AddBytes(message.Location, x.edit.Target)
	}
	if x.tellClientAttempts(text) {
		x.w.attempt = x.appendAttempt(x.w.attempt[:0])
		h.AddBytes(message.XEnvoyAttemptCount, x.w.attempt)
	}
	if text == textOverflow && !x.served.http().SuppressEnvoyHeaders {
		h.AddField("x-envoy-overloaded", "true")
	}
}

// malformed refuses what is no request: nothing of it is forwarded and the connection is closed.
func (x *exchange) malformed(err error) {
	status := http.StatusBadRequest
	var e http1.Error
	if errors.As(err, &e) {
		status = e.Status()
		x.keep()
		x.because(e.Reason())
	}
	x.stats.count[httpCxProtocolError]++
	x.unparsed(status, http.StatusText(status), flagProtocol)
}

// unparsed answers a request whose head was never complete.
func (x *exchange) unparsed(status int, text string, f flags) {
	x.countIn()
	x.reply(status, text, f)
}
