package upstream

import "time"

// worn reports whether a connection has served as many requests, or lived as long, as the cluster lets it.
func (conn *Conn) worn() bool {
	c := conn.Host.cluster
	switch {
	case c.cfg.MaxConnRequests > 0 && conn.Requests >= int(c.cfg.MaxConnRequests):
		c.Stats.Count[ConnMaxRequests]++
		return true
	case c.cfg.MaxConnDuration > 0 && conn.left() <= 0:
		c.Stats.Count[ConnMaxDuration]++
		return true
	}
	return false
}

// left is what remains of the time that the cluster lets a connection live.
func (conn *Conn) left() time.Duration {
	c := conn.Host.cluster
	return c.cfg.MaxConnDuration - time.Duration(c.loop.Now()-conn.opened)
}

// waitIdle starts the timer of a connection that enters the pool.
func (conn *Conn) waitIdle() {
	c := conn.Host.cluster
	if c.cfg.MaxConnDuration > 0 {
		if left := conn.left(); c.cfg.IdleTimeout == 0 || left < c.cfg.IdleTimeout {
			c.loop.StartAt(&conn.timer, max(left, 1), conn)
			return
		}
	}
	c.loop.Start(&conn.timer, c.cfg.IdleTimeout, conn)
}

// countEnd counts why an idle connection is closed by its timer.
func (conn *Conn) countEnd() {
	c := conn.Host.cluster
	if c.cfg.MaxConnDuration > 0 && conn.left() <= 0 {
		c.Stats.Count[ConnMaxDuration]++
		return
	}
	c.Stats.Count[ConnIdleTimeout]++
}
