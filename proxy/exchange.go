package proxy

import (
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/router"
	"github.com/hostmesh/hostmesh/proxy/upstream"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

const (
	retainBytes = 64 << 10 // of a request that can be sent again
	maxTried    = 8        // hosts remembered by a request; more retries may meet one again
)

// exchange is one request and its response, whatever versions of HTTP the client and the host speak: it stands between a
// responder and an upstream.Stream.
//
// buf holds the request's content: of a request that may have to be sent again all of it, of another one what no upstream was
// given yet.
type exchange struct {
	d    *downstream // the client's connection; nil: free
	down responder
	// served is the listener as it was when the request came, and stats is where that counts it.
	served *served
	stats  *httpStats
	w      *worker

	req        message.Head
	edit       message.Edit // what the proxy changes in req
	text       []byte       // of edit
	id         []byte       // the request's identity
	xff        []byte       // its x-forwarded-for
	tail       *message.Fields
	instructed instruction
	match      router.Request
	method     message.Method

	route   *config.Route
	cluster *upstream.Cluster
	key     balance.Key // what chooses the host
	host    *upstream.Host
	up      upstream.Stream
	waiter  upstream.Waiter
	tried   [maxTried]*upstream.Host

	buf  []byte
	kept *kept // what an access log wants to know besides; nil: nothing

	began     int64 // first byte of the request
	received  int64 // last byte of the request
	firstByte int64 // of the response

	routeTimer, tryTimer, idleTimer loop.Timer
	tryIdle, streamTimer, bodyTimer loop.Timer

	bytesIn, bytesOut uint64
	status            int
	instead           int // of a reply to a call of gRPC: the status that anybody else would have got; else 0
	flags             flags
	grpcStatus        int    // of gRPC, if grpcTold
	attempts          int    // connections tried
	retries           int    // by policy
	stale             int    // times that a pooled connection had been closed
	hints, hintBytes  uint32 // informational responses so far

	parsed   bool // there is a head
	upgrade  bool // the client wants a tunnel
	tunnel   bool // it has one
	whole    bool // the request is received
	ended    bool // the upstream was given all of it
	retain   bool // buf holds all of the request's content so far
	sentAny  bool
	reused   bool
	again    bool // it asks for a new connection to a host that had closed the one it got
	counted  bool // in the cluster's requests
	retrying bool // counted in the cluster's retries
	headDone bool // the response's head was passed on
	answered bool // the response is complete
	grpcTold bool // the response has a status of gRPC
	held     bool // the upstream was told to wait
	backoff  bool // tryTimer is the wait before a retry
	noRetry  bool // the policy's request headers do not match
	redirect bool // the client is to ask for w.path
}

func (w *worker) newExchange(d *downstream, down responder) *exchange {
	var x *exchange
	if n := len(w.exchanges); n > 0 {
		x = w.exchanges[n-1]
		w.exchanges = w.exchanges[:n-1]
	} else {
		x = &exchange{w: w}
	}
	x.d, x.down, x.served, x.stats = d, down, d.served, d.a.http
	x.began = w.loop.Clock()
	x.retain = true
	x.req.Reset()
	return x
}

const (
	maxFreeExchanges = 1024
	maxKeptHead      = 8 << 10 // of a request's head, in an exchange that is used again
)

// freeExchange takes x back with all it holds, but for its connection and counts.
func (w *worker) freeExchange(x *exchange) {
	for _, t := range [...]*loop.Timer{&x.routeTimer, &x.tryTimer, &x.idleTimer, &x.tryIdle, &x.streamTimer, &x.bodyTimer} {
		t.Stop()
	}
	w.loop.Release(x.buf)
	w.arena.GiveHead(x.tail)
	w.giveKept(x.kept)
	req, match, text, set := x.req, x.match, x.text[:0], x.edit.Set[:0]
	*x = exchange{w: w}
	if cap(req.Text) > maxKeptHead || len(w.exchanges) >= maxFreeExchanges {
		return
	}
	x.req, x.match, x.text, x.edit.Set = req, match, text, set
	w.exchanges = append(w.exchanges, x)
}

// serve is the life of a request from its head to the upstream. broken says what is wrong with the content that came along. It
// runs again from connect for a retry; the way back is Head, Content and finish.
func (x *exchange) serve(broken error) {
	w := x.w
	x.accept()
	refused := x.served.http().Underscores != config.UnderscoresAllow && x.underscores()
	m, err := x.served.table.Match(&x.match)
	x.note(&m)
	switch {
	case broken != nil:
		x.brokenBody(broken)
		return
	case w.shed.requests:
		x.stats.count[httpRqOverload]++
		x.reply(503, textOverloaded, flagOverload)
		return
	case refused:
		x.reply(400, textBadRequest, flagProtocol)
		return
	case err != nil:
		x.stats.count[httpPathFailed]++
		x.reply(badPath(err), "", flagNone)
		return
	case m.Redirect:
		x.stats.count[httpPathRedirected]++
		x.redirect = true
		x.reply(307, "", flagNone)
		return
	case m.Route == nil:
		x.stats.count[httpNoRoute]++
		x.reply(404, "", flagNoRoute)
		return
	case x.upgrade && !x.allowsUpgrade(m.Route):
		x.reply(403, "", flagNone)
		return
	}
	x.route = m.Route
	if r := m.Route.Direct; r != nil {
		x.stats.count[httpRqDirect]++
		x.reply(r.Status, r.Body, flagNone)
		return
	}
	if m.Route.Hash != nil {
		x.key = x.hashKey(&m)
	}
	to := router.Choose(m.Route.Clusters, w.rand.Uint64())
	x.key.Labels = to.Labels
	x.cluster = w.cluster(to.Name)
	if x.cluster == nil {
		x.stats.count[httpNoCluster]++
		x.reply(503, "", flagNoCluster)
		return
	}
	if d := x.cluster.Config().OriginalDst; d != nil {
		x.key.Destination = x.destination(d)
	}
	if !x.cluster.BeginRequest() {
		x.reply(503, textOverflow, flagOverflow)
		return
	}
	x.counted = true
	x.startLimits(&m)
	w.loop.Start(&x.idleTimer, x.streamIdle(), x)
	switch {
	case x.upgrade:
	case x.whole:
		x.requestReceived()
	default:
		w.loop.Start(&x.bodyTimer, x.served.http().RequestTimeout, x)
	}
	x.connect()
}

// countIn counts the request as one that is under way.
func (x *exchange) countIn() {
	x.stats.count[httpRqTotal]++
	version := httpRqHTTP1
	if x.down.protocol() == http2Protocol {
		version = httpRqHTTP2
	}
	x.stats.count[version]++
	x.stats.active++
}

// accept counts the request and prepares the match.
func (x *exchange) accept() {
	h := &x.req
	http := x.served.http()
	x.parsed = true
	x.countIn()
	x.method = h.Method
	x.sanitize(http)
	x.upgrade = h.Protocol.End > h.Protocol.Start || h.Method == message.MethodConnect
	if x.connects() && x.down.protocol() != http2Protocol {
		x.whole = false // nobody knows what the client takes the connection for: if it is refused, what follows is no request
	}
	x.match.Method, x.match.Host, x.match.Path = h.Bytes(h.MethodText), h.Bytes(h.Authority), h.Bytes(h.Path)
	x.match.Query, x.match.HasQuery, x.match.Headers = h.Bytes(h.Query), h.HasQuery, h
	x.match.Slashes, x.match.MergeSlashes = http.Slashes, http.MergeSlashes
}

// note prepares what the proxy changes in the request.
func (x *exchange) note(m *router.Match) {
	h, http := &x.req, x.served.http()
	b := x.appendForwarded(x.text[:0], http)
	forwarded := len(b)
	if x.ownID(http) {
		b = x.w.appendUUID(b)
	} else {
		b = append(b, h.Known(message.XRequestID)...)
	}
	id := len(b)
	x.xff = b[:forwarded:forwarded]
	b = x.appendExternal(b, http)
	address := len(b)
	if len(m.Path) > 0 && len(x.match.Path) > 0 && &m.Path[0] != &x.match.Path[0] {
		b = append(b, m.Path...)
		if h.HasQuery {
			b = append(append(b, '?'), x.match.Query...)
		}
	}
	x.text = b
	x.xff, x.id = b[:forwarded:forwarded], b[forwarded:id:id]

	e := &x.edit
	*e = message.Edit{Set: e.Set[:0], Drop: message.Names(message.XRequestID, message.XForwardedFor), Scheme: x.d.scheme()}
	if address < len(b) {
		e.Target = b[address:]
		x.w.path = append(x.w.path[:0], e.Target...)
	}
	if len(x.id) > 0 {
		e.Set = append(e.Set, message.SetKnown(message.XRequestID, x.id))
	}
	if len(x.xff) > 0 {
		e.Set = append(e.Set, message.SetKnown(message.XForwardedFor, x.xff))
	}
	if id < address {
		e.Set = append(e.Set, message.SetKnown(message.XEnvoyExternalAddress, b[id:address]))
	}
	if x.setsProto() {
		e.Drop = e.Drop.Or(message.Names(message.XForwardedProto))
		e.Set = append(e.Set, message.SetKnown(message.XForwardedProto, x.d.scheme()))
	}
	if via := x.served.via; via != nil {
		e.Set = append(e.Set, message.SetKnown(message.Via, via))
	}
	if x.served.lines != nil {
		x.keepRequest()
	}
}

// appendForwarded writes the value of x-forwarded-for: what came, and the peer if its address is the client's.
func (x *exchange) appendForwarded(b []byte, http *config.HTTP) []byte {
	from := len(b)
	for i := 0; ; {
		value, next := x.req.Next("x-forwarded-for", i)
		if next < 0 {
			break
		}
		if len(b) > from {
			b = append(b, ',')
		}
		b = append(b, value...)
		i = next
	}
	if http.UseRemoteAddress && !http.SkipXFFAppend && x.d.peer.IsValid() { // that of a unix socket has no address
		if len(b) > from {
			b = append(b, ',')
		}
		b = x.d.peer.Addr().AppendTo(b)
	}
	return b
}

// setsProto reports whether the proxy says by which protocol the client came. As in Envoy it believes one that is said
// already if it does not face the client itself, or trusts the proxies in front of it.
func (x *exchange) setsProto() bool {
	http := x.served.http()
	return x.req.Known(message.XForwardedProto) == nil || http.UseRemoteAddress && http.XFFTrustedHops == 0
}

// streamIdle is how long a request may go without a byte in either direction.
func (x *exchange) streamIdle() time.Duration {
	if x.route != nil && x.route.IdleTimeout > 0 {
		return x.route.IdleTimeout
	}
	return x.served.http().StreamIdleTimeout
}

// touch notes that bytes moved.
func (x *exchange) touch() {
	if x.idleTimer.Running() {
		x.w.loop.Start(&x.idleTimer, x.streamIdle(), x)
	}
	if x.tryIdle.Running() {
		x.w.loop.Start(&x.tryIdle, x.route.Retry.PerTryIdle, x)
	}
}

// requestReceived is called when the last byte of the request is there: the route's timeout begins.
func (x *exchange) requestReceived() {
	x.received = x.w.loop.Clock()
	x.bodyTimer.Stop()
	if x.route != nil && !x.upgrade {
		x.w.loop.Start(&x.routeTimer, x.route.Timeout, x)
	}
}

// finish ends the exchange when its response is complete, or cannot be.
func (x *exchange) finish() {
	w, down := x.w, x.down
	up, reject := x.up, !x.whole
	x.up = nil
	x.account()
	w.freeExchange(x)
	down.finish(reject)
	if up != nil {
		up.Done()
	}
}

// leaveCluster counts the exchange out of its cluster and its queue.
func (x *exchange) leaveCluster() {
	if x.cluster == nil {
		return
	}
	x.cluster.Forget(&x.waiter)
	if x.retrying {
		x.retrying = false
		x.cluster.EndRetry()
	}
	if x.counted {
		x.counted = false
		x.cluster.EndRequest()
	}
}

// brokenBody handles a request whose content is malformed: nothing more of it is sent, and the upstream sees it cut off.
func (x *exchange) brokenBody(err error) {
	status := badPath(err)
	x.stats.count[httpCxProtocolError]++
	if x.headDone {
		x.abort(flagProtocol)
		return
	}
	x.reply(status, textBadRequest, flagProtocol)
}
