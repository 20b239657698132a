package proxy

import (
	"net/netip"
	"time"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// downstream is what the HTTP connections of clients have in common, whatever version they speak.
type downstream struct {
	loop.Conn
	w      *worker
	a      *branch
	served *served // the listener as the present request found it
	peer   netip.AddrPort
	via    *proxied // nil: peer is who is connected
	id     uint64
	owner  connection
	facts  *accesslog.TLS // what access logs tell of the handshake
	stats  *httpStats     // where the connection is counted

	next, prev *downstream // all of the branch
	life       *life       // nil: the connection may take requests for ever
	began      int64       // when it came
	visit      *visit      // what the listener's access logs know of it; nil without any
	requests   uint32
	version    uint8 // of HTTP, once it is known
	over       bool  // its life is: it ends with its present requests
	byPeer     bool  // the client ended it
	underWay   bool  // when a request was
}

// speaks counts the connection as one of a version of HTTP.
func (d *downstream) speaks(version uint8) {
	if d.version == 0 {
		d.version = version
		d.stats.count[httpCxHTTP1+httpCounter(version-1)]++
		d.stats.versions[version-1]++
	}
}

// countEnd counts a closed connection out.
func (d *downstream) countEnd() {
	s := d.stats
	s.conns--
	if d.version > 0 {
		s.versions[d.version-1]--
	}
	by, withRequest := httpCxDestroyLocal, httpCxDestroyLocalActive
	if d.byPeer {
		by, withRequest = httpCxDestroyRemote, httpCxDestroyRemoteActive
	}
	s.count[httpCxDestroy]++
	s.count[by]++
	if d.underWay {
		s.count[httpCxDestroyActive]++
		s.count[withRequest]++
	}
	s.length.Observe(time.Duration(d.w.loop.Clock() - d.began))
}

// connection is a client's connection as its branch sees it.
type connection interface {
	loop.Handler
	loop.Expirer
	// begin starts to serve.
	begin()
	// drain has the connection end with its present requests, and soon if there are none.
	drain()
	// shutdown ends it at once.
	shutdown()
	// moved is how many bytes came and went on it.
	moved() (received, sent uint64)
}

// responder is the client's side of an exchange.
type responder interface {
	// inform sends an informational response.
	inform(h *message.Head)
	// respond sends the head of the response, with what e changes in it. end: it has no content.
	respond(h *message.Head, e *message.Edit, end bool)
	// content and trailers send the rest. Nothing should be sent while congested; if that is true, the exchange's writable is
	// called when it no longer is.
	content(p loop.Piece, end bool)
	trailers(t *message.Fields)
	congested() bool
	// pull asks for more of the request.
	pull()
	// finish ends the exchange: its response is sent, or will be. reject: what else the client sends cannot be understood, or is
	// not wanted.
	finish(reject bool)
	// abort ends an exchange within its response: the client sees it cut off.
	abort()
	// option is what respond said about the connection, nil for nothing.
	option() []byte
	// protocol is the version of HTTP as access logs tell it.
	protocol() string
}

// http is where the connection's requests are counted.
func (d *downstream) http() *httpStats { return d.a.http }

// scheme is how the client came.
func (d *downstream) scheme() []byte {
	if d.Plain() {
		return schemeHTTP
	}
	return schemeHTTPS
}

// refresh takes the listener as it is now, for a new request.
func (d *downstream) refresh() {
	if s := d.a.served; s.http() != nil {
		d.served = s
	}
}

// draining reports whether the connection is to end with its present requests.
func (d *downstream) draining() bool {
	return d.over || d.w.draining || d.a.gone || d.a.served.http() == nil
}

// lastRequest reports whether the connection is to end with the request that it begins now.
func (d *downstream) lastRequest() bool {
	if d.w.shed.keepAlive {
		d.http().count[httpCxOverloadKeepAlive]++
		return true
	}
	most := d.served.http().MaxConnectionRequests
	if d.requests++; most == 0 || d.requests < most {
		return false
	}
	d.http().count[httpCxMaxRequests]++
	return true
}

// open begins the connection on its socket, or on what a TLS handshake made of it.
func (d *downstream) open(in *arrival) error {
	if err := in.open(&d.Conn, d.w.loop, d.owner); err != nil {
		return err
	}
	d.live()
	d.owner.begin()
	return nil
}

// live begins the connection's life.
func (d *downstream) live() {
	if most := d.served.http().MaxConnectionDuration; most > 0 {
		d.life = &life{d: d}
		d.w.loop.Start(&d.life.timer, most, d.life)
	}
}

// life is how long a connection may take requests.
type life struct {
	timer loop.Timer
	d     *downstream
}

func (l *life) stop() {
	if l != nil {
		l.timer.Stop()
	}
}

// Expired has the connection end with its present request, or soon when there is none.
func (l *life) Expired(*loop.Timer) {
	d := l.d
	d.http().count[httpCxMaxDuration]++
	d.over = true
	d.owner.drain()
}
