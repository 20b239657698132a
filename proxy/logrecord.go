package proxy

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// kept is what the access logs of a listener want to know of an exchange besides what it knows anyway.
type kept struct {
	record   accesslog.Record
	sent     int64          // when the upstream took bytes last
	local    netip.AddrPort // of the upstream connection
	details  string         // of a local reply
	failure  string         // why the upstream could not be reached
	answered bool           // the response is the upstream's
	met      int            // the attempt that the upstream was connected in; 0: none
	protocol string         // that it speaks
	upstream *accesslog.TLS // of the upstream connection
	id       []byte         // of the record
}

const (
	maxFreeKept = 1024
	maxKeptSize = 4 << 10 // of the values of one that is used again
)

// takeKept returns an empty kept.
func (w *worker) takeKept() *kept {
	n := len(w.kept)
	if n == 0 {
		return &kept{}
	}
	k := w.kept[n-1]
	w.kept = w.kept[:n-1]
	request, response, trailer := k.record.Request, k.record.Response, k.record.Trailer
	request.Reset()
	response.Reset()
	trailer.Reset()
	*k = kept{record: accesslog.Record{Request: request, Response: response, Trailer: trailer}, id: k.id[:0]}
	return k
}

// giveKept takes k back, which may be nil.
func (w *worker) giveKept(k *kept) {
	if k != nil && len(w.kept) < maxFreeKept && k.record.Request.Size()+k.record.Response.Size()+k.record.Trailer.Size() <= maxKeptSize {
		w.kept = append(w.kept, k)
	}
}

// connectionID is the identity of a new connection, no other one of this process has it.
func (w *worker) connectionID() uint64 {
	id := w.nextConn
	w.nextConn += uint64(w.loops)
	return id
}

// keep makes room for what the access logs want to know, if there is none yet and they want it.
func (x *exchange) keep() {
	if x.kept == nil && x.served.lines != nil {
		x.kept = x.w.takeKept()
	}
}

// keepRequest keeps what the access logs want to know of the request as it goes to the upstream.
func (x *exchange) keepRequest() {
	x.keep()
	x.kept.record.Request.Collect(&x.served.lines.names.Request, &x.req, &x.edit)
}

// keepConnected notes that the request has a connection.
func (x *exchange) keepConnected() {
	k, needs := x.kept, x.served.lines.needs
	k.met, k.protocol = x.attempts, x.up.Protocol()
	if needs&accesslog.NeedsUpstreamLocal != 0 {
		k.local = x.up.Connection().LocalAddr()
	}
	if needs&accesslog.NeedsUpstreamTLS != 0 {
		k.upstream = upstreamFacts(x.up.Connection())
	}
}

// keepAnswer keeps what the access logs want to know of the upstream's response as it goes to the client.
func (x *exchange) keepAnswer(h *message.Head, e *message.Edit) {
	x.kept.answered = true
	if option := x.down.option(); option != nil {
		e.Set = append(e.Set, message.SetKnown(message.Connection, option))
	}
	x.kept.record.Response.Collect(&x.served.lines.names.Response, h, e)
}

// keepTrailers keeps what the access logs want to know of the response's trailers.
func (k *kept) keepTrailers(l *lines, t *message.Fields) {
	if !l.names.Trailer.Empty() {
		k.record.Trailer.Collect(&l.names.Trailer, t, nil)
	}
}

// keepReply is keepAnswer for a response of the proxy's own.
func (x *exchange) keepReply(h *message.Head, status int, body string) {
	x.keep() // there may have been no head
	k := x.kept
	if option := x.down.option(); option != nil {
		h.AddBytes(message.Connection, option)
	}
	k.record.Response.Collect(&x.served.lines.names.Response, h, nil)
	if k.details == "" {
		k.details = x.replyDetails(status, body)
	}
	_, k.failure, _ = strings.Cut(body, transportReason)
}

// because says in Envoy's words why what follows is as it is.
func (x *exchange) because(details string) {
	if x.kept != nil {
		x.kept.details = details
	}
}

