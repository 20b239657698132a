package upstream

import (
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/mux"
)

// defaultStreams is how many requests a connection carries at once if neither the cluster nor the host says fewer.
const defaultStreams = 1024

// unsettledStreams is how many it carries before the host has said anything: hosts that take fewer are rare (RFC 9113 section
// 6.5.2), and what is too much would be refused.
const unsettledStreams = 100

// A request that is given up before its host has answered, when nothing has come on its connection for doubtAfter since it was begun, makes
// one doubt that the host is there: it may have lost its power, and to find that out takes the kernel a quarter of an hour. The host is asked
// by a ping, once in doubtEvery (servers of gRPC end connections that bring more), and for as long as the answer may take, doubtTime at
// most, the connection is not used for others.
const (
	doubtAfter = 2 * time.Second
	doubtTime  = 5 * time.Second
	doubtEvery = 5 * time.Minute
)

// flushTime is how long a host may take to read the last of a connection.
const flushTime = 30 * time.Second

// muxConn is an HTTP/2 connection to a host, with the requests on it.
type muxConn struct {
	mux.Conn
	conn     *Conn
	opening  []*muxCall // wait for the connection; each counts as pending
	tunnels  []*muxCall // wait for the host to say whether it takes them
	ready    bool
	settled  bool // the host's settings came
	draining bool // no new requests
	evicted  bool // it is closed for the sake of another one
}

// muxCall is a request on a muxConn.
type muxCall struct {
	m    *muxConn
	s    *mux.Stream // nil: not open yet, or no more
	recv Receiver
	w    *Waiter // of one that waits

	head  *message.Head // of a tunnel that waits
	edit  *message.Edit
	began int64 // on the loop's clock
	seen  bool
	sent  bool
}

// openMux gets a stream for r: on a connection with a free one, on one that is being opened, or on a new one.
func (c *Cluster) openMux(h *Host, r Receiver, w *Waiter) (Stream, error) {
	if k := c.reuseMux(h, r); k != nil {
		return k, nil
	}
	want := c.tells(r)
	for _, m := range h.muxes {
		if !m.ready && !m.draining && m.conn.tellsOf(want) && len(m.opening) < int(min(c.streams(), unsettledStreams)) {
			if !c.pend() {
				return nil, ErrOverflow
			}
			c.Stats.Count[RequestPendingTotal]++
			m.expect(r, w)
			return nil, nil
		}
	}
	conn, err := c.connect(h, w, r, ForHTTP2)
	if err != nil {
		return nil, err
	}
	h.busy(-1) // requests count, not the connection
	conn.mux = &muxConn{conn: conn}
	h.muxes = append(h.muxes, conn.mux)
	conn.mux.expect(r, w)
	return nil, nil
}

// reuseMux gets a stream on a connection that is there; nil when there is none to be had.
func (c *Cluster) reuseMux(h *Host, r Receiver) *muxCall {
	if len(h.muxes) == 0 {
		return nil
	}
	want := c.tells(r)
	for _, m := range h.muxes {
		if !m.conn.tellsOf(want) {
			continue
		}
		if k := m.open(r); k != nil {
			return k
		}
	}
	return nil
}

// becomeMux makes an HTTP/2 connection of one whose host chose that when asked which it wants.
func (conn *Conn) becomeMux() {
	h := conn.Host
	h.busy(-1)
	conn.mux = &muxConn{conn: conn}
	h.muxes = append(h.muxes, conn.mux)
	r, w := conn.call.recv, conn.call.waiter
	conn.call = call{}
	conn.mux.expect(r, w)
}

func (c *Cluster) streams() uint32 {
	if n := c.cfg.HTTP2.MaxStreams; n > 0 {
		return n
	}
	return defaultStreams
}

// expect has r, which counts as pending, wait for the connection.
func (m *muxConn) expect(r Receiver, w *Waiter) {
	m.opening = append(m.opening, &muxCall{m: m, recv: r, w: w})
	w.conn = m.conn
}

// forget takes out a receiver that waits for the connection. One that nobody waits for any more is used by others later.
func (m *muxConn) forget(w *Waiter) {
	if i := slices.IndexFunc(m.opening, func(k *muxCall) bool { return k.w == w }); i >= 0 {
		m.opening = slices.Delete(m.opening, i, i+1)
		m.conn.Host.cluster.give(limitPending)
	}
}

// takes reports whether another stream can begin.
func (m *muxConn) takes() bool {
	return m.ready && !m.draining && !m.Doubted() && !m.Clogged() && m.Slots() > 0 && (m.settled || m.Active() < unsettledStreams)
}

