package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2Tunnel is a client with one stream of extended CONNECT (RFC 8441), made of frames so that it trusts no library with what is
// judged.
type h2Tunnel struct {
	conn   net.Conn
	framer *http2.Framer
	status chan string    // of the answer
	body   *io.PipeReader // what comes
	into   *io.PipeWriter

	mu        sync.Mutex // of writing frames, and of all below
	credit    *sync.Cond // windows have changed, or the connection has ended
	window    int64      // of the connection, guarded by mu
	stream    int64      // of the stream, guarded by mu
	initial   int64      // guarded by mu
	supported bool       // the server has said that it knows extended CONNECT, guarded by mu
	settled   chan struct{}
	err       error // guarded by mu
}

// wsOverHTTP2 opens a websocket by extended CONNECT in plaintext. A client has no key to send then, and the proxy makes one for a
// back end that it must upgrade. A stock Envoy does not and depends on a client that sends one all the same.
func wsOverHTTP2(t testing.TB, kind hopKind, addr string) io.ReadWriter {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	h := &h2Tunnel{conn: conn, framer: http2.NewFramer(conn, conn), status: make(chan string, 1), window: 65535, stream: 65535, initial: 65535, settled: make(chan struct{})}
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.credit = sync.NewCond(&h.mu)
	h.body, h.into = io.Pipe()
	_, _ = io.WriteString(conn, http2.ClientPreface)
	_ = h.framer.WriteSettings()
	go h.read()
	within(t, "the server's settings", h.settled)
	if !h.supported {
		t.Fatal("the server's settings have no SETTINGS_ENABLE_CONNECT_PROTOCOL")
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	fields := [][2]string{
		{":method", "CONNECT"},
		{":protocol", "websocket"},
		{":scheme", "http"},
		{":path", "/chat?room=1"},
		{":authority", "echo.example"},
		{"sec-websocket-version", "13"},
		{"sec-websocket-protocol", "chat"},
	}
	if kind == stockEnvoy {
		fields = append(fields, [2]string{"sec-websocket-key", wsKey})
	}
	for _, f := range fields {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	h.mu.Lock()
	err = h.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	h.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if status := within(t, "an answer to extended CONNECT", h.status); status != "200" {
		body, _ := io.ReadAll(io.LimitReader(h.body, 1000))
		t.Fatalf("status %s %q", status, body)
	}
	return h
}

// read takes the server's frames until the connection or the stream ends.
func (h *h2Tunnel) read() {
	err := func() error {
		for {
			frame, err := h.framer.ReadFrame()
			if err != nil {
				return err
			}
			if err := h.take(frame); err != nil {
				return err
			}
		}
	}()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // the stream has not ended
	}
	if errors.Is(err, errStreamEnded) {
		err = nil
	}
	_ = h.into.CloseWithError(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err = err; err == nil {
		h.err = io.ErrClosedPipe
	}
	h.credit.Broadcast()
}

var errStreamEnded = errors.New("the stream has ended")

func (h *h2Tunnel) take(frame http2.Frame) error {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		return h.settings(f)
	case *http2.WindowUpdateFrame:
		h.mu.Lock()
		defer h.mu.Unlock()
		if f.StreamID == 0 {
			h.window += int64(f.Increment)
		} else {
			h.stream += int64(f.Increment)
		}
		h.credit.Broadcast()
	case *http2.MetaHeadersFrame:
		h.status <- f.PseudoValue("status")
		if f.StreamEnded() {
			return errStreamEnded
		}
	case *http2.DataFrame:
		if _, err := h.into.Write(f.Data()); err != nil {
			return err
		}
		if f.StreamEnded() {
			return errStreamEnded
		}
		if n := f.Length; n > 0 {
			h.mu.Lock()
			defer h.mu.Unlock()
			_ = h.framer.WriteWindowUpdate(0, n)
			_ = h.framer.WriteWindowUpdate(1, n)
		}
	case *http2.PingFrame:
		h.mu.Lock()
		defer h.mu.Unlock()
		if !f.IsAck() {
			return h.framer.WritePing(true, f.Data)
		}
	case *http2.RSTStreamFrame:
		return fmt.Errorf("stream reset: %s", f.ErrCode)
	case *http2.GoAwayFrame:
		if f.ErrCode != http2.ErrCodeNo {
			return fmt.Errorf("connection ended: %s %q", f.ErrCode, f.DebugData())
		}
	}
	return nil
}

func (h *h2Tunnel) settings(f *http2.SettingsFrame) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.IsAck() {
		return nil
	}
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		h.stream += int64(v) - h.initial
		h.initial = int64(v)
	}
	if v, ok := f.Value(http2.SettingEnableConnectProtocol); ok && v == 1 {
		h.supported = true
	}
	select {
	case <-h.settled:
	default:
		close(h.settled)
	}
	h.credit.Broadcast()
	return h.framer.WriteSettingsAck()
}

// Read returns what comes in DATA frames; io.EOF when the server has ended the stream.
func (h *h2Tunnel) Read(p []byte) (int, error) { return h.body.Read(p) }

// Write sends DATA as far as the windows let it.
func (h *h2Tunnel) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for sent := 0; sent < len(p); {
		for h.err == nil && min(h.window, h.stream) <= 0 {
			h.credit.Wait()
		}
		if h.err != nil {
			return sent, h.err
		}
		n := min(int64(len(p)-sent), h.window, h.stream, 16384)
		if err := h.framer.WriteData(1, false, p[sent:sent+int(n)]); err != nil {
			return sent, err
		}
		sent += int(n)
		h.window -= n
		h.stream -= n
	}
	return len(p), nil
}
