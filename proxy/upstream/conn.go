package upstream

import (
	"errors"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
)

// Why a connection could not be had.
var (
	// ErrOverflow is returned by Acquire when connections and the queue for them have reached the cluster's limits.
	ErrOverflow = errors.New("circuit breaker: too many connections and pending requests")
	// ErrWait is returned by Acquire when all connections are in use: the user is in the queue and gets Free.
	ErrWait = errors.New("all connections are in use")
)

// User is a stream of bytes that uses a connection as it is. It is called on the loop.
type User interface {
	waiting
	// Connected is called once for a connection that Acquire began to open: err is nil when it is there, and otherwise
	// why it is not (a syscall.Errno, ETIMEDOUT after the connect timeout); the connection is then gone.
	Connected(err error)
	// UpstreamReady is called with the events of the connection.
	UpstreamReady(loop.Event)
}

// Conn is a connection to a host.
type Conn struct {
	loop.Conn
	Host *Host
	// Requests is how many requests were sent on it.
	Requests int

	user       User // of the bytes; nil: they are a call's, or mux's
	call       call
	mux        *muxConn
	next, prev *Conn // in the host's idle stack; next was used earlier
	idle       bool
	connecting bool
	parted     bool // the host ended it
	serves     bool // a request or a tunnel has it
	use        Use
	epoch      int        // of the host when it began to open
	told       *told      // what the host was told of the client; nil: nothing
	opened     int64      // when it began to open
	timer      loop.Timer // connecting, or idle
}

// Want says which connections will do.
type Want uint8

// The kinds of connections.
const (
	Pooled   Want = iota // an idle one, which the host may have closed a moment ago, or a new one
	Verified             // an idle one of which it is known that the host has not closed it, or a new one
	Fresh                // a new one
)

// Acquire takes a connection to h for user: an idle one (reused is true), or one that begins to open, and user will be
// told by Connected. The error is ErrWait, ErrOverflow, or that of the system call that opens sockets.
func (c *Cluster) Acquire(h *Host, user User, w *Waiter, want Want) (conn *Conn, reused bool, err error) {
	if conn, reused, err = c.acquire(h, w, user, want, ForBytes); conn != nil {
		conn.user = user
	}
	return conn, reused, err
}

func (c *Cluster) acquire(h *Host, w *Waiter, user waiting, want Want, use Use) (conn *Conn, reused bool, err error) {
	for conn := h.idleFor(user); conn != nil && want != Fresh; conn = h.idleFor(user) {
		conn.leavePool()
		if want == Verified && !conn.Quiet() {
			conn.Discard()
			continue
		}
		h.busy(1)
		conn.serves = true
		return conn, true, nil
	}
	conn, err = c.connect(h, w, user, use)
	return conn, false, err
}

func (c *Cluster) open(h *Host, user waiting, use Use) (*Conn, error) {
	conn := &Conn{Host: h, use: use, epoch: h.epoch, connecting: true, opened: c.loop.Now(), told: c.tells(user)}
	if err := conn.dial(h.Endpoint.Addr); err != nil {
		h.unreachable(err)
		c.give(limitPending)
		c.give(limitConns)
		return nil, err
	}
	c.opening++
	h.conns++
	h.busy(1)
	c.Stats.Count[ConnTotal]++
	switch use {
	case ForHTTP1:
		c.Stats.Count[ConnHTTP1]++
	case ForHTTP2:
		c.Stats.Count[ConnHTTP2]++
	case ForBytes, ForHTTP: // what ForHTTP becomes is not known yet
	}
	if c.shared != nil {
		c.shared.markUsed()
	}
	c.Stats.Count[RequestPendingTotal]++
	h.Stats.ConnTotal++
	c.loop.Start(&conn.timer, c.cfg.ConnectTimeout, conn)
	return conn, nil
}

