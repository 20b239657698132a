package proxy

import (
	"errors"
	"time"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/mux"
)

const (
	// goAwayTime is how long a client that drains may still begin requests which were under way when it was told not to, at
	// least, and goAwayTimes how often it has that time while it has not confirmed that it was told.
	goAwayTime  = time.Second
	goAwayTimes = 3
)

// session is a downstream HTTP/2 connection. Each of its streams is an exchange.
type session struct {
	downstream
	mux    mux.Conn
	timer  loop.Timer // idle, or draining
	slow   *slowHead  // nil: none was incomplete since the connection rested
	before uint32     // how many were before it
	tired  bool       // the connection rests when the timer expires
	leave  *leave     // nil: the client may begin requests
	read   uint64     // bytes that were read before it was known what the client speaks
}

// leave is how far a session is whose client was told to begin no more requests.
type leave struct {
	heard bool          // it has confirmed that
	last  bool          // those it begins are refused
	ends  bool          // the connection is closed as soon as the client has got everything
	times int           // that the timer may expire before that is enough
	pause time.Duration // what is left of the time in which it may begin requests
	flush flush
}

// lane is the client's side of an exchange on a session.
type lane struct {
	s *session
	m *mux.Stream
	x *exchange

	fresh bool       // the exchange waits for what else was received with it
	timer loop.Timer // for the client to take the end of a response whose exchange is over
	left  int        // of that, when the timer was started
}

// becomeSession goes on with HTTP/2, of which early was read.
func (c *client) becomeSession(early []byte) {
	c.timer.Stop()
	c.life.stop()
	s := new(session)
	d := &s.downstream
	d.w, d.a, d.served, d.peer, d.via, d.id, d.owner, d.facts, d.stats, d.over = c.w, c.a, c.served, c.peer, c.via, c.id, s, c.facts, c.stats, c.over
	d.began, d.visit, s.read = c.began, c.visit, c.received
	d.prev, d.next = c.prev, c.next
	d.prev.next, d.next.prev = d, d
	d.Take(&c.Conn, s)
	d.live()
	s.serve(early)
}

// begin implements connection.
func (s *session) begin() { s.serve(nil) }

func (s *session) serve(early []byte) {
	http := s.served.http()
	s.speaks(2)
	s.mux.Serve(s.w.loop, &s.Conn, http2.Limits{
		HeaderBytes: headLimit(http.MaxRequestHeadBytes), Fields: http.MaxRequestHeaders, Streams: int(http.HTTP2.MaxStreams),
		Window: int(http.HTTP2.StreamWindow), ConnWindow: int(http.HTTP2.ConnWindow), ExtendedConnect: http.HTTP2.ExtendedConnect || len(http.Upgrades) > 0,
	}, &s.w.arena.Arena, s, mux.Counts{Received: &s.a.stats.count[listenerRxBytes], Sent: &s.a.stats.count[listenerTxBytes], Frames: &s.w.http2}, http.DelayedCloseTimeout, early)
	if k := http.HTTP2.Keepalive; k != nil {
		s.mux.KeepAlive(mux.Keepalive{Interval: k.Interval, Jitter: k.Jitter, Timeout: k.Timeout})
	}
	s.waitIdle()
}

// restTime is how long a connection is idle before it gives back what it needs for requests only: one that is asked often keeps it.
const restTime = time.Second

// waitIdle gives a connection without requests the time that it may be idle.
func (s *session) waitIdle() {
	most := s.served.http().IdleTimeout
	if s.tired = most <= 0 || most > restTime; s.tired {
		most = restTime
	}
	s.w.loop.Start(&s.timer, most, s)
}

// rest gives back what an idle connection does not need, and the rest of the time that it may be idle.
func (s *session) rest() {
	s.tired = false
	if !s.slow.running() {
		s.slow = nil
	}
	s.mux.Rest()
	if most := s.served.http().IdleTimeout; most > 0 {
		s.w.loop.Start(&s.timer, max(most-restTime, time.Millisecond), s)
	}
}

// moved implements connection.
func (s *session) moved() (received, sent uint64) {
	received, sent = s.mux.Moved()
	return s.read + received, sent
}

// Ready takes the socket's events.
func (s *session) Ready(e loop.Event) { s.mux.Ready(e) }

// Opened implements mux.Owner.
func (s *session) Opened(m *mux.Stream, h *message.Head, end bool) {
	w := s.w
	s.refresh()
	if s.leave == nil { // else it runs until no new requests are taken
		s.timer.Stop()
	}
	l := w.newLane()
	l.s, l.m = s, m
	m.Use(l)
	x := w.newExchange(&s.downstream, l)
	l.x = x
	x.req.Copy(h)
	x.whole = end
	if end && h.ContentLength < 0 && (h.Method == message.MethodPost || h.Method == message.MethodPut || h.Method == message.MethodPatch) {
		x.req.ContentLength = 0 // some hosts of HTTP/1 want to be told (RFC 9110 section 8.6)
	}
	if s.lastRequest() {
		s.drain()
	}
	l.fresh = true
	w.fresh = append(w.fresh, l)
}

