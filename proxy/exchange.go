package proxy

import (
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/http1"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/router"
	"github.com/hostmesh/hostmesh/proxy/upstream"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

const (
	retainBytes = 64 << 10 // of a request that can be sent again
	maxTried    = 8        // hosts remembered by a request; more retries may meet one again
)

// exchange is one request and its response. It is made with the first byte of a request and serves the next one
// after it.
//
// buf holds what the access log wants to know, then the head as it is sent upstream, then the body: of a request that may
// have to be sent again all of it, of another one what the upstream has not taken yet.
type exchange struct {
	c *client // nil: free
	w *worker

	req    http1.Request // valid while its head is routed
	resp   http1.Response
	match  router.Request
	method http1.Method
	body   http1.Body // of the request
	answer http1.Body // of the response

	route   *config.Route
	cluster *upstream.Cluster
	key     balance.Key // what chooses the host
	host    *upstream.Host
	up      *upstream.Conn
	waiter  upstream.Waiter
	tried   [maxTried]*upstream.Host

	buf  []byte
	meta meta   // what stands at the start of buf
	kept *kept  // what an access log wants to know besides; nil: nothing
	sent int    // of buf
	upIn []byte // received from the upstream and not yet used

	began     int64 // first byte of the request
	received  int64 // last byte of the request
	connectAt int64
	firstByte int64 // of the response

	routeTimer, tryTimer, idleTimer loop.Timer
	tryIdle, streamTimer            loop.Timer

	bytesIn, bytesOut uint64
	status            int
	flags             flags
	attempts          int // connections tried
	retries           int // by policy
	stale             int // retries because a pooled connection had been closed

	http10      bool
	keep        bool // the client keeps its connection
	upgrade     bool
	whole       bool // the request is received
	retain      bool // buf holds all of the request so far
	sentAny     bool
	connected   bool
	reused      bool
	counted     bool // in the cluster's requests
	retrying    bool // counted in the cluster's retries
	upReadable  bool
	upHup       bool
	headDone    bool // the response's head was passed on
	upKeep      bool
	rechunk     bool // the response's body is put into chunks
	writeFailed bool // the upstream takes no more of the request
	backoff     bool // tryTimer is the wait before a retry
	noRetry     bool // the policy's request headers do not match
	redirect    bool // the client is to ask for w.path
}

// meta says where in an exchange's buf the fields of its access-log line end; each begins where the one before ends.
type meta struct {
	method, path, authority, agent, forwarded, id, end int
}

func (w *worker) newExchange(c *client) *exchange {
	var x *exchange
	if n := len(w.exchanges); n > 0 {
		x = w.exchanges[n-1]
		w.exchanges = w.exchanges[:n-1]
	} else {
		x = &exchange{w: w}
	}
	x.c = c
	x.began = w.loop.Clock()
	x.req.Reset()
	x.resp.Reset()
	return x
}

// freeExchange takes x back with all it holds, but for its connection and counts.
func (w *worker) freeExchange(x *exchange) {
	x.routeTimer.Stop()
	x.tryTimer.Stop()
	x.idleTimer.Stop()
	x.tryIdle.Stop()
	x.streamTimer.Stop()
	w.loop.Release(x.buf)
	w.giveKept(x.kept)
	w.loop.Release(x.upIn)
	req, resp, match := x.req, x.resp, x.match
	*x = exchange{w: w, req: req, resp: resp, match: match}
	if len(w.exchanges) < 1024 {
		w.exchanges = append(w.exchanges, x)
	}
}

// serve is the life of a request from its head, data[:head], to the upstream. It runs again from connect for a retry; the
// way back is readResponse, the end is finish.
func (x *exchange) serve(data []byte, head int) {
	c, w := x.c, x.w
	c.phase = phaseServing
	x.accept()
	refused := c.served.http().Underscores != config.UnderscoresAllow && x.underscores()
	m, err := c.served.table.Match(&x.match)
	x.note(&m)
	rest, broken := x.takeBody(data[head:])
	c.save(rest)
	switch {
	case broken != nil:
		x.brokenBody(broken)
		return
	case refused:
		x.keep = false
		x.reply(400, textBadRequest, flagProtocol)
		return
	case err != nil:
		c.http().count[httpPathFailed]++
		x.reply(badPath(err), "", flagNone)
		return
	case m.Redirect:
		c.http().count[httpPathRedirected]++
		x.redirect = true
		x.reply(307, "", flagNone)
		return
	case m.Route == nil:
		c.http().count[httpNoRoute]++
		x.reply(404, "", flagNoRoute)
		return
	case x.req.Upgrading() != nil && !c.served.allowsUpgrade(x.req.Upgrading()):
		x.reply(403, "", flagNone)
		return
	}
	x.route = m.Route
	if d := m.Route.Direct; d != nil {
		x.reply(d.Status, d.Body, flagNone)
		return
	}
	if m.Route.Hash != nil {
		x.key = x.hashKey(&m)
	}
	to := router.Choose(m.Route.Clusters, w.rand.Uint64())
	x.key.Labels = to.Labels
	x.cluster = w.cluster(to.Name)
	if x.cluster == nil {
		c.http().count[httpNoCluster]++
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
	if x.whole {
		x.requestReceived()
	} else {
		w.loop.Start(&c.timer, c.served.http().RequestTimeout, c)
	}
	x.connect()
}

// accept reads what the head says about the connection and prepares the match.
func (x *exchange) accept() {
	c, req := x.c, &x.req
	c.timer.Stop()
	c.http().count[httpRqTotal]++
	c.http().active++
	x.method = req.Method
	x.http10 = req.HTTP10()
	x.keep = !c.lastRequest() && req.KeepAlive()
	x.upgrade = req.Upgrading() != nil
	x.body = http1.NewBody(req.Framing(), false)
	x.match.Method, x.match.Host, x.match.Path = req.MethodName, req.Authority, req.Path
	x.match.Query, x.match.HasQuery, x.match.Headers = req.Query, req.HasQuery, req
	x.match.Slashes, x.match.MergeSlashes = c.served.http().Slashes, c.served.http().MergeSlashes
}

// note writes the access log's part and the head for the upstream into buf.
func (x *exchange) note(m *router.Match) {
	w, c, req := x.w, x.c, &x.req
	http := c.served.http()
	id := req.Known(http1.XRequestID)
	agent := req.Known(http1.UserAgent)

	b := w.loop.Buffer(len(req.Target) + 512)
	b = append(b, req.MethodName...)
	x.meta.method = len(b)
	b = append(b, req.Target...)
	x.meta.path = len(b)
	b = append(b, req.Authority...)
	x.meta.authority = len(b)
	b = append(b, agent...)
	x.meta.agent = len(b)
	b = x.appendForwarded(b, http)
	x.meta.forwarded = len(b)
	if len(id) > 0 || !http.GenerateRequestID {
		b = append(b, id...)
	} else {
		b = w.appendUUID(b)
	}
	x.meta.id = len(b)
	x.meta.end = len(b)

	rewrite := http1.Rewrite{Upgrade: true, Continue: true, Drop: http1.Names(http1.XRequestID, http1.XForwardedFor), Extra: x.extra(b)}
	if x.setsProto() {
		rewrite.Drop |= http1.Names(http1.XForwardedProto)
	}
	if len(m.Path) > 0 && len(req.Path) > 0 && &m.Path[0] != &req.Path[0] {
		w.path = append(w.path[:0], m.Path...)
		if req.HasQuery {
			w.path = append(append(w.path, '?'), req.Query...)
		}
		rewrite.Path = w.path
	}
	w.head = req.AppendHead(w.head[:0], &rewrite)
	if c.served.lines != nil {
		x.keepRequest(w.head)
	}
	b = w.loop.Grow(b, len(w.head))
	x.buf = append(b, w.head...)
	x.sent = x.meta.end
	x.retain = true
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
	if http.UseRemoteAddress && !http.SkipXFFAppend {
		if len(b) > from {
			b = append(b, ',')
		}
		b = x.c.peer.Addr().AppendTo(b)
	}
	return b
}

// setsProto reports whether the proxy says by which protocol the client came. As in Envoy it believes one that is said
// already if it does not face the client itself, or trusts the proxies in front of it.
func (x *exchange) setsProto() bool {
	http := x.c.served.http()
	return x.req.Known(http1.XForwardedProto) == nil || http.UseRemoteAddress && http.XFFTrustedHops == 0
}

// extra makes the field lines that the proxy sets from what note wrote.
func (x *exchange) extra(b []byte) []byte {
	e := x.w.extra[:0]
	if id := b[x.meta.forwarded:x.meta.id]; len(id) > 0 {
		e = append(e, "x-request-id: "...)
		e = append(e, id...)
		e = append(e, "\r\n"...)
	}
	if xff := b[x.meta.agent:x.meta.forwarded]; len(xff) > 0 {
		e = append(e, "x-forwarded-for: "...)
		e = append(e, xff...)
		e = append(e, "\r\n"...)
	}
	if x.setsProto() {
		e = append(e, "x-forwarded-proto: http\r\n"...)
	}
	e = x.appendVia(e)
	x.w.extra = e
	return e
}

// streamIdle is how long a request may go without a byte in either direction.
func (x *exchange) streamIdle() time.Duration {
	if x.route != nil && x.route.IdleTimeout > 0 {
		return x.route.IdleTimeout
	}
	return x.c.served.http().StreamIdleTimeout
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
	x.c.timer.Stop()
	if x.route != nil && !x.upgrade {
		x.w.loop.Start(&x.routeTimer, x.route.Timeout, x)
	}
}

// finish ends the exchange when its response is complete, or cannot be. Its connections are passed on, and the client's
// connection goes on to the next request if keep.
func (x *exchange) finish(keep, linger bool) {
	c, w := x.c, x.w
	up, upKeep := x.up, x.upKeep && x.answer.Done() && x.whole && x.sent == len(x.buf) && len(x.upIn) == 0 && !x.upHup && !x.upReadable && !x.upgrade
	x.up = nil
	x.account()
	c.x = nil
	w.freeExchange(x)
	if c.IsOpen() {
		c.nextRequest(keep, linger)
	}
	switch {
	case up == nil:
	case upKeep:
		up.Release()
	default:
		up.Discard()
	}
}

// leaveCluster counts the exchange out of its cluster and its queue.
func (x *exchange) leaveCluster() {
	if x.cluster == nil {
		return
	}
	x.cluster.Dequeue(&x.waiter)
	if x.retrying {
		x.retrying = false
		x.cluster.EndRetry()
	}
	if x.counted {
		x.counted = false
		x.cluster.EndRequest()
	}
}
