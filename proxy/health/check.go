package health

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/preamble"
)

// Bounds of what an endpoint may answer. A longer answer is a failure, or, of an HTTP body, ends the connection.
const (
	mostHead    = 60 << 10
	mostBody    = 64 << 10
	mostReply   = 64 << 10
	mostInterim = 8
)

// link is a connection to an endpoint, kept between two checks when it may be.
type link struct {
	conn net.Conn
	r    *bufio.Reader
	left *io.LimitedReader
	h2   *http.ClientConn // of HTTP/2; nil: not yet, or not at all
}

func (l *link) close() {
	if l.h2 != nil {
		_ = l.h2.Close() // and its goroutine ends
	}
	_ = l.conn.Close()
}

// scheme is that of requests on the connection.
func (l *link) scheme() string {
	if _, secure := l.conn.(*tls.Conn); secure {
		return "https"
	}
	return "http"
}

// Way is how checks of an endpoint connect. The zero Way is TCP.
type Way struct {
	// Header begins the connection; it speaks for the proxy itself.
	Header *config.ProxyHeader
	// TLS, if not nil, is spoken after it. For HTTP/2 and gRPC its NextProtos must have "h2".
	TLS *tls.Config

	version any // of TLS
}

// dial connects to an endpoint.
func dial(ctx context.Context, at config.Address, way Way) (*link, error) {
	d := net.Dialer{KeepAlive: -1}
	conn, err := d.DialContext(ctx, at.Network(), at.String())
	if err != nil {
		return nil, err
	}
	if conn, err = way.begin(ctx, conn); err != nil {
		return nil, err
	}
	left := &io.LimitedReader{R: conn}
	return &link{conn: conn, left: left, r: bufio.NewReaderSize(left, 4<<10)}, nil
}

// begin does what comes before the protocol of a check. On error the connection is closed.
func (w Way) begin(ctx context.Context, conn net.Conn) (net.Conn, error) {
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	if h := w.Header; h != nil {
		if _, err := conn.Write(ownHeader(conn, h)); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	if w.TLS == nil {
		return conn, nil
	}
	secure := tls.Client(conn, w.TLS)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, handshakeError{err}
	}
	return secure, nil
}

// handshakeError is a failure of the endpoint, whatever it says.
type handshakeError struct{ error }

func (e handshakeError) Unwrap() error { return e.error }

// ownHeader is a PROXY header for no client: as in Envoy, version 1 has the connection's own ends, version 2 none.
func ownHeader(conn net.Conn, h *config.ProxyHeader) []byte {
	if h.Version == 2 {
		return preamble.Append(nil, preamble.Header{Version: 2})
	}
	from, _ := conn.LocalAddr().(*net.TCPAddr) // nil, and nothing is known, of a unix socket
	to, _ := conn.RemoteAddr().(*net.TCPAddr)
	return preamble.Append(nil, preamble.Header{Version: 1, Source: from.AddrPort(), Destination: to.AddrPort()})
}

// Connect checks whether an endpoint accepts a connection, and closes it.
func Connect(ctx context.Context, at config.Address, timeout time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	l, err := dial(ctx, at, Way{})
	if err != nil {
		return dialOutcome(err)
	}
	l.close()
	return Passed
}

// dialOutcome tells the endpoint's failures from this host's.
func dialOutcome(err error) Outcome {
	var late net.Error
	var handshake handshakeError
	switch {
	case errors.Is(err, context.Canceled):
		return Unknown
	case unixRefused(err): // EAGAIN, too many wait there already, would be taken for a timeout
		return Refused
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &late) && late.Timeout():
		return Late
	case errors.As(err, &handshake), errors.Is(err, syscall.EPIPE):
		return Refused
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EHOSTUNREACH):
		return Refused
	}
	return Unknown // no descriptors, no network, …
}

// unixRefused reports whether a unix socket could not be connected to: there is no network that could be at fault.
func unixRefused(err error) bool {
	var dial *net.OpError
	var call *os.SyscallError
	return errors.As(err, &dial) && dial.Net == "unix" && errors.As(dial.Err, &call) && call.Syscall == "connect"
}

// Once does one check of an endpoint, on a connection of its own.
func Once(ctx context.Context, cluster string, c *config.HealthCheck, at config.Address) Outcome {
	o, l := check(ctx, cluster, c, at, Way{}, nil)
	if l != nil {
		l.close()
	}
	return o
}

// check does one check of an endpoint. kept is the connection of the check before, or nil; the one returned may be used by
// the next.
func check(ctx context.Context, cluster string, c *config.HealthCheck, at config.Address, way Way, kept *link) (Outcome, *link) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if kept != nil {
		o, next, answered := exchange(ctx, cluster, c, kept)
		if o != Refused || answered {
			return o, next
		}
		// The endpoint had closed it in the meantime: that says nothing.
	}
	l, err := dial(ctx, at, way)
	if err != nil {
		return dialOutcome(err), nil
	}
	o, next, _ := exchange(ctx, cluster, c, l)
	return o, next
}

