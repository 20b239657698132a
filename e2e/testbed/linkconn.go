package testbed

import (
	"io"
	"net"
	"sync"
	"time"
)

// linkConn is one connection through a Link.
type linkConn struct {
	link   *Link
	client *net.TCPConn
	done   chan struct{} // closed when the connection has ended
	once   sync.Once

	// Guarded by link.mu.
	server  *net.TCPConn // nil until it is dialled
	left    int          // bytes that may still be delivered, or unlimited
	damaged bool         // garbled bytes were delivered
}

const (
	linkChunk = 32 << 10
	linkQueue = 1024 // chunks on their way to a client; a full queue stops reading from the server
	linkDial  = 5 * time.Second
)

// chunk is what was read from the server at once; err is what ended the stream.
type chunk struct {
	data    []byte
	err     error
	arrived time.Time
}

// run serves the connection until it has ended on both sides.
func (c *linkConn) run() {
	if !c.register() {
		return
	}
	defer func() {
		c.link.mu.Lock()
		delete(c.link.conns, c)
		c.link.mu.Unlock()
	}()
	if !c.link.await(c, time.Time{}) {
		return
	}
	server, err := net.DialTimeout("tcp", c.link.target, linkDial)
	if err != nil {
		c.reset()
		return
	}
	if !c.attach(server.(*net.TCPConn)) {
		return
	}
	queue := make(chan chunk, linkQueue)
	var pumps sync.WaitGroup
	pumps.Go(func() { c.readServer(queue) })
	pumps.Go(func() { c.writeClient(queue) })
	pumps.Go(c.forward)
	pumps.Wait()
	c.close()
}

// register makes the link's faults reach the connection; it is false when one ended it already.
func (c *linkConn) register() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.left = c.link.faults.truncate
	if c.link.faults.cut || c.left == 0 {
		c.end(c.link.faults.cut)
		return false
	}
	c.link.conns[c] = struct{}{}
	return true
}

// attach gives the connection its server's side; it is false when the connection has ended during the dial.
func (c *linkConn) attach(server *net.TCPConn) bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.ended() {
		_ = server.Close()
		return false
	}
	c.server = server
	return true
}

// forward moves bytes from the client to the server.
func (c *linkConn) forward() {
	buf := make([]byte, linkChunk)
	for {
		n, err := c.client.Read(buf)
		if !c.link.await(c, time.Time{}) {
			return
		}
		if n > 0 {
			if _, err := c.server.Write(buf[:n]); err != nil {
				c.reset()
				return
			}
		}
		if err != nil {
			c.endOfStream(err, c.server)
			return
		}
	}
}

func (c *linkConn) readServer(queue chan<- chunk) {
	buf := make([]byte, linkChunk)
	for {
		n, err := c.server.Read(buf)
		select {
		case queue <- chunk{data: append([]byte(nil), buf[:n]...), err: err, arrived: time.Now()}:
		case <-c.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// writeClient moves what was read from the server to the client, as the faults of that moment want it.
func (c *linkConn) writeClient(queue <-chan chunk) {
	for {
		var next chunk
		select {
		case next = <-queue:
		case <-c.done:
			return
		}
		if !c.link.await(c, next.arrived) {
			return
		}
		data, last := c.spoil(next.data)
		if len(data) > 0 {
			if _, err := c.client.Write(data); err != nil {
				c.reset()
				return
			}
		}
		if last {
			c.close()
			return
		}
		if next.err != nil {
			c.endOfStream(next.err, c.client)
			return
		}
	}
}

// spoil garbles and truncates data where the link does; last means that the connection is to be closed after it.
func (c *linkConn) spoil(data []byte) (_ []byte, last bool) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.link.faults.garble && len(data) > 0 {
		damage(data)
		c.damaged = true
	}
	if c.left == unlimited {
		return data, false
	}
	data = data[:min(len(data), c.left)]
	c.left -= len(data)
	return data, c.left == 0
}

// endOfStream passes on that one side will send no more: its end as an end, a failure as a reset.
func (c *linkConn) endOfStream(err error, other *net.TCPConn) {
	if err != io.EOF || other.CloseWrite() != nil {
		c.reset()
	}
}

func (c *linkConn) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *linkConn) reset() { c.lockedEnd(true) }
func (c *linkConn) close() { c.lockedEnd(false) }

func (c *linkConn) lockedEnd(reset bool) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.end(reset)
}

// end closes both sides, once; with reset as a crash would be seen. The caller holds link.mu.
func (c *linkConn) end(reset bool) {
	c.once.Do(func() {
		for _, side := range []*net.TCPConn{c.client, c.server} {
			if side == nil {
				continue
			}
			if reset {
				_ = side.SetLinger(0)
			}
			_ = side.Close()
		}
		close(c.done)
	})
}