// replyDetails says in Envoy's words why the proxy answers itself.
func (x *exchange) replyDetails(status int, body string) string {
	if _, reason, ok := strings.Cut(body, "reset reason: "); ok {
		reason = strings.Replace(reason, transportReason, "|", 1)
		return "upstream_reset_before_response_started{" + strings.ReplaceAll(reason, " ", "_") + "}"
	}
	switch {
	case x.flags&flagNoHealthy != 0:
		return "no_healthy_upstream"
	case x.flags&flagNoRoute != 0:
		return "route_not_found"
	case x.flags&flagNoCluster != 0:
		return "cluster_not_found"
	case x.flags&flagUpstreamTimeout != 0:
		return "response_timeout"
	case x.flags&flagStreamIdle != 0:
		return "stream_idle_timeout"
	case body == textHeadTimeout:
		return "request_header_timeout"
	case body == textWholeTimeout:
		return "request_overall_timeout"
	case x.flags&flagOverload != 0:
		return "overload"
	case x.flags&flagProtocol != 0:
		return "http1.codec_error"
	case x.route != nil && x.route.Direct != nil:
		return "direct_response"
	case status == 403:
		return "upgrade_failed"
	}
	return "path_normalization_failed"
}

// transportReason stands in the text of a local reply before what the operating system says.
const transportReason = ", transport failure reason: "

// details says in Envoy's words why the response is as it is.
func (x *exchange) details() string {
	switch k := x.kept; {
	case k.details != "":
		return k.details
	case x.flags&flagOverload != 0:
		return "overload"
	case x.flags&flagClientGone != 0:
		return "downstream_remote_disconnect"
	case x.flags&flagClientReset != 0:
		return "http2.remote_reset"
	case x.flags&flagUpstreamReset != 0:
		return "upstream_reset_after_response_started{remote_reset}"
	case x.flags&flagUpstreamEnded != 0:
		return "upstream_reset_after_response_started{connection_termination}"
	case x.flags&flagUpstreamProtocol != 0:
		return "upstream_reset_after_response_started{protocol_error}"
	case x.flags&flagStreamIdle != 0:
		return "stream_idle_timeout"
	case x.flags&flagUpstreamTimeout != 0:
		return "response_timeout"
	case k.answered:
		return "via_upstream"
	}
	return ""
}

// record makes the record of an exchange that is over.
func (x *exchange) record(now int64) *accesslog.Record {
	d, w, h := x.d, x.w, &x.req
	if x.kept == nil {
		x.kept = w.takeKept()
	}
	k := x.kept
	r := &k.record
	x.recordTimes(r, now)
	r.Status, r.Flags, r.FlagNames = x.status, uint32(x.flags), flagNames[:]
	r.Details, r.Failure = x.details(), k.failure
	r.GRPC, r.GRPCTold, r.GRPCStatus = x.callsGRPC(), x.grpcTold, x.grpcStatus
	r.BytesReceived, r.BytesSent = x.bytesIn, x.bytesOut
	r.Connection, r.Attempts = d.id, x.attempts
	r.Chain, r.TLS = x.served.cfg.Name, d.facts
	r.Direct, r.Remote, r.Local = d.peer, d.peer, d.a.addr
	if via := d.via; via != nil {
		r.Direct, r.Local = via.direct, config.Address{IP: via.local}
	}
	r.Random = w.rand.Uint64()
	if r.Local.IP.Addr().IsUnspecified() && x.served.lines.needs&accesslog.NeedsLocal != 0 {
		r.Local.IP = d.LocalAddr()
	}
	r.Protocol = x.down.protocol()
	if x.parsed {
		r.Method, r.Path, r.Authority = h.Bytes(h.MethodText), x.target(), h.Bytes(h.Authority)
		r.RequestID, r.Scheme = x.id, d.scheme()
		if x.served.lines.needs&accesslog.NeedsRemote != 0 {
			r.Remote = clientAddr(x.served.http(), d.peer, x.xff)
		}
	}
	if x.route != nil {
		r.Route = x.route.Name
	}
	if x.cluster != nil {
		r.Cluster = x.cluster.Config().Name
	}
	if x.host != nil {
		r.UpstreamRemote = x.host.Endpoint.Addr
	}
	if k.met == x.attempts && k.met > 0 { // what an attempt before this one met is not told
		r.Connected, r.UpstreamProtocol, r.UpstreamLocal, r.UpstreamTLS = true, k.protocol, k.local, k.upstream
	}
	if x.served.lines.needs&accesslog.NeedsUnique != 0 {
		k.id = w.appendUUID(k.id[:0])
		r.Unique = k.id
	}
	return r
}

var (
	schemeHTTP      = []byte("http")
	schemeHTTPS     = []byte("https")
	optionClose     = []byte("close")
	optionKeepAlive = []byte("keep-alive")
)