// open begins a stream; nil when there is none to be had.
func (m *muxConn) open(r Receiver) *muxCall {
	if !m.takes() {
		return nil
	}
	if m.conn.worn() {
		m.drain()
		return nil
	}
	k := m.conn.Host.cluster.memory().call()
	*k = muxCall{m: m, recv: r, began: m.conn.Host.cluster.loop.Now()}
	if k.s = m.Conn.Open(k); k.s == nil {
		return nil
	}
	if idle := m.conn.Host.cluster.cfg.HTTP2.Keepalive; idle != nil && idle.Idle > 0 && m.Silence() >= idle.Idle {
		m.Ask(idle.Timeout)
	}
	m.conn.timer.Stop()
	m.conn.Requests++
	m.conn.Host.busy(1)
	return k
}

// connected is told that the connection is there, or why not.
func (m *muxConn) connected(err error) {
	opening := m.opening
	m.opening = nil
	for range opening { // all of them, or the first that ask again would find no room
		m.conn.Host.cluster.give(limitPending)
	}
	if err == nil {
		m.begin()
	} else {
		m.leave()
	}
	for _, k := range opening {
		if k.w.conn != m.conn { // it gave up while others were told
			continue
		}
		k.w.conn = nil
		if err != nil {
			k.recv.Connected(nil, err)
			continue
		}
		if s := m.open(k.recv); s != nil {
			k.recv.Connected(s, nil)
		} else {
			k.recv.Free()
		}
	}
	if err == nil && m.Active() == 0 {
		m.Idle()
	}
}

func (m *muxConn) begin() {
	conn, c := m.conn, m.conn.Host.cluster
	m.ready = true
	if c.Stats.HTTP2 == nil {
		c.Stats.HTTP2 = &http2.Counts{}
	}
	o := c.cfg.HTTP2
	m.Dial(c.loop, &conn.Conn, http2.Limits{
		Streams: int(c.streams()), Window: int(o.StreamWindow), ConnWindow: int(o.ConnWindow),
	}, &c.memory().Arena, m, mux.Counts{Received: &c.Stats.Count[ConnRxBytes], Sent: &c.Stats.Count[ConnTxBytes], Frames: c.Stats.HTTP2})
	if k := o.Keepalive; k != nil {
		m.KeepAlive(mux.Keepalive{Interval: k.Interval, Jitter: k.Jitter, Timeout: k.Timeout})
	}
}

// leave takes the connection out of its host's.
func (m *muxConn) leave() {
	h := m.conn.Host
	h.muxes = slices.DeleteFunc(h.muxes, func(other *muxConn) bool { return other == m })
}

// drain lets the connection end with its present requests.
func (m *muxConn) drain() {
	m.draining = true
	if m.ready && m.Active() == 0 {
		m.finish()
	}
}

// finish closes a connection that nobody uses, when what is left to say is said, or nobody reads it.
func (m *muxConn) finish() {
	if !m.Closed() {
		m.End()
		m.conn.Host.cluster.loop.Start(&m.conn.timer, flushTime, m.conn)
	}
}

// Opened implements mux.Owner: a host opens no streams.
func (m *muxConn) Opened(s *mux.Stream, _ *message.Head, _ bool) { s.Close() }

// Told implements mux.Owner.
func (m *muxConn) Told() {}

// Event implements mux.Owner.
func (m *muxConn) Event(e http2.Event) {
	switch e {
	case http2.EventGoAway:
		m.drain()
	case http2.EventPingAck: // there is no doubt any more
		m.conn.Host.cluster.serveWaiting()
	case http2.EventSettings:
		m.settled = true
		defer m.conn.Host.cluster.serveWaiting()
		for len(m.tunnels) > 0 {
			k := m.tunnels[0]
			m.tunnels = slices.Delete(m.tunnels, 0, 1)
			k.tunnel()
		}
	}
}

// Idle implements mux.Owner.
func (m *muxConn) Idle() {
	c := m.conn.Host.cluster
	if m.draining || m.conn.Host.gone || c.gone {
		m.finish()
		return
	}
	m.conn.waitIdle()
}

// Ended implements mux.Owner.
func (m *muxConn) Ended(err error) {
	conn := m.conn
	conn.parted = m.ByPeer(err)
	c := conn.Host.cluster
	m.leave()
	m.draining = true
	if m.Broken() {
		c.Stats.Count[ConnProtocolError]++
	}
	conn.timer.Stop()
	for len(m.tunnels) > 0 { // these have no number yet, so nobody told them
		m.tunnels[0].cut(Cut{Kind: CutClosed, Silent: true, Unsent: true, Lost: true})
	}
	conn.closed()
	if !m.evicted {
		c.serveWaiting()
	}
}