// exchange does a check on a connection. answered: the endpoint has sent something.
func exchange(ctx context.Context, cluster string, c *config.HealthCheck, l *link) (o Outcome, next *link, answered bool) {
	deadline, _ := ctx.Deadline()
	_ = l.conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var reusable bool
	switch {
	case c.GRPC != nil:
		o, reusable, answered = requestGRPC(ctx, cluster, c.GRPC, l)
	case c.HTTP != nil && c.HTTP.HTTP2:
		o, reusable, answered = requestHTTP2(ctx, cluster, c.HTTP, l)
	case c.HTTP != nil:
		o, reusable, answered = requestHTTP(cluster, c.HTTP, l)
	default:
		o, answered = converse(c.TCP, l)
		reusable = o == Passed && len(c.TCP.Receive) > 0 && l.r.Buffered() == 0
	}
	if o == Late && errors.Is(ctx.Err(), context.Canceled) {
		o = Unknown
	}
	if !reusable || !c.ReuseConnection {
		l.close()
		return o, nil, answered
	}
	if stop() {
		_ = l.conn.SetDeadline(time.Time{}) // HTTP/2 is read between checks too
	}
	return o, l, answered
}

// requestText is the request of a check.
func requestText(cluster string, c *config.HTTPCheck) []byte {
	b := []byte(c.Method + " " + c.Path + " HTTP/1.1\r\nhost: " + authority(c.Host, cluster) + "\r\nuser-agent: Envoy/HC\r\n")
	for _, h := range c.Headers {
		b = append(b, h.Name+": "+h.Value+"\r\n"...)
	}
	return append(b, "\r\n"...)
}

// requestHTTP sends a request and reads the answer. Nothing is followed.
func requestHTTP(cluster string, c *config.HTTPCheck, l *link) (o Outcome, reusable, answered bool) {
	l.left.N = mostHead
	if _, err := l.conn.Write(requestText(cluster, c)); err != nil {
		return ioOutcome(err), false, false
	}
	if _, err := l.r.Peek(1); err != nil {
		return ioOutcome(err), false, false
	}
	req := &http.Request{Method: c.Method}
	resp, err := http.ReadResponse(l.r, req)
	for i := 0; err == nil && resp.StatusCode < 200; i++ {
		if i == mostInterim || resp.StatusCode == http.StatusSwitchingProtocols {
			return Rejected, false, true
		}
		resp, err = http.ReadResponse(l.r, req)
	}
	if err != nil {
		return ioOutcome(err), false, true
	}
	o = statusOutcome(c, resp.StatusCode)
	if o == Passed && resp.Header.Get("X-Envoy-Degraded") != "" {
		o = PassedDegraded
	}
	// What follows a body that is not read whole must not be taken for the next answer.
	l.left.N = mostBody
	_, err = io.Copy(io.Discard, resp.Body)
	reusable = err == nil && l.left.N > 0 && !resp.Close && l.r.Buffered() == 0
	return o, reusable, true
}

func statusOutcome(c *config.HTTPCheck, status int) Outcome {
	in := func(r config.StatusRange) bool { return status >= r.From && status < r.To }
	switch {
	case slices.ContainsFunc(c.Expected, in):
		return Passed
	case slices.ContainsFunc(c.Retriable, in):
		return Retriable
	}
	return Rejected
}

func ioOutcome(err error) Outcome {
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return Late
	}
	return Refused
}

// converse sends what is to be sent and waits for the blocks.
func converse(c *config.TCPCheck, l *link) (o Outcome, answered bool) {
	if len(c.Send) > 0 {
		if _, err := l.conn.Write(c.Send); err != nil {
			return ioOutcome(err), false
		}
	}
	if len(c.Receive) == 0 {
		return Passed, false
	}
	l.left.N = mostReply
	var got []byte
	for {
		if _, err := l.r.Peek(1); err != nil {
			return ioOutcome(err), len(got) > 0
		}
		part, _ := l.r.Peek(l.r.Buffered())
		got = append(got, part...)
		_, _ = l.r.Discard(len(part))
		if inOrder(got, c.Receive) {
			return Passed, true
		}
	}
}

// inOrder reports whether all blocks are in data, one behind the other.
func inOrder(data []byte, blocks [][]byte) bool {
	for _, block := range blocks {
		i := bytes.Index(data, block)
		if i < 0 {
			return false
		}
		data = data[i+len(block):]
	}
	return true
}
