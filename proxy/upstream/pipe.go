package upstream

import "github.com/hostmesh/hostmesh/proxy/message"

// OpenPipe is Open for a tunnel of bytes over a connection of its own: what Send sends is not written, it answers with 200.
func (c *Cluster) OpenPipe(h *Host, r Receiver, w *Waiter) error {
	conn, _, err := c.acquire(h, w, r, Fresh, ForBytes)
	if err != nil {
		return err
	}
	conn.call.begin(r)
	conn.call.pipe = true
	conn.call.waiter, w.conn = w, conn
	return nil
}

// openPipe begins the tunnel.
func (conn *Conn) openPipe() {
	k, a := &conn.call, conn.Host.cluster.memory()
	k.raw, k.answered, k.upgrading, k.whole = true, true, true, false
	k.readable = true // bytes may have come with the connection
	h := a.Head()
	defer a.GiveHead(h)
	h.Status = 200
	r := k.recv
	if r.Head(h, false); k.recv == r {
		conn.Again()
	}
}

// accepts reports whether the head of a response opens the tunnel that was asked for. Of CONNECT that is 2xx, and nothing else
// is a switch of protocols; of another upgrade it is 101.
func (conn *Conn) accepts(h *message.Head) bool {
	if conn.call.method == message.MethodConnect {
		return h.Status/100 == 2
	}
	return h.Status == 101 && h.Protocol.End > h.Protocol.Start
}

// writable goes on when the kernel takes more.
func (conn *Conn) writable() {
	k := &conn.call
	if len(k.out) > 0 {
		conn.flush()
	} else if k.congested && !conn.Pending() { // the last record of TLS is on its way
		k.congested = false
		k.recv.Writable()
	}
}