func (conn *Conn) dial(at config.Address) error {
	if at.IsUnix() {
		return conn.DialUnix(conn.Host.cluster.loop, at.Path, conn)
	}
	c := conn.Host.cluster
	if err := conn.Dial(c.loop, at.IP, conn); err != nil {
		return err
	}
	if k := c.cfg.Keepalive; k != nil {
		_ = loop.KeepAlive(conn.FD(), k.Time, k.Interval, k.Probes) // a connection that is closed already says so itself
	}
	return nil
}

// unreachable counts a connection that could not even begin. With TCP that is this host's own fault, and so is a want of descriptors;
// a unix socket says at once that nobody listens.
func (h *Host) unreachable(err error) {
	c := h.cluster
	c.Stats.Count[ConnConnectFail]++
	h.Stats.ConnectFail++
	if !h.Endpoint.Addr.IsUnix() || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		return
	}
	c.Stats.Count[ConnTotal]++
	h.Stats.ConnTotal++
	h.Reached(LocalFailed)
}

// Release gives a connection back whose request is done and which can serve another one.
func (conn *Conn) Release() {
	h := conn.Host
	c := h.cluster
	h.busy(-1)
	conn.user, conn.serves = nil, false
	if h.gone || c.gone || conn.epoch != h.epoch || conn.worn() || c.passOn() {
		conn.Close()
		conn.closed()
		c.serveWaiting()
		return
	}
	c.idle++
	conn.idle, conn.next = true, h.idle
	if h.idle != nil {
		h.idle.prev = conn
	}
	h.idle = conn
	conn.waitIdle()
	c.serveWaiting()
}

func (conn *Conn) leavePool() {
	if conn.prev != nil {
		conn.prev.next = conn.next
	} else {
		conn.Host.idle = conn.next
	}
	if conn.next != nil {
		conn.next.prev = conn.prev
	}
	conn.Host.cluster.idle--
	conn.idle, conn.next, conn.prev = false, nil, nil
	conn.timer.Stop()
}

// Discard closes a connection, whatever it is doing. Its user is not told.
func (conn *Conn) Discard() {
	switch {
	case !conn.IsOpen():
	case conn.mux != nil && conn.mux.ready:
		conn.mux.Abort()
	default:
		conn.end()
		conn.Host.cluster.serveWaiting()
	}
}

// end closes an open connection. Its place is not offered to the queue.
func (conn *Conn) end() {
	h := conn.Host
	switch {
	case conn.idle:
		conn.leavePool()
	case conn.mux == nil:
		h.busy(-1)
	}
	if conn.connecting {
		conn.endOpening()
	}
	conn.timer.Stop()
	conn.user = nil
	conn.endCall()
	conn.Close()
	conn.closed()
}

// closed counts a connection out that is closed.
func (conn *Conn) closed() {
	c := conn.Host.cluster
	n := &c.Stats.Count
	n[ConnDestroy]++
	by, withRequest := ConnDestroyLocal, ConnDestroyLocalActive
	if conn.parted {
		by, withRequest = ConnDestroyRemote, ConnDestroyRemoteActive
	}
	n[by]++
	if conn.serves {
		n[ConnDestroyActive]++
		n[withRequest]++
	}
	observe(&c.Stats.Length, time.Duration(c.loop.Now()-conn.opened))
	conn.Host.conns--
	c.give(limitConns)
}

// Ready takes the socket's events.
func (conn *Conn) Ready(e loop.Event) {
	switch {
	case conn.connecting:
		conn.connected(e)
	case conn.idle:
		// An edge may tell of bytes that were read with those before them.
		if e&(loop.Hup|loop.Err) != 0 || e&loop.In != 0 && !conn.Quiet() {
			conn.parted = e&(loop.Hup|loop.Err) != 0
			conn.Discard()
		}
	case conn.mux != nil:
		conn.mux.Ready(e)
	case conn.user != nil:
		conn.parted = conn.parted || e&(loop.Hup|loop.Err) != 0
		conn.user.UpstreamReady(e)
	case conn.call.recv != nil:
		conn.callReady(e)
	}
}

