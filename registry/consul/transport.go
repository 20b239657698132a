package consul

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostmesh/hostmesh/internal/tlsfile"
)

const (
	maxBody      = 64 << 20 // of an answer; a service with 10,000 instances has about 10 MB
	maxErrorBody = 1 << 10  // of an answer that is an error: it ends in a log line

	// A connection that was begun while the network or the server was away must not hold up the next one for long.
	dialTimeout = 1500 * time.Millisecond // each for TCP and for TLS
	pingAfter   = 3 * time.Second         // of silence on an HTTP/2 connection
	pingTimeout = 2 * time.Second
	dialPause   = 250 * time.Millisecond // after a failure, while other connections stand
)

// transport is an http.RoundTripper over connections that it counts. net/http's own pool would open one connection
// for each of a thousand requests that start together, and would not stop at the number that Consul grants a client.
// Here a request takes a free stream (HTTP/2) or connection (HTTP/1) where there is one, else one more connection is
// opened, one at a time and up to max, else it waits.
//
// It also adds the ACL token and refuses what is no answer of Consul's.
type transport struct {
	scheme string
	host   string // host:port, as requests name it
	max    int
	token  *tokenFile // nil: anonymous
	dialer *http.Transport

	http2   atomic.Bool   // an answer came over HTTP/2
	dialing chan struct{} // holds one element while somebody dials

	mu      sync.Mutex
	conns   []*http.ClientConn // guarded by mu
	dialErr error              // guarded by mu; why the last connection could not be opened, nil if it could

	wakeMu sync.Mutex
	wake   chan struct{} // guarded by wakeMu; closed when a stream or connection may have become free
}

func newTransport(cfg Config, target target, token *tokenFile) (*transport, error) {
	t := &transport{
		scheme: target.scheme, host: target.host, max: cfg.MaxConnections, token: token,
		dialing: make(chan struct{}, 1), wake: make(chan struct{}),
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
	t.dialer = &http.Transport{
		DialContext:         dialer.DialContext,
		TLSHandshakeTimeout: dialTimeout,
		DisableCompression:  true, // costs both sides more than it saves on the way to a local agent
		Protocols:           new(http.Protocols),
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	t.dialer.Protocols.SetHTTP1(true)
	t.dialer.Protocols.SetHTTP2(true)
	if target.socket != "" {
		t.dialer.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", target.socket)
		}
	}
	if target.scheme == "https" {
		config, err := tlsfile.Files{CA: cfg.CAFile, Cert: cfg.CertFile, Key: cfg.KeyFile, Server: cfg.ServerName}.Config()
		if err != nil {
			return nil, err
		}
		t.dialer.TLSClientConfig = config
	}
	return t, nil
}

// close ends all connections. Requests under way fail.
func (t *transport) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.conns {
		_ = c.Close()
	}
	t.conns = nil
}

// RoundTrip sends a request. One that a connection lost before it was answered is sent once more on another, as a
// server may close an idle connection at any time; all our requests may be repeated. One that the token was refused
// for is sent once more if the token's file holds another by now.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.token.current()
	if err != nil {
		return nil, err
	}
	resp, err := t.send(req, token)
	if err == nil && resp.StatusCode == http.StatusForbidden {
		if fresh, err := t.token.reread(); err == nil && fresh != token {
			_ = resp.Body.Close()
			token = fresh
			resp, err = t.send(req, token)
			if err != nil {
				return nil, err
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return guard(req, resp, token)
}

func (t *transport) send(req *http.Request, token string) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Del("X-Consul-Token")
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	for again := true; ; again = false {
		conn, err := t.acquire(req.Context())
		if err != nil {
			return nil, err
		}
		resp, err := conn.RoundTrip(req)
		if err == nil {
			t.http2.Store(resp.ProtoMajor == 2)
			return resp, nil
		}
		if !again || conn.Err() == nil || req.Context().Err() != nil || req.Body != nil && req.Body != http.NoBody {
			return nil, err
		}
	}
}

// acquire returns a connection on which one request is reserved. It fails when none is open and none can be opened; a
// server that is too busy for one more handshake still answers on those that stand.
func (t *transport) acquire(ctx context.Context) (*http.ClientConn, error) {
	for {
		wake := t.woken() // before looking, so that nothing is missed
		conn, full := t.free()
		if conn != nil {
			return conn, nil
		}
		dialing := t.dialing
		if full {
			dialing = nil
		}
		select {
		case <-ctx.Done():
			return nil, t.waited(ctx)
		case <-wake:
		case dialing <- struct{}{}:
			err := t.dial(ctx)
			if err != nil && t.standing() {
				err = sleep(ctx, dialPause) // before anybody dials again
			}
			<-t.dialing
			if err != nil {
				return nil, err
			}
		}
	}
}

// noConnection is that a request waited for a place on a connection until its time was up, while no further one could be
// opened.
type noConnection struct{ waited, dial error }

// Error returns both.
func (n noConnection) Error() string {
	return fmt.Sprintf("%v: no further connection: %v", n.waited, n.dial)
}

// Unwrap returns both.
func (n noConnection) Unwrap() []error { return []error{n.waited, n.dial} }

// waited returns why a request waited in vain.
func (t *transport) waited(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dialErr == nil {
		return context.Cause(ctx)
	}
	return noConnection{context.Cause(ctx), t.dialErr}
}

// standing tells whether a connection is open.
func (t *transport) standing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.conns, func(c *http.ClientConn) bool { return c.Err() == nil })
}

