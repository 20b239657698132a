package zookeeper

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

const (
	dialTimeout  = time.Second            // of one TCP connection
	helloTimeout = 2 * time.Second        // of what follows until the server has given a session
	stagger      = 250 * time.Millisecond // after which the next server is tried beside the one that is silent
)

// dialer connects to a server of an ensemble.
type dialer struct {
	servers        []string
	secure         *tls.Config // nil: plaintext
	sessionTimeout time.Duration
}

// dialed is what came of trying one server.
type dialed struct {
	wire *wire
	err  error
}

// dial returns a connection with a new session to the first server that gives one. The servers are tried in random
// order; one that is silent holds up the next for the time of stagger only.
func (d *dialer) dial(ctx context.Context) (*wire, error) {
	ctx, cancel := context.WithCancel(ctx)
	order := rand.Perm(len(d.servers))
	results := make(chan dialed)
	started, running := 0, 0
	start := func() {
		server := d.servers[order[started]]
		started++
		running++
		go func() {
			w, err := d.dialServer(ctx, server)
			results <- dialed{w, err}
		}()
	}
	var first *wire
	var errs []error
	defer func() {
		cancel()
		for ; running > 0; running-- { // a session more than is wanted ends with its timeout
			if r := <-results; r.wire != nil {
				_ = r.wire.Close()
			}
		}
	}()
	for start(); running > 0; {
		var next <-chan time.Time
		if started < len(order) {
			next = time.After(stagger)
		}
		select {
		case <-next:
			start()
		case r := <-results:
			running--
			if first = r.wire; first != nil {
				return first, nil
			}
			errs = append(errs, r.err)
			if started < len(order) && ctx.Err() == nil {
				start()
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, errors.Join(errs...)
}

func (d *dialer) dialServer(ctx context.Context, server string) (*wire, error) {
	tcp := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
	conn, err := tcp.DialContext(ctx, "tcp", server)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout, fmt.Errorf("no session within %s", helloTimeout))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	w, err := d.greet(ctx, conn, server)
	if err != nil {
		_ = conn.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("connect to %s: %w", server, err)
	}
	if !stop() {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", server, context.Cause(ctx))
	}
	return w, nil
}

// greet makes a session on a connection: TLS, then ZooKeeper's own handshake. The client library would do the latter
// without a deadline, and would not say why it failed.
func (d *dialer) greet(ctx context.Context, conn net.Conn, server string) (*wire, error) {
	if d.secure != nil {
		config := d.secure
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName, _, _ = net.SplitHostPort(server)
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, explainTLS(err)
		}
		conn = secured
	}
	if _, err := conn.Write(connectRequest(d.sessionTimeout)); err != nil {
		return nil, d.explainGreeting(err)
	}
	hello, err := readConnectResponse(conn)
	if err != nil {
		return nil, d.explainGreeting(err)
	}
	return newWire(conn, server, hello), nil
}

func explainTLS(err error) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w; is this the port without TLS? (want secureClientPort)", err)
	}
	var verify *tls.CertificateVerificationError
	if errors.As(err, &verify) {
		return fmt.Errorf("%w; see caFile and serverName", err)
	}
	return explainAlert(err)
}

// explainGreeting tells what may be behind the end of a connection that was just made.
func (d *dialer) explainGreeting(err error) error {
	switch ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); {
	case ended && d.secure == nil:
		return fmt.Errorf("the server closed the connection without a word (%w): it is not serving yet, or the port wants TLS", err)
	case ended:
		return fmt.Errorf("the server closed the connection without a word (%w): it is not serving yet", err)
	}
	return explainAlert(err) // which TLS 1.3 sends after the handshake
}

// explainAlert tells what to do about a server that refuses our certificate.
func explainAlert(err error) error {
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" && strings.Contains(err.Error(), "certificate") {
		return fmt.Errorf("%w; the server does not take our certificate: see certFile and keyFile", err)
	}
	return err
}

// The bytes of ConnectRequest and ConnectResponse, as of ZooKeeper's zookeeper.jute: all numbers are big-endian.
const (
	connectRequestSize     = 4 + 8 + 4 + 8 + 4 + 16 // version, last zxid, timeout, session, password
	connectResponseSize    = 4 + 4 + 8 + 4 + 16     // version, timeout, session, password
	maxConnectResponseSize = connectResponseSize + 1
)

// connectRequest asks for a new session, whose timeout the server is told in milliseconds.
func connectRequest(timeout time.Duration) []byte {
	b := make([]byte, 4+connectRequestSize)
	binary.BigEndian.PutUint32(b, connectRequestSize)
	binary.BigEndian.PutUint32(b[16:], uint32(timeout.Milliseconds()))
	binary.BigEndian.PutUint32(b[28:], 16)
	return b
}

// readConnectResponse returns the server's answer with its length in front.
func readConnectResponse(r io.Reader) ([]byte, error) {
	b := make([]byte, 4+maxConnectResponseSize)
	if _, err := io.ReadFull(r, b[:4]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(b)
	if n != connectResponseSize && n != maxConnectResponseSize {
		return nil, fmt.Errorf("the answer begins with %q: want a ZooKeeper server", b[:4])
	}
	b = b[:4+n]
	if _, err := io.ReadFull(r, b[4:]); err != nil {
		return nil, err
	}
	version, timeout := binary.BigEndian.Uint32(b[4:]), int32(binary.BigEndian.Uint32(b[8:]))
	if version != 0 || timeout < 0 || binary.BigEndian.Uint32(b[20:]) != 16 {
		return nil, errors.New("the answer is damaged: want a ZooKeeper server")
	}
	if timeout == 0 || binary.BigEndian.Uint64(b[12:]) == 0 {
		return nil, errors.New("the server gave no session")
	}
	return b, nil
}