// call returns an unused call.
func (a *Arena) call() *muxCall {
	if n := len(a.calls); n > 0 {
		k := a.calls[n-1]
		a.calls = a.calls[:n-1]
		return k
	}
	return new(muxCall)
}

// close gives the stream back; one that is not over is reset.
func (k *muxCall) close() {
	if k.s == nil {
		return
	}
	h := k.m.conn.Host
	s := k.s
	a := h.cluster.memory()
	if k.head != nil { // it may wait still, and k will be another request
		k.m.tunnels = slices.DeleteFunc(k.m.tunnels, func(other *muxCall) bool { return other == k })
	}
	if k.sent && !k.seen && !k.m.Lost() && min(k.m.Silence(), time.Duration(h.cluster.loop.Now()-k.began)) >= doubtAfter {
		k.m.Doubt(doubtTime, doubtEvery)
	}
	*k = muxCall{m: k.m}
	h.busy(-1)
	s.Close()
	if len(a.calls) < 1024 {
		a.calls = append(a.calls, k)
	}
	if h.cluster.waiting.count > 0 {
		h.cluster.serveWaiting()
	}
}

// Connection implements Stream, as the methods below.
func (k *muxCall) Connection() *Conn { return k.m.conn }

// Protocol is the version of HTTP.
func (k *muxCall) Protocol() string { return "HTTP/2" }

// Sent reports whether the head was written.
func (k *muxCall) Sent() bool { return k.sent }

// Send begins the request. A tunnel waits until the host has said that it takes one.
func (k *muxCall) Send(h *message.Head, e *message.Edit, content []byte, whole bool) {
	if h.Protocol.End > h.Protocol.Start {
		k.head, k.edit = h, e
		if k.m.settled {
			k.tunnel()
		} else {
			k.m.tunnels = append(k.m.tunnels, k)
		}
		return
	}
	k.sent = true
	tunnel := h.Method == message.MethodConnect
	k.s.SendHead(h, e, whole && len(content) == 0 && !tunnel)
	if len(content) > 0 {
		k.s.Send(content, whole && !tunnel)
	}
}

func (k *muxCall) tunnel() {
	if !k.m.ExtendedConnect() {
		k.cut(Cut{Kind: CutRefused, Silent: true, Unsent: true})
		return
	}
	k.sent = true
	k.s.SendHead(k.head, k.edit, false)
}

// SendContent sends content.
func (k *muxCall) SendContent(p loop.Piece, whole bool) { k.s.Send(p.Bytes(), whole) }

// SendTrailers ends the request.
func (k *muxCall) SendTrailers(t *message.Fields) { k.s.SendTrailers(t, nil) }

// Congested reports whether what was sent waits.
func (k *muxCall) Congested() bool { return k.s.Congested() }

// Pull lets the response go on.
func (k *muxCall) Pull() { k.s.Pull() }

// Done gives the stream back.
func (k *muxCall) Done() { k.close() }

// Drop resets the stream.
func (k *muxCall) Drop() { k.close() }

// Head implements mux.Receiver, as the methods below.
func (k *muxCall) Head(h *message.Head, end bool) {
	k.seen = true
	k.recv.Head(h, end)
}

// Content tells content.
func (k *muxCall) Content(p loop.Piece, end bool) (more bool) { return k.recv.Content(p, end) }

// Trailers ends the response.
func (k *muxCall) Trailers(t *message.Fields) { k.recv.Trailers(t) }

// Writable tells that the stream is congested no more.
func (k *muxCall) Writable() { k.recv.Writable() }

// Reset ends the call.
func (k *muxCall) Reset(code http2.ErrCode, remote bool) {
	c := Cut{Kind: CutReset, Silent: !k.seen, Unsent: !k.sent}
	switch {
	case k.m.Lost():
		c.Kind, c.Lost = CutClosed, true
		k.m.conn.serves = true
		if k.m.Broken() {
			c.Kind = CutMalformed
		}
	case !remote:
		c.Kind = CutMalformed
		k.m.conn.Host.cluster.Stats.Count[ConnProtocolError]++
	case code == http2.RefusedStream:
		c.Kind, c.Unsent = CutRefused, true
	}
	k.cut(c)
}

func (k *muxCall) cut(c Cut) {
	r := k.recv
	k.close()
	r.Cut(c)
}