func (conn *Conn) connected(e loop.Event) {
	if e&(loop.Out|loop.Err|loop.Hup) == 0 {
		return
	}
	if e&(loop.Err|loop.Hup) != 0 {
		if errno := conn.Failure(); errno != 0 {
			conn.fail(errno)
			return
		}
	}
	if conn.told != nil && !conn.announce() {
		conn.fail(syscall.EPIPE)
		return
	}
	if o := conn.Host.cluster.origination; o != nil {
		if cfg := o(conn.Host.Endpoint, conn.use); cfg != nil {
			conn.Secure(cfg, false, conn)
			return
		}
	}
	conn.established()
	// What came along with the first event would not be told again.
	if rest := e &^ loop.Out; rest != 0 && conn.IsOpen() {
		conn.Ready(rest)
	}
}

// Secured is told how the TLS handshake ended.
func (conn *Conn) Secured(err error) {
	c := conn.Host.cluster
	if err != nil {
		if c.judge != nil {
			c.Stats.Count[c.judge(err)]++
		}
		conn.fail(&HandshakeError{err})
		return
	}
	c.Stats.Count[TLSHandshake]++
	if conn.TLS().Resumed {
		c.Stats.Count[TLSResumed]++
	}
	switch alpn := conn.TLS().ALPN; {
	case conn.use == ForHTTP2 && alpn != "" && alpn != "h2":
		conn.fail(&HandshakeError{errors.New("the host does not speak HTTP/2")})
		return
	case conn.use == ForHTTP && alpn == "h2":
		c.Stats.Count[ConnHTTP2]++
		conn.becomeMux()
	}
	conn.established()
}

// HandshakeError is why TLS could not be begun.
type HandshakeError struct{ Err error }

// Error is the reason.
func (e *HandshakeError) Error() string { return "TLS error: " + e.Err.Error() }

// Unwrap returns the reason.
func (e *HandshakeError) Unwrap() error { return e.Err }

// established hands the connection to who waits for it.
func (conn *Conn) established() {
	c := conn.Host.cluster
	conn.endOpening()
	conn.timer.Stop()
	observe(&c.Stats.Connect, time.Duration(c.loop.Now()-conn.opened))
	if conn.mux == nil {
		conn.serves = true
		if conn.use == ForHTTP {
			c.Stats.Count[ConnHTTP1]++
		}
	}
	conn.tell(nil)
}

// endOpening counts a connection as one that is opened no more. Whoever waits for one that is shared counts as pending himself.
func (conn *Conn) endOpening() {
	c := conn.Host.cluster
	conn.connecting = false
	c.opening--
	if conn.mux == nil {
		c.give(limitPending)
	}
}

// tell tells who waits for the connection that it is there, or why not: then it is gone.
func (conn *Conn) tell(err error) {
	switch {
	case conn.mux != nil:
		conn.mux.connected(err)
	case conn.user != nil:
		conn.user.Connected(err)
	case conn.call.recv == nil:
	case err != nil:
		conn.call.recv.Connected(nil, err)
	default:
		conn.call.waiter.conn, conn.call.waiter = nil, nil
		conn.call.recv.Connected(conn, nil)
	}
}

// Expired ends a connect that takes too long and a connection that was idle for too long.
func (conn *Conn) Expired(*loop.Timer) {
	c := conn.Host.cluster
	switch {
	case conn.connecting:
	case conn.mux != nil && conn.mux.Closed(): // the host does not read what is left to say
		conn.mux.Abort()
		return
	case conn.mux != nil:
		conn.countEnd()
		conn.mux.finish()
		return
	default:
		conn.countEnd()
		conn.Discard()
		return
	}
	c.Stats.Count[ConnConnectTimeout]++
	conn.fail(syscall.ETIMEDOUT)
}

func (conn *Conn) fail(err error) {
	c, failed := conn.Host.cluster, *conn // as it was, to tell who waits
	c.Stats.Count[ConnConnectFail]++
	conn.Host.Stats.ConnectFail++
	conn.parted = !errors.Is(err, syscall.ETIMEDOUT) // as Envoy tells it, which counts a failed handshake so as well
	if conn.mux != nil {
		conn.mux.leave() // or those who are asked now would wait for it
	}
	conn.Discard()
	failed.tell(err)
}
