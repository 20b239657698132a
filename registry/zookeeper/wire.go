package zookeeper

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"
)

// The operations that we use, as of ZooDefs.OpCode.
const (
	opExists      = 3
	opGetData     = 4
	opSync        = 9
	opPing        = 11
	opGetChildren = 12 // getChildren2
	opClose       = -11
	opSetAuth     = 100
)

const (
	headerSize    = 4 + 8 + 4                                 // ReplyHeader: xid, zxid, error
	statSize      = 8 + 8 + 8 + 8 + 4 + 4 + 4 + 8 + 4 + 4 + 8 // Stat
	maxFrame      = 16 << 20                                  // of an answer; a list of 10,000 children has about 0.5 MB
	answerTimeout = 10 * time.Second                          // the longest that a request may wait
	xidEvent      = -1
	xidPing       = -2
	xidOurs       = 1 << 30 // and above: requests that we make beside the library
)

var errClosed = errors.New("closed by us")

// wire is the connection that the client library is given, with a session on it. It stands between the library and
// whatever the network brings:
//
//   - It hands over whole answers only, each checked: the library would take any length at its word, and panic.
//     Answers must come in the order of their requests, as ZooKeeper promises, so that damage never assigns one node's
//     data to another.
//   - It does not show the library that the connection failed. It tells that by failed, and answers the library's
//     close request itself. So the library never makes a connection or a session on its own, and ends at once.
//
// It also carries requests of ours, which the library does not see: ask.
type wire struct {
	conn    net.Conn
	server  string
	in      *bufio.Reader
	timeout time.Duration // of silence
	failed  chan struct{} // closed at the first failure, which err then tells
	closing chan struct{} // closed when the library asked to close the session

	hello    []byte // the server's part of the handshake, for the library
	greeted  bool   // the library has sent its part; used by its sender alone
	buf      []byte // the answer that is handed over; like rest it is the library's receiver's alone
	rest     []byte // what it has yet to take of it
	closeXid uint32 // set before closing is closed

	sending sync.Mutex // held while a request is written: they are expected in that order
	asks    uint32     // guarded by sending: requests of our own, ever

	mu      sync.Mutex
	err     error   // guarded by mu
	pending []asked // guarded by mu: requests without an answer, in order
}

// asked is a request that waits for its answer.
type asked struct {
	xid   uint32
	op    int32
	at    time.Time
	reply chan<- reply // of our own requests, with room for it
}

// newWire takes conn over. hello is the server's ConnectResponse, with its length.
func newWire(conn net.Conn, server string, hello []byte) *wire {
	session := time.Duration(binary.BigEndian.Uint32(hello[8:])) * time.Millisecond
	w := &wire{
		conn: conn, server: server, timeout: session * 2 / 3, hello: hello, rest: hello,
		failed: make(chan struct{}), closing: make(chan struct{}),
	}
	w.in = bufio.NewReaderSize(deadlineReader{conn, w.timeout}, 64<<10)
	return w
}

// deadlineReader bounds each wait for bytes. The library's own deadlines, two for each answer, cost more than they do.
type deadlineReader struct {
	conn    net.Conn
	timeout time.Duration
}

func (r deadlineReader) Read(p []byte) (int, error) {
	if err := r.conn.SetReadDeadline(time.Now().Add(r.timeout)); err != nil {
		return 0, err
	}
	return r.conn.Read(p)
}

// fail notes the first failure, ends the connection and returns what was noted.
func (w *wire) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			err = fmt.Errorf("the server is silent for %s", w.timeout)
		} else if errors.Is(err, io.EOF) {
			err = errors.New("the server closed the connection: it stops, or has expired the session")
		}
		w.err = fmt.Errorf("session with %s: %w", w.server, err)
		close(w.failed)
		_ = w.conn.Close()
	}
	return w.err
}

// cause returns the first failure, nil without any.
func (w *wire) cause() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close implements net.Conn.
func (w *wire) Close() error {
	_ = w.fail(errClosed)
	return nil
}

// Write implements net.Conn. The library writes one whole request at a time.
func (w *wire) Write(p []byte) (int, error) {
	if !w.greeted {
		w.greeted = true // its part of the handshake, which we have done
		return len(p), nil
	}
	if len(p) < 12 {
		return 0, w.fail(fmt.Errorf("write a request of %d bytes", len(p)))
	}
	a := asked{xid: binary.BigEndian.Uint32(p[4:]), op: int32(binary.BigEndian.Uint32(p[8:]))}
	if a.op == opClose {
		w.closeXid = a.xid
		close(w.closing)
	}
	w.sending.Lock()
	defer w.sending.Unlock()
	w.send(a, p)
	return len(p), nil
}

// send sends a whole request. sending is held.
func (w *wire) send(a asked, p []byte) {
	if err := w.expect(a); err != nil {
		_ = w.fail(err)
	}
	if w.cause() != nil {
		return
	}
	_ = w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
	if _, err := w.conn.Write(p); err != nil {
		_ = w.fail(err)
	}
}

