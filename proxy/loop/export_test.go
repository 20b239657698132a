package loop

// PendingBytes is how much ciphertext waits in the connection.
func (c *Conn) PendingBytes() int {
	if c.tls == nil {
		return 0
	}
	return len(c.tls.pending) - c.tls.sent
}