// recordTimes fills in when things happened.
func (x *exchange) recordTimes(r *accesslog.Record, now int64) {
	k := x.kept
	r.Start, r.Duration = x.w.wall(x.began), time.Duration(now-x.began)
	r.RequestDuration, r.RequestTX, r.ResponseDuration, r.ResponseTX = -1, -1, -1, -1
	switch {
	case x.received > 0:
		r.RequestDuration = time.Duration(x.received - x.began)
	case x.whole:
		r.RequestDuration = 0 // it came with its head
	}
	if k.sent > 0 && x.whole {
		r.RequestTX = time.Duration(k.sent - x.began)
	}
	if k.answered {
		r.ResponseDuration = time.Duration(x.firstByte - x.began)
		r.ResponseTX = time.Duration(now - x.firstByte)
	}
}

// wall is a moment of the loop's clock as the wall clock has it.
func (w *worker) wall(at int64) time.Time {
	w.clock.read(w.loop)
	return w.clock.base.Add(time.Duration(at - w.clock.readAt))
}

// clientAddr is the address of the client itself: the peer's, or what the trusted proxies in front say in forwarded, the
// x-forwarded-for field as it goes upstream. As in Envoy its port is then 0.
func clientAddr(http *config.HTTP, peer netip.AddrPort, forwarded []byte) netip.AddrPort {
	hops := http.XFFTrustedHops
	if http.UseRemoteAddress && hops == 0 {
		return peer
	}
	if http.UseRemoteAddress && http.SkipXFFAppend {
		hops-- // the peer does not stand in it
	}
	for ; hops > 0; hops-- {
		comma := bytes.LastIndexByte(forwarded, ',')
		if comma < 0 {
			return peer
		}
		forwarded = forwarded[:comma]
	}
	forwarded = bytes.TrimSpace(forwarded[bytes.LastIndexByte(forwarded, ',')+1:])
	addr, err := netip.ParseAddr(string(forwarded))
	if err != nil {
		return peer
	}
	return netip.AddrPortFrom(addr.WithZone(""), 0)
}

// keepUpstream finds out what an access log wants to know of the upstream connection while it is there.
func (s *stream) keepUpstream() {
	if s.wants(accesslog.NeedsUpstreamLocal) {
		s.local = s.up.LocalAddr()
	}
	if s.wants(accesslog.NeedsUpstreamTLS) {
		s.upFacts = upstreamFacts(s.up)
	}
}

// wants reports whether an access log of the chain or of the listener reads what is costly to find out.
func (s *stream) wants(n accesslog.Needs) bool {
	l := s.cfg.lines
	return l != nil && l.needs&n != 0 || s.visit.wants(n)
}

// record makes the record of a TCP connection that is over.
func (s *stream) record(k *kept, now int64) *accesslog.Record {
	r := &k.record
	r.TCP = true
	k.id = s.w.appendUUID(s.w.appendUUID(k.id[:0]))
	r.RequestID, r.Unique = k.id[:len(k.id)/2], k.id[len(k.id)/2:]
	r.Start, r.Duration = s.w.wall(s.began), time.Duration(now-s.began)
	r.RequestDuration, r.RequestTX, r.ResponseDuration, r.ResponseTX = -1, -1, -1, -1
	r.Flags, r.FlagNames = uint32(s.flags), flagNames[:]
	r.BytesReceived, r.BytesSent = s.bytesIn, s.bytesOut
	r.Connection, r.Attempts = s.id, s.attempts
	r.Chain, r.TLS = s.cfg.cfg.Name, s.facts
	r.Direct, r.Remote, r.Local = s.peer, s.peer, s.a.addr
	r.UpstreamLocal, r.UpstreamTLS, r.Connected = s.local, s.upFacts, s.connected
	r.Random = s.w.rand.Uint64()
	if via := s.via; via != nil {
		r.Direct, r.Local = via.direct, config.Address{IP: via.local}
	}
	if r.Local.IP.Addr().IsUnspecified() && s.wants(accesslog.NeedsLocal) {
		r.Local.IP = s.LocalAddr()
	}
	if s.cluster != nil {
		r.Cluster = s.cluster.Config().Name
	}
	if s.host != nil {
		r.UpstreamRemote = s.host.Endpoint.Addr
	}
	if s.failure != nil {
		_, r.Failure, _ = strings.Cut(connectReason(s.failure), transportReason)
	}
	return r
}