// Told implements mux.Owner: it begins the requests that were received. One that its client took back in the same breath is none
// of them: who does that all the time makes no work for hosts, and breaks no connection to one (CVE-2023-44487).
func (s *session) Told() {
	w := s.w
	for _, l := range w.fresh {
		l.start()
	}
	w.fresh = w.fresh[:0]
	if before, is := s.mux.Partial(); is != s.slow.running() || is && before != s.before {
		s.watchHead(before, is)
	}
}

// Event implements mux.Owner.
func (s *session) Event(e http2.Event) {
	switch e {
	case http2.EventRejected:
		s.http().count[httpRqTxReset]++
	case http2.EventResets:
		s.http().count[httpRqResets]++
	case http2.EventPingAck:
		if s.leave != nil {
			s.leave.heard = true
		}
	}
}

// Idle implements mux.Owner.
func (s *session) Idle() {
	switch {
	case s.leave != nil && s.leave.last:
		s.finish()
	case s.draining() || s.leave != nil:
		s.drain()
	default:
		s.waitIdle()
	}
}

// Ended implements mux.Owner.
func (s *session) Ended(err error) {
	if code, ok := err.(http2.ErrCode); ok && code != http2.NoError { //nolint:errorlint // it is the protocol's own
		s.http().count[httpCxProtocolError]++
	}
	s.byPeer = s.mux.ByPeer(err)
	s.timer.Stop()
	s.slow.stop()
	s.life.stop()
	s.w.fresh = s.w.fresh[:0]
	s.a.forget(&s.downstream)
}

// drain implements connection: it tells the client, gives it time to hear of it, and then refuses what it still begins. What the
// client sends before it answers the ping it may have sent before it was told. A client that has nothing under way and has heard
// is not waited for any longer, and neither is any while the process ends.
func (s *session) drain() {
	if s.leave != nil {
		return
	}
	s.leave = &leave{times: goAwayTimes, pause: s.served.http().DrainTimeout}
	s.mux.Drain(false)
	s.mux.Ping([8]byte{'g', 'o', 'a', 'w', 'a', 'y'})
	s.await()
}

// await gives the client the time that it has to hear.
func (s *session) await() {
	l, wait := s.leave, min(goAwayTime, max(s.w.drainIdle, time.Millisecond))
	if l.pause > 0 && !s.w.draining {
		wait = min(wait, l.pause)
	}
	l.times--
	l.pause -= wait
	s.w.loop.Start(&s.timer, wait, s)
}

// hears reports whether the client has time left to hear that it should begin no more requests.
func (s *session) hears() bool {
	l := s.leave
	if l.heard {
		return l.pause > 0 && !s.w.draining && s.mux.Active() > 0
	}
	return l.times > 0 || l.pause > 0 && !s.w.draining
}

// refuse tells the client which request was the last.
func (s *session) refuse() {
	if s.leave == nil {
		s.leave = new(leave)
	}
	s.leave.last = true
	s.mux.Drain(true)
	if s.mux.Active() == 0 {
		s.finish()
	}
}

// finish ends a connection without requests when the client has got the last response.
func (s *session) finish() {
	s.leave.ends, s.leave.flush = true, s.newFlush()
	s.mux.Finish()
	s.w.loop.Start(&s.timer, s.w.flushLook, s)
}

// flushed looks whether the client has got everything.
func (s *session) flushed() {
	left := s.mux.Unsent() + s.Unsent()
	switch {
	case left > 0 && !s.leave.flush.stalls(left):
		s.w.loop.Start(&s.timer, s.w.flushLook, s)
		return
	case left > 0:
		s.http().count[httpCxDelayedClose]++
		s.ResetOnClose() // it must not take what it has got for all
	}
	s.mux.Abort()
}

// shutdown implements connection.
func (s *session) shutdown() { s.mux.Abort() }

// Expired handles the connection's own timeouts.
func (s *session) Expired(*loop.Timer) {
	switch {
	case s.leave != nil && s.leave.ends:
		s.flushed()
	case s.leave != nil && s.hears():
		s.await()
	case s.leave != nil:
		s.refuse()
	case s.tired:
		s.rest()
	default:
		s.http().count[httpCxIdleTimeout]++
		s.refuse()
	}
}

// watchHead gives a head that is not complete its time, or the present one another.
func (s *session) watchHead(before uint32, is bool) {
	s.before = before
	if !is {
		s.slow.stop()
		return
	}
	if s.slow == nil {
		s.slow = &slowHead{session: s}
	}
	s.w.loop.Start(&s.slow.timer, s.served.http().RequestHeadersTimeout, s.slow)
}