// free reserves a place on an open connection, or tells whether another connection may be opened.
func (t *transport) free() (conn *http.ClientConn, full bool) {
	t.mu.Lock()
	t.conns = slices.DeleteFunc(t.conns, func(c *http.ClientConn) bool { return c.Err() != nil })
	conns := slices.Clone(t.conns)
	t.mu.Unlock()
	for _, c := range conns {
		if c.Reserve() == nil {
			return c, false
		}
	}
	return nil, len(conns) >= t.max
}

// dial opens one more connection, unless a place became free while the caller waited for its turn.
func (t *transport) dial(ctx context.Context) error {
	t.mu.Lock()
	conns := slices.Clone(t.conns)
	t.mu.Unlock()
	if slices.ContainsFunc(conns, func(c *http.ClientConn) bool { return c.Available() > 0 }) || len(conns) >= t.max {
		return nil
	}
	conn, err := t.dialer.NewClientConn(ctx, t.scheme, t.host)
	if err != nil {
		if ctx.Err() == nil { // else it is the request that ended
			t.mu.Lock()
			t.dialErr = err
			t.mu.Unlock()
		}
		return err
	}
	conn.SetStateHook(func(*http.ClientConn) { t.notify() })
	t.mu.Lock()
	t.conns, t.dialErr = append(t.conns, conn), nil
	t.mu.Unlock()
	t.notify()
	return nil
}

func (t *transport) woken() <-chan struct{} {
	t.wakeMu.Lock()
	defer t.wakeMu.Unlock()
	return t.wake
}

func (t *transport) notify() {
	t.wakeMu.Lock()
	defer t.wakeMu.Unlock()
	close(t.wake)
	t.wake = make(chan struct{})
}

// guard bounds the body of an answer, and refuses one that Consul did not write: a proxy's page, for instance.
func guard(req *http.Request, resp *http.Response, token string) (*http.Response, error) {
	if resp.StatusCode != http.StatusOK {
		resp.Body = readCloser{&errorText{from: resp.Body, token: token}, resp.Body}
		return resp, nil
	}
	refuse := func(format string, args ...any) (*http.Response, error) {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("not an answer of Consul's: "+format, args...)
	}
	if got := resp.Header.Get("Content-Type"); !isJSON(got) {
		return refuse("content type %q, want application/json", got)
	}
	if req.Method == http.MethodGet {
		if got := resp.Header.Get("X-Consul-Index"); !isNumber(got) {
			return refuse("X-Consul-Index %q, want a number", got)
		}
	}
	resp.Body = readCloser{&boundedReader{r: resp.Body, left: maxBody}, resp.Body}
	return resp, nil
}

func isJSON(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "application/json"
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// errorText is the start of an error's text without the token: what stands between us and Consul may repeat the request,
// and the text ends in a log.
type errorText struct {
	from  io.Reader
	token string
	text  *bytes.Reader // nil before the first Read
}

func (e *errorText) Read(p []byte) (int, error) {
	if e.text == nil {
		text, err := io.ReadAll(io.LimitReader(e.from, maxErrorBody+int64(len(e.token)))) // a token that is cut would not be found
		if err != nil {
			return 0, err
		}
		if e.token != "" {
			text = bytes.ReplaceAll(text, []byte(e.token), []byte("(token)"))
		}
		e.text = bytes.NewReader(text[:min(len(text), maxErrorBody)])
	}
	return e.text.Read(p)
}

// boundedReader fails, where io.LimitReader would end, so that a cut answer is never taken for a whole one.
type boundedReader struct {
	r    io.Reader
	left int64
}

var errTooLarge = errors.New("answer is larger than " + strconv.Itoa(maxBody>>20) + " MiB")

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}
