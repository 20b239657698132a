package proxy

import (
	"strconv"
	"time"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// instruction is the memory of what hosts are told of an attempt, and of deadlines.
type instruction struct {
	timeout, attempt [20]byte
	deadline         [9]byte // at most eight digits and a unit
}

// allowed is how long the exchange may take from its first byte; limited is false when that is for ever. As in Envoy a client's
// grpc-timeout counts, on a route that goes by it, whatever the request is.
func (x *exchange) allowed() (d time.Duration, limited bool) {
	r := x.route
	if g := r.GRPCTimeout; g != nil {
		if d, ok := message.ParseGRPCTimeout(x.req.Known(message.GRPCTimeout)); ok {
			if g.Max > 0 {
				d = min(d, g.Max)
			}
			return max(0, d-g.Offset), true
		}
	}
	switch {
	case r.MaxDuration > 0:
		return r.MaxDuration, true
	case r.MaxDuration == 0:
		d = x.served.http().MaxStreamDuration
	}
	return d, d > 0
}

// limitDuration starts the time that the exchange may take, and tells the hosts of a call when that is over.
func (x *exchange) limitDuration() {
	d, limited := x.allowed()
	if !limited {
		return
	}
	if x.route.TellDeadline && x.callsGRPC() {
		x.instruct(message.GRPCTimeout, message.AppendGRPCTimeout(x.instructed.deadline[:0], d))
	}
	x.w.loop.StartAt(&x.streamTimer, max(d-time.Duration(x.w.loop.Clock()-x.began), time.Microsecond), x)
}

// instruct has hosts told a field, in the place of what the client says there.
func (x *exchange) instruct(name message.Name, value []byte) {
	e := &x.edit
	for i := range e.Set {
		if e.Set[i].Known == name {
			e.Set[i].Value = value
			return
		}
	}
	e.Drop = e.Drop.Or(message.Names(name))
	e.Set = append(e.Set, message.SetKnown(name, value))
}

// tellAttempt tells the host of this attempt how long it is waited for, and which attempt it is.
func (x *exchange) tellAttempt() {
	if wait := x.expected(); wait > 0 && !x.served.http().SuppressEnvoyHeaders {
		x.instruct(message.XEnvoyExpectedRqTimeoutMs, strconv.AppendInt(x.instructed.timeout[:0], int64(wait/time.Millisecond), 10))
	}
	if x.route.TellHostAttempts {
		x.instruct(message.XEnvoyAttemptCount, x.appendAttempt(x.instructed.attempt[:0]))
	}
}

// appendAttempt writes which attempt this is. That a connection was closed before the request came makes no other one.
func (x *exchange) appendAttempt(b []byte) []byte {
	return strconv.AppendInt(b, int64(x.retries)+1, 10)
}

// expected is how long the proxy waits for the host's answer; 0: for ever.
func (x *exchange) expected() time.Duration {
	whole, wait := x.route.Timeout, x.route.Retry.PerTryTimeout
	if wait == 0 {
		wait = whole
	}
	if whole > 0 {
		wait = min(wait, whole)
	}
	if whole > 0 && x.retries > 0 && x.received > 0 {
		wait = max(min(wait, whole-time.Duration(x.w.loop.Clock()-x.received)), time.Millisecond)
	}
	return wait
}

// serviceTime is how long the answer took from the end of the request, over all attempts; ok is false when it came before that.
func (x *exchange) serviceTime() (ms int64, ok bool) {
	return (x.firstByte - x.received) / 1e6, x.received > 0 && x.firstByte >= x.received
}

// tellClientAttempts reports whether the client is told in a reply of the proxy's own how many attempts there were: when it was an
// attempt that failed, and not the request.
func (x *exchange) tellClientAttempts(text string) bool {
	return x.cluster != nil && x.route.TellClientAttempts && text != textDurationTimeout && text != textStreamTimeout && text != textWholeTimeout
}
