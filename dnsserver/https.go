package dnsserver

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Path is where DNS over HTTPS is served.
const Path = "/dns-query"

const (
	dnsMessage    = "application/dns-message"
	maxHTTPHead   = 16 << 10
	maxStreams    = 100 // of one connection at once
	httpsStopTime = 2 * time.Second
)

// serveHTTPS serves DNS over HTTPS on a listener until ctx ends.
func (s *Server) serveHTTPS(ctx context.Context, l *net.TCPListener) error {
	server := &http.Server{
		Handler: &httpsHandler{server: s}, TLSConfig: s.tlsConfig("h2", "http/1.1"),
		ReadHeaderTimeout: handshakeTime, ReadTimeout: tcpIdleTimeout, WriteTimeout: tcpIdleTimeout, IdleTimeout: tcpIdleTimeout,
		MaxHeaderBytes: maxHTTPHead, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog: log.New(io.Discard, "", 0), // of failed handshakes there is nothing to tell
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(&admitting{l, s}, "", "") }()
	select {
	case err := <-ended:
		if errors.Is(err, net.ErrClosed) && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("serve DNS over HTTPS on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpsStopTime)
	defer cancel()
	if server.Shutdown(stop) != nil {
		_ = server.Close()
	}
	<-ended
	return context.Cause(ctx)
}

// admitting is a listener that takes connections within the bounds of all streams.
type admitting struct {
	*net.TCPListener
	server *Server
}

// Accept implements net.Listener.
func (a *admitting) Accept() (net.Conn, error) {
	for {
		conn, err := a.AcceptTCP()
		if err != nil {
			return nil, err
		}
		if a.server.conns.admit(conn) {
			return &admitted{TCPConn: conn, server: a.server}, nil
		}
		a.server.refusedConns.Add(1)
		_ = conn.Close()
	}
}

// admitted gives its place back when it is closed.
type admitted struct {
	*net.TCPConn
	server *Server
	once   sync.Once
}

// Close implements net.Conn.
func (a *admitted) Close() error {
	a.once.Do(func() { a.server.conns.release(a.TCPConn) })
	return a.TCPConn.Close()
}

// httpsHandler answers DNS over HTTPS (RFC 8484).
type httpsHandler struct {
	server *Server
	free   sync.Pool // of *httpsQuery
}

// httpsQuery is the memory for a query and its answer.
type httpsQuery struct {
	responder
	message [maxQueryBytes + 1]byte
	answer  [tcpAnswerMemory]byte
}

// ServeHTTP implements http.Handler.
func (h *httpsHandler) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	q, _ := h.free.Get().(*httpsQuery)
	if q == nil {
		q = &httpsQuery{responder: responder{server: h.server, counts: h.server.shards[overHTTPS], patient: true}}
	}
	defer h.free.Put(q)
	message, status, wrong := q.read(req)
	if status != http.StatusOK {
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", "GET, POST")
		}
		http.Error(w, wrong, status)
		return
	}
	client, _ := netip.ParseAddrPort(req.RemoteAddr)
	q.query.by, q.query.client = overHTTPS, client.Addr().Unmap()
	q.peer = netip.AddrPortFrom(q.query.client, client.Port())
	if local, ok := req.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		q.local = portOf(local)
	}
	q.zones, q.now = h.server.opts.Zones(), uint32(time.Now().Unix())
	answer := q.respond(message, q.answer[:0])
	if answer == nil || len(answer) > dns.MaxMsgSize {
		http.Error(w, "got a message that is no query", http.StatusBadRequest)
		return
	}
	head := w.Header()
	head.Set("Content-Type", dnsMessage)
	head.Set("Content-Length", strconv.Itoa(len(answer)))
	if ttl, ok := freshness(answer); ok {
		head.Set("Cache-Control", "max-age="+strconv.FormatUint(uint64(ttl), 10))
	} else {
		head.Set("Cache-Control", "no-store")
	}
	_, _ = w.Write(answer)
}

// read returns the message of a request, or what is wrong with it.
func (q *httpsQuery) read(req *http.Request) (message []byte, status int, wrong string) {
	if req.URL.Path != Path {
		return nil, http.StatusNotFound, "nothing here; DNS is at " + Path
	}
	switch req.Method {
	case http.MethodGet:
		return q.readGet(req)
	case http.MethodPost:
		return q.readPost(req)
	}
	return nil, http.StatusMethodNotAllowed, fmt.Sprintf("got %q, want GET or POST", req.Method)
}

func (q *httpsQuery) readGet(req *http.Request) (message []byte, status int, wrong string) {
	text := req.URL.Query().Get("dns")
	switch {
	case text == "":
		return nil, http.StatusBadRequest, "got no ?dns=, want a message in base64url"
	case len(text) > base64.RawURLEncoding.EncodedLen(maxQueryBytes):
		return nil, http.StatusRequestURITooLong, fmt.Sprintf("got more than the %d bytes of a message", maxQueryBytes)
	}
	n, err := base64.RawURLEncoding.Decode(q.message[:], []byte(text))
	if err != nil {
		return nil, http.StatusBadRequest, "got a ?dns= that is not base64url without padding: " + err.Error()
	}
	return q.message[:n], http.StatusOK, ""
}

func (q *httpsQuery) readPost(req *http.Request) (message []byte, status int, wrong string) {
	if kind := req.Header.Get("Content-Type"); kind != dnsMessage {
		return nil, http.StatusUnsupportedMediaType, fmt.Sprintf("got content type %q, want %s", kind, dnsMessage)
	}
	n, err := io.ReadFull(req.Body, q.message[:])
	switch {
	case err == nil:
		return nil, http.StatusRequestEntityTooLarge, fmt.Sprintf("got more than %d bytes", maxQueryBytes)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return q.message[:n], http.StatusOK, ""
	}
	return nil, http.StatusBadRequest, "the message was not read: " + err.Error()
}

// freshness returns for how many seconds an answer may be kept (RFC 8484 §5.1): the smallest TTL of the answer's records, without
// any that of the authority's; ok is false for what is to be asked for anew.
func freshness(answer []byte) (ttl uint32, ok bool) {
	if rcode := answer[3] & 0xf; rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0, false
	}
	count := func(at int) int { return int(binary.BigEndian.Uint16(answer[at:])) }
	records := count(6)
	if records == 0 {
		records = count(8)
	}
	at := headerBytes
	if count(4) > 0 {
		at = afterName(answer, at) + 4
	}
	for range records {
		at = afterName(answer, at)
		if own := binary.BigEndian.Uint32(answer[at+4:]); !ok || own < ttl {
			ttl, ok = own, true
		}
		at += recordBytes - 2 + count(at+8)
	}
	return ttl, ok
}

// afterName returns where a name of an answer of ours ends.
func afterName(answer []byte, at int) int {
	for answer[at] != 0 {
		if answer[at] >= pointer>>8 {
			return at + 2
		}
		at += 1 + int(answer[at])
	}
	return at + 1
}
