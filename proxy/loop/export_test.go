package loop

import "bytes"

// PendingBytes is how much ciphertext waits in the connection.
func (c *Conn) PendingBytes() int {
	if c.tls == nil {
		return 0
	}
	return len(c.tls.pending) - c.tls.sent
}

// Idle has the connection be idle for long. It reports whether there were large records before, and whether their memory was
// given back, neither before nor after its time.
func (c *Conn) Idle() (large, trimmed bool) {
	s := c.tls
	large = s.idle.Running() && s.busy
	s.idle.Stop()
	s.Expired(&s.idle)
	early := !s.idle.Running()
	s.idle.Stop()
	s.Expired(&s.idle)
	return large, field[bytes.Buffer](s.tls, "rawInput").Cap() == 0 && !early && !s.idle.Running()
}