// slowHead is a session one of whose heads takes too long.
type slowHead struct {
	timer   loop.Timer
	session *session
}

func (h *slowHead) running() bool { return h != nil && h.timer.Running() }

func (h *slowHead) stop() {
	if h != nil {
		h.timer.Stop()
	}
}

// Expired gives up the client: nothing else can come on the connection before the head is complete.
func (h *slowHead) Expired(*loop.Timer) {
	s := h.session
	if s.mux.Clogged() { // the rest of it may be there, and is not read as long as the client does not read either
		s.watchHead(s.before, true)
		return
	}
	s.http().count[httpRqHeaderTimeout]++
	s.mux.GiveUp(http2.EnhanceYourCalm, errors.New("receive head: timeout"))
}

func (w *worker) newLane() *lane {
	if n := len(w.lanes); n > 0 {
		l := w.lanes[n-1]
		w.lanes = w.lanes[:n-1]
		return l
	}
	return new(lane)
}

// close gives the stream back, which resets it if it is not over.
func (l *lane) close() {
	w, m := l.s.w, l.m
	l.timer.Stop()
	*l = lane{s: l.s}
	if m != nil {
		m.Close()
		if len(w.lanes) < 1024 {
			w.lanes = append(w.lanes, l)
		}
	}
}

// Head implements mux.Receiver, as the methods below: a server gets requests by Opened only.
func (l *lane) Head(*message.Head, bool) {}

// start begins the exchange, which may end it.
func (l *lane) start() {
	if l.fresh {
		l.fresh = false
		l.x.serve(nil)
	}
}

// Content takes content of the request.
func (l *lane) Content(p loop.Piece, end bool) (more bool) {
	l.start()
	x := l.x
	if x == nil { // it is answered
		return true
	}
	x.requestContent(p, end)
	return l.x == x && !x.full()
}

// Trailers ends the request.
func (l *lane) Trailers(t *message.Fields) {
	if l.start(); l.x != nil {
		l.x.requestTrailers(t)
	}
}

// Reset tells that the client went away.
func (l *lane) Reset(_ http2.ErrCode, remote bool) {
	x := l.x
	if l.fresh {
		x.accept()
	}
	f := flagClientReset
	switch {
	case l.m.Conn().Lost():
		l.s.underWay = true
		f = flagClientGone
	case !remote:
		l.s.http().count[httpRqTxReset]++
		f = flagProtocol
	}
	x.clientGone(f)
	l.s.w.freeExchange(x)
	l.close()
}

// Writable tells that the stream is congested no more.
func (l *lane) Writable() {
	l.x.touch()
	l.x.writable()
}

// protocol implements responder, as the methods below.
func (l *lane) protocol() string { return http2Protocol }

func (l *lane) option() []byte { return nil }

func (l *lane) inform(h *message.Head) { l.m.SendHead(h, nil, false) }

func (l *lane) respond(h *message.Head, e *message.Edit, end bool) { l.m.SendHead(h, e, end) }

func (l *lane) content(p loop.Piece, end bool) { l.m.Send(p.Bytes(), end) }

func (l *lane) trailers(t *message.Fields) { l.m.SendTrailers(t, nil) }

func (l *lane) congested() bool { return l.m.Congested() }

func (l *lane) pull() { l.m.Pull() }

// finish gives the stream back when what was sent is on its way: what the windows do not allow yet waits for its turn.
func (l *lane) finish(bool) {
	l.x = nil
	if l.m.Pending() {
		l.m.Use((*farewell)(l))
		(*farewell)(l).wait()
		return
	}
	l.close()
}

func (l *lane) abort() {
	l.x = nil
	l.m.Cancel(http2.InternalError)
	l.close()
}

// farewell is a lane whose exchange is over while the end of its response still waits.
type farewell lane

// Head implements mux.Receiver, as the methods below.
func (f *farewell) Head(*message.Head, bool) {}

// Content drops what the client still sends.
func (f *farewell) Content(loop.Piece, bool) (more bool) { return true }

// Trailers drops the end of the request.
func (f *farewell) Trailers(*message.Fields) {}

// Reset gives up.
func (f *farewell) Reset(http2.ErrCode, bool) { (*lane)(f).close() }

func (f *farewell) wait() {
	f.left = f.m.Unsent()
	f.s.w.loop.Start(&f.timer, f.s.served.http().StreamIdleTimeout, f)
}

// Expired gives up a client that has let nothing of it be sent.
func (f *farewell) Expired(*loop.Timer) {
	if f.m.Unsent() < f.left {
		f.wait()
		return
	}
	f.s.http().count[httpRqIdleTimeout]++
	(*lane)(f).close()
}

// Writable gives the stream back.
func (f *farewell) Writable() { (*lane)(f).close() }
