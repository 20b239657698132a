package proxy

import (
	"strconv"
	"time"

	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

const (
	logFlushBytes = 16 << 10
	logFlushTime  = time.Second
)

// logBuffer collects a loop's lines for a sink.
type logBuffer struct {
	sink  *sink
	loop  *loop.Loop
	buf   []byte
	timer loop.Timer
}

// log returns the worker's buffer for a sink.
func (w *worker) log(s *sink) *logBuffer {
	b := w.logs[s]
	if b == nil {
		b = &logBuffer{sink: s, loop: w.loop}
		w.logs[s] = b
	}
	if len(b.buf) == 0 {
		w.loop.Start(&b.timer, logFlushTime, b)
	}
	return b
}

func (b *logBuffer) wrote() {
	if len(b.buf) >= logFlushBytes {
		b.flush()
	}
}

// Expired flushes lines that have waited long enough.
func (b *logBuffer) Expired(*loop.Timer) { b.flush() }

func (b *logBuffer) flush() {
	b.timer.Stop()
	if len(b.buf) == 0 {
		return
	}
	select {
	case b.sink.queue <- b.buf:
		select {
		case b.buf = <-b.sink.free:
		default:
			b.buf = nil
		}
	default:
		b.sink.dropped.Add(countLines(b.buf))
		b.buf = b.buf[:0]
	}
}

// account writes an exchange that is over to the statistics and the access log, and takes it out of its cluster.
func (x *exchange) account() {
	w := x.w
	now := w.loop.Clock()
	stats := x.stats
	stats.active--
	if x.tunnel {
		stats.upgrades--
	}
	stats.count[httpRqCompleted]++
	if class := x.status / 100; class >= 1 && class <= 5 {
		stats.count[httpRq1xx+httpCounter(class-1)]++
	}
	stats.time.Observe(time.Duration(now - x.began))
	if x.cluster != nil {
		x.accountCluster(now)
	}
	for _, s := range x.served.sinks {
		b := w.log(s)
		b.buf = x.appendLog(b.buf, now)
		b.wrote()
	}
	if l := x.served.lines; l != nil {
		l.write(w, x.record(now))
	}
	x.leaveCluster()
}

func (x *exchange) accountCluster(now int64) {
	stats, status := &x.cluster.Stats, x.status
	if x.instead != 0 {
		status = x.instead
	}
	if x.headDone && !x.upgrade {
		stats.Count[upstream.RequestCompleted]++
	}
	if class := status / 100; class >= 2 && class <= 5 {
		stats.Count[upstream.Request2xx+upstream.Counter(class-2)]++
		stats.CountStatus(status)
	}
	if x.retries > 0 && status < 500 && status > 0 {
		stats.Count[upstream.RetrySuccess]++
	}
	if x.received > 0 {
		stats.Observe(time.Duration(now - x.received))
	}
	if x.host != nil && x.flags&(flagConnectFailed|flagUpstreamEnded|flagUpstreamReset|flagUpstreamProtocol) == 0 {
		if x.grpcTold && x.callsGRPC() {
			status = message.OfGRPC(x.grpcStatus)
		}
		if status >= 500 {
			x.host.Stats.RequestErr++
		} else if status > 0 {
			x.host.Stats.RequestSuccess++
		}
	}
}

// appendLog writes Envoy's default line:
//
//	[start] "method path protocol" status flags bytes-received bytes-sent duration upstream-time "x-forwarded-for"
//	"user-agent" "x-request-id" "authority" "upstream"
func (x *exchange) appendLog(b []byte, now int64) []byte {
	h := &x.req
	b = x.w.appendStamp(b, x.began)
	b = append(b, ` "`...)
	if x.parsed {
		b = appendQuoted(b, h.Bytes(h.MethodText))
		b = append(b, ' ')
		if x.connects() {
			b = append(b, '-')
		} else {
			b = appendQuoted(b, x.target())
		}
		b = append(append(append(b, ' '), x.down.protocol()...), `" `...)
	} else {
		b = append(b, `- - HTTP/1.1" `...) // as Envoy says it of what was no request
	}
	b = strconv.AppendInt(b, int64(x.status), 10)
	b = append(b, ' ')
	b = x.flags.append(b)
	b = append(b, ' ')
	b = strconv.AppendUint(b, x.bytesIn, 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, x.bytesOut, 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, (now-x.began)/1e6, 10)
	b = append(b, ' ')
	if ms, ok := x.serviceTime(); ok && x.cluster != nil && x.firstByte > 0 && x.up0() {
		b = strconv.AppendInt(b, ms, 10)
	} else {
		b = append(b, '-')
	}
	b = appendField(b, x.xff)
	if x.parsed {
		b = appendField(b, h.Known(message.UserAgent))
	} else {
		b = appendField(b, nil)
	}
	b = appendField(b, x.id)
	if x.parsed {
		b = appendField(b, h.Bytes(h.Authority))
	} else {
		b = appendField(b, nil)
	}
	b = append(b, ` "`...)
	return append(appendHost(b, x.host), "\"\n"...)
}

// appendHost writes the address of a host, which may be nil.
func appendHost(b []byte, h *upstream.Host) []byte {
	switch {
	case h == nil:
		return append(b, '-')
	case h.Endpoint.Addr.IsUnix():
		return appendQuoted(b, h.Endpoint.Addr.Path)
	}
	return h.Endpoint.Addr.IP.AppendTo(b)
}

// target is the path of the request with its query, as it came. It lives until the next call.
func (x *exchange) target() []byte {
	h, w := &x.req, x.w
	switch {
	case !h.HasQuery:
		return h.Bytes(h.Path)
	case h.Query.Start == h.Path.End+1:
		return h.Text[h.Path.Start:h.Query.End]
	}
	w.hashed = append(append(w.hashed[:0], h.Bytes(h.Path)...), '?')
	w.hashed = append(w.hashed, h.Bytes(h.Query)...)
	return w.hashed
}

// up0 reports whether the response came from the upstream.
func (x *exchange) up0() bool {
	return x.headDone && x.flags&(flagConnectFailed|flagNoHealthy|flagOverflow|flagUpstreamTimeout) == 0
}

func appendField(b, value []byte) []byte {
	b = append(b, ` "`...)
	if len(value) == 0 {
		b = append(b, '-')
	}
	b = appendQuoted(b, value)
	return append(b, '"')
}

// appendQuoted writes a value that somebody else chose: it cannot end its field, nor its line.
func appendQuoted[S []byte | string](b []byte, value S) []byte {
	from := 0
	for i := range len(value) {
		c := value[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			continue
		}
		b = append(b, value[from:i]...)
		b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		from = i + 1
	}
	return append(b, value[from:]...)
}

// appendStamp writes a moment of the loop's clock as "[2006-01-02T15:04:05.000Z]".
func (w *worker) appendStamp(b []byte, at int64) []byte {
	k := &w.clock
	k.read(w.loop)
	t := k.base.Add(time.Duration(at - k.readAt))
	if s := t.Unix(); s != k.stampOf || k.stamp == nil {
		k.stampOf = s
		k.stamp = t.AppendFormat(k.stamp[:0], "2006-01-02T15:04:05.")
	}
	ms := t.Nanosecond() / 1e6
	b = append(b, '[')
	b = append(b, k.stamp...)
	return append(b, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z', ']')
}

// log writes the line of a TCP connection: Envoy's default, where what HTTP knows is "-".
func (s *stream) log() {
	now := s.w.loop.Clock()
	for _, sink := range s.cfg.sinks {
		l := s.w.log(sink)
		b := s.w.appendStamp(l.buf, s.began)
		b = append(b, ` "- - -" 0 `...)
		b = s.flags.append(b)
		b = append(b, ' ')
		b = strconv.AppendUint(b, s.bytesIn, 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, s.bytesOut, 10)
		b = append(b, ' ')
		b = strconv.AppendInt(b, (now-s.began)/1e6, 10)
		b = append(b, ` - "-" "-" "-" "-" "`...)
		l.buf = append(appendHost(b, s.host), "\"\n"...)
		l.wrote()
	}
	if l := s.cfg.lines; l != nil {
		k := s.w.takeKept()
		l.write(s.w, s.record(k, now))
		s.w.giveKept(k)
	}
	if s.visit != nil {
		k := s.w.takeKept()
		s.record(k, now)
		s.visit.write(k, s.via)
	}
}
