package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
)

// Bounds of what a server that is away, paused or hostile may cost.
const (
	dialTimeout   = 2 * time.Second // of TCP, and again of TLS
	pingAfter     = 2 * time.Second // of silence on an HTTP/2 connection
	pingTimeout   = 2 * time.Second
	headerTimeout = 10 * time.Second

	maxList      = 256 << 20 // of one page
	maxErrorBody = 4 << 10   // of an answer that is an error: it ends in a log line
	maxToken     = 64 << 10
)

// transport is what all requests of one Watch go through. client-go keeps the transports that it makes for ever, in a
// cache of the process, and sets their pings by an environment variable; this one ends with its Watch.
type transport struct {
	http   *http.Transport
	dialer *connrotation.Dialer
	cancel context.CancelFunc
	token  *token
}

func newTransport(ctx context.Context, cfg *rest.Config) (*transport, error) {
	secured, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, err
	}
	renewCertificate(secured, cfg)
	ctx, cancel := context.WithCancel(ctx)
	plain := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3,
	}}
	t := &transport{cancel: cancel, token: &token{path: cfg.BearerTokenFile}}
	if cfg.BearerTokenFile == "" {
		t.token.last = cfg.BearerToken // else client-go has read it from the file, whatever that holds
	}
	// net/http goes on dialling when the request that asked for it has ended.
	t.dialer = connrotation.NewDialer(func(dialCtx context.Context, network, address string) (net.Conn, error) {
		dialCtx, stop := context.WithCancel(dialCtx)
		defer stop()
		defer context.AfterFunc(ctx, stop)()
		return plain.DialContext(dialCtx, network, address)
	})
	t.http = &http.Transport{
		DialContext:           t.dialer.DialContext,
		Proxy:                 cfg.Proxy,
		TLSClientConfig:       secured,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		DisableCompression:    true,
		Protocols:             new(http.Protocols),
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	t.http.Protocols.SetHTTP1(true)
	t.http.Protocols.SetHTTP2(true)
	return t, nil
}

// renewCertificate has a client's certificate that is in files read at each handshake.
func renewCertificate(secured *tls.Config, cfg *rest.Config) {
	if secured == nil || cfg.CertFile == "" || cfg.KeyFile == "" || len(cfg.CertData)+len(cfg.KeyData) > 0 {
		return
	}
	certFile, keyFile := cfg.CertFile, cfg.KeyFile
	secured.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		return &cert, nil
	}
}

// close ends all connections, those that are being made too.
func (t *transport) close() {
	t.cancel()
	t.http.CloseIdleConnections()
	t.dialer.CloseAll()
}

// RoundTrip adds the token and bounds the answer.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	secret, err := t.token.read()
	if err != nil {
		return nil, err
	}
	if secret != "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	resp, err := t.http.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if secret != "" {
		for i, text := range resp.Header["Warning"] { // which ends in the log
			resp.Header["Warning"][i] = strings.ReplaceAll(text, secret, "(token)")
		}
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		if err := shorten(resp, secret); err != nil {
			return nil, err
		}
	case req.URL.Query().Get("watch") == "":
		resp.Body = &boundedBody{ReadCloser: resp.Body, left: maxList}
	}
	return resp, nil
}

// shorten leaves the start of an error's text, without the token: what stands between us and the server may repeat
// the request, and the text ends in a log.
func shorten(resp *http.Response, secret string) error {
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody+maxToken)) // a token that is cut would not be found
	if err != nil {
		return err
	}
	if secret != "" {
		text = bytes.ReplaceAll(text, []byte(secret), []byte("(token)"))
	}
	resp.Body = io.NopCloser(bytes.NewReader(text[:min(len(text), maxErrorBody)]))
	resp.ContentLength = -1
	return nil
}

// about returns the error that a watch tells, in words of a bearable number and without the token.
func (t *transport) about(o runtime.Object) error {
	if status, ok := o.(*meta.Status); ok {
		t.token.mu.Lock()
		defer t.token.mu.Unlock()
		if t.token.last != "" {
			status.Message = strings.ReplaceAll(status.Message, t.token.last, "(token)")
		}
		status.Message = status.Message[:min(len(status.Message), maxErrorBody)]
	}
	return apierrors.FromObject(o)
}

// boundedBody fails, where io.LimitReader would end, so that a cut answer is never taken for a whole one.
type boundedBody struct {
	io.ReadCloser
	left int
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("answer is larger than %d MiB", maxList>>20)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// token is a bearer token. One in a file is read at each request, as there are few of them and kubelet renews it.
type token struct {
	path string // "" for one that does not change

	mu   sync.Mutex
	last string // guarded by mu
}

// read returns the token; while the file cannot be read, the last one. No error tells what is in the file.
func (t *token) read() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" {
		return t.last, nil
	}
	text, err := os.ReadFile(t.path)
	fresh := strings.TrimSpace(string(text))
	if err == nil && (fresh == "" || len(fresh) > maxToken || strings.ContainsFunc(fresh, func(r rune) bool { return r <= ' ' || r >= 0x7f })) {
		err = errors.New(t.path + " does not hold one line of printable ASCII")
	}
	switch {
	case err == nil:
		t.last = fresh
	case t.last == "":
		return "", fmt.Errorf("read token: %w", err)
	}
	return t.last, nil
}
