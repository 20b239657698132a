package proxy

import (
	"errors"
	"io"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// tunnel passes bytes between a client and an upstream in both directions, each with its own end, and owns no buffer
// while neither waits for the other.
type tunnel struct {
	w       *worker
	up      *upstream.Conn
	toUp    flow
	toDown  flow
	timer   loop.Timer
	timeout time.Duration // without a byte
	owner   tunnelOwner
	ended   bool
}

// tunnelOwner is told once when a tunnel is over. broken says that it did not end in good order on both sides.
type tunnelOwner interface {
	tunnelIdle() // it ends for being silent
	tunnelEnded(broken bool)
}

// flow is one direction of a tunnel.
type flow struct {
	src, dst *loop.Conn
	pending  []byte // read and not yet written, from at
	at       int
	splice   loop.Splice
	readable bool
	hup      bool // the source will send no more: read to its end
	eof      bool // the end was read
	shut     bool // and passed on
	bytes    uint64
}

// open connects the two sockets. Events have to be given to clientReady and UpstreamReady from now on.
func (t *tunnel) open(w *worker, down *loop.Conn, up *upstream.Conn, timeout time.Duration, owner tunnelOwner) {
	t.w, t.up, t.timeout, t.owner = w, up, timeout, owner
	t.toUp.src, t.toUp.dst = down, &up.Conn
	t.toDown.src, t.toDown.dst = &up.Conn, down
	w.loop.Start(&t.timer, timeout, t)
}

// clientReady takes the events of the client's connection.
func (t *tunnel) clientReady(e loop.Event) { t.ready(e, &t.toUp, &t.toDown) }

// UpstreamReady takes the events of the upstream's connection.
func (t *tunnel) UpstreamReady(e loop.Event) { t.ready(e, &t.toDown, &t.toUp) }

// ready handles the events of the socket that from reads and to writes.
func (t *tunnel) ready(e loop.Event, from, to *flow) {
	if e&(loop.In|loop.Hup|loop.Err) != 0 {
		from.readable = true
		from.hup = from.hup || e&(loop.Hup|loop.Err) != 0
	}
	if e&loop.Out != 0 {
		t.pump(to)
	}
	t.pump(from)
}

// start passes on what is there already.
func (t *tunnel) start() {
	t.pump(&t.toUp)
	t.pump(&t.toDown)
}

// pump moves what can be moved now.
func (t *tunnel) pump(f *flow) {
	for moved := uint64(0); !t.ended; {
		before := f.bytes
		if err := t.drain(f); err != nil {
			if !errors.Is(err, syscall.EAGAIN) {
				t.end(true)
			}
			return
		}
		if f.eof {
			t.passEnd(f)
			return
		}
		if !f.readable {
			return
		}
		if moved >= turnBytes {
			f.src.Again()
			return
		}
		if err := t.fill(f); err != nil {
			switch {
			case errors.Is(err, syscall.EAGAIN):
				f.readable = false
			case errors.Is(err, io.EOF):
				f.eof = true
			default:
				t.end(true)
				return
			}
		}
		moved += f.bytes - before
	}
}

// fill reads once, and writes what the other side takes without a buffer of the flow's own. When reads fill the whole
// buffer this is bulk, and the kernel moves the bytes from then on.
func (t *tunnel) fill(f *flow) error {
	if f.splice.IsOpen() {
		n, err := f.splice.Fill(&f.src.Socket)
		f.bytes += uint64(n)
		if n > 0 {
			t.w.loop.Start(&t.timer, t.timeout, t)
		}
		return err
	}
	buf := t.w.loop.Shared()
	n, err := f.src.Read(buf)
	if err != nil {
		return err
	}
	f.bytes += uint64(n)
	f.readable = n == len(buf) || f.hup
	t.w.loop.Start(&t.timer, t.timeout, t)
	sent, err := f.dst.Write(buf[:n])
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		return err
	}
	if sent < n {
		f.pending = append(t.w.loop.Buffer(n-sent), buf[sent:n]...)
	}
	if n == len(buf) && f.src.Plain() && f.dst.Plain() {
		// Without a pipe the buffer goes on.
		_ = f.splice.Open()
	}
	return nil
}

// drain writes what waits.
func (t *tunnel) drain(f *flow) error {
	if f.at < len(f.pending) {
		n, err := f.dst.Write(f.pending[f.at:])
		f.at += n
		if n > 0 {
			t.w.loop.Start(&t.timer, t.timeout, t)
		}
		if err != nil {
			return err
		}
	}
	if f.pending != nil {
		t.w.loop.Release(f.pending)
		f.pending, f.at = nil, 0
	}
	if held := f.splice.Held(); held > 0 {
		err := f.splice.Drain(&f.dst.Socket)
		if f.splice.Held() < held {
			t.w.loop.Start(&t.timer, t.timeout, t)
		}
		return err
	}
	return nil
}

// passEnd tells the other side that nothing more comes.
func (t *tunnel) passEnd(f *flow) {
	if !f.shut {
		f.shut = true
		f.dst.CloseWrite()
	}
	if t.toUp.shut && t.toDown.shut && !t.toUp.dst.Pending() && !t.toDown.dst.Pending() { // else Out comes back
		t.end(false)
	}
}

// end closes the upstream's side and tells the owner.
func (t *tunnel) end(broken bool) {
	if t.ended {
		return
	}
	t.ended = true
	t.timer.Stop()
	for _, f := range []*flow{&t.toUp, &t.toDown} {
		t.w.loop.Release(f.pending)
		f.pending = nil
		f.splice.Close()
	}
	if broken {
		t.up.ResetOnClose()
	}
	t.up.Discard()
	t.owner.tunnelEnded(broken)
}

// Expired ends a tunnel that was silent for too long.
func (t *tunnel) Expired(*loop.Timer) {
	t.owner.tunnelIdle()
	t.end(false)
}
