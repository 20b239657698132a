package loop

import "bytes"

// PendingBytes is how much ciphertext waits in the connection.
func (c *Conn) PendingBytes() int {
	if c.tls == nil {
		return 0
	}
	return len(c.tls.pending) - c.tls.sent
}

// Idle has the connection be idle for long. It reports whether there was a large record before, and whether its memory was
// given back.
func (c *Conn) Idle() (large, trimmed bool) {
	s := c.tls
	large = s.idle.Running()
	for range 2 {
		s.idle.Stop()
		s.Expired(&s.idle)
	}
	return large, field[bytes.Buffer](s.tls, "rawInput").Cap() == 0 && !s.idle.Running()
}