// expect notes a request. The library's pings, every third of the session's timeout, are when the age of the others
// is looked at.
func (w *wire) expect(a asked) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.op == opPing {
		if len(w.pending) > 0 && time.Since(w.pending[0].at) > answerTimeout {
			return fmt.Errorf("no answer within %s", answerTimeout)
		}
		return nil
	}
	a.at = time.Now()
	w.pending = append(w.pending, a)
	return nil
}

// answered takes the oldest request, which the answer of that xid must be for.
func (w *wire) answered(xid uint32) (asked, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 || w.pending[0].xid != xid {
		return asked{}, errors.New("an answer to another request than the oldest")
	}
	a := w.pending[0]
	w.pending = w.pending[1:]
	return a, nil
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.rest) == 0 {
		if err := w.next(); err != nil {
			_ = w.fail(err)
			<-w.closing
			w.rest = closeResponse(w.closeXid)
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// closeResponse is the server's answer to the request to close the session.
func closeResponse(xid uint32) []byte {
	b := make([]byte, 4+headerSize)
	binary.BigEndian.PutUint32(b, headerSize)
	binary.BigEndian.PutUint32(b[4:], xid)
	return b
}

// next reads answers until there is one for the library, with its length, in rest.
func (w *wire) next() error {
	for {
		b, err := w.frame()
		if err != nil {
			return err
		}
		if b == nil {
			continue
		}
		a, err := w.check(b[4:])
		if err != nil {
			return err
		}
		if a.reply == nil {
			w.rest = b
			return nil
		}
		w.buf = nil // it goes with the reply
		a.reply <- reply{b[4+headerSize:], answerError(answerCode(b[4:]))}
	}
}

// frame reads one answer with its length. It leaves one that is too large if it is to a request of ours, which is
// told so; then it returns none.
func (w *wire) frame() ([]byte, error) {
	if err := w.cause(); err != nil {
		return nil, err
	}
	var length [4]byte
	if err := readFull(w.in, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame && n <= math.MaxInt32 && w.isOurs() {
		return nil, w.leave(int(n))
	}
	if n < headerSize || n > maxFrame {
		return nil, fmt.Errorf("an answer of %d bytes, want %d to %d", n, headerSize, maxFrame)
	}
	if cap(w.buf) < int(n)+4 {
		w.buf = make([]byte, n+4)
	}
	b := w.buf[:n+4]
	copy(b, length[:])
	return b, readFull(w.in, b[4:])
}

func readFull(in *bufio.Reader, p []byte) error {
	for len(p) > 0 {
		n, err := in.Read(p)
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// check judges an answer: its header, and that its body is exactly what the request asks for. It returns the request,
// none for what is told without one.
func (w *wire) check(b []byte) (asked, error) {
	xid := int32(binary.BigEndian.Uint32(b))
	body := b[headerSize:]
	switch {
	case xid == xidPing:
		return asked{}, nil
	case xid == xidEvent:
		if len(body) < 12 || !isBuffer(body[8:], false) {
			return asked{}, errors.New("a damaged event")
		}
		return asked{}, nil
	case xid < 0:
		return asked{}, fmt.Errorf("an answer with xid %d", xid)
	}
	a, err := w.answered(uint32(xid))
	if err == nil && answerCode(b) == 0 && !fits(a.op, body) {
		err = fmt.Errorf("a damaged answer of %d bytes to operation %d", len(body), a.op)
	}
	return a, err
}

// answerCode is the error in the header of an answer, 0 for none.
func answerCode(b []byte) int32 { return int32(binary.BigEndian.Uint32(b[12:])) }

// fits tells whether body is an answer to an operation, to the byte.
func fits(op int32, body []byte) bool {
	withStat := len(body) >= statSize
	switch op {
	case opGetData:
		return withStat && isBuffer(body[:len(body)-statSize], true)
	case opGetChildren:
		return withStat && isStrings(body[:len(body)-statSize])
	case opExists:
		return len(body) == statSize
	case opSync:
		return isBuffer(body, false)
	case opSetAuth, opClose:
		return len(body) == 0
	case opAddWatch:
		return len(body) == 4
	case opMultiRead:
		return true // who asked looks
	}
	return false
}

// isBuffer tells whether b is a length and as many bytes; a length of -1 is no buffer at all.
func isBuffer(b []byte, orNone bool) bool {
	if len(b) < 4 {
		return false
	}
	n := int32(binary.BigEndian.Uint32(b))
	return int(n) == len(b)-4 || orNone && n == -1 && len(b) == 4
}

// isStrings tells whether b is a count and as many strings.
func isStrings(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	count := binary.BigEndian.Uint32(b)
	for b = b[4:]; count > 0; count-- {
		if len(b) < 4 {
			return false
		}
		n := int(int32(binary.BigEndian.Uint32(b)))
		if n < 0 || n > len(b)-4 {
			return false
		}
		b = b[4+n:]
	}
	return len(b) == 0
}

// LocalAddr implements net.Conn.
func (w *wire) LocalAddr() net.Addr { return w.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (w *wire) RemoteAddr() net.Addr { return w.conn.RemoteAddr() }

// SetDeadline implements net.Conn. The wire has deadlines of its own.
func (w *wire) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }
