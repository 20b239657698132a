package e2e

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// wsFrame is a frame of RFC 6455 from a client: masked.
func wsFrame(final bool, opcode byte, payload []byte) []byte {
	return wsAppend(nil, final, opcode, payload, []byte{0x12, 0xfe, 0x00, byte(len(payload))})
}

// wsAppend appends a frame; one without a mask is a server's.
func wsAppend(b []byte, final bool, opcode byte, payload, mask []byte) []byte {
	if final {
		opcode |= 0x80
	}
	masked := byte(0)
	if mask != nil {
		masked = 0x80
	}
	b = append(b, opcode)
	switch n := len(payload); {
	case n < 126:
		b = append(b, masked|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), uint64(n))
	}
	b = append(b, mask...)
	at := len(b)
	b = append(b, payload...)
	for i := range payload {
		if mask != nil {
			b[at+i] ^= mask[i%4]
		}
	}
	return b
}

// wsRead reads a client's frame.
func wsRead(r *bufio.Reader) (final bool, opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return false, 0, nil, err
	}
	n := uint64(head[1] & 0x7f)
	if more := map[uint64]int{126: 2, 127: 8}[n]; more > 0 {
		var wide [8]byte
		if _, err := io.ReadFull(r, wide[8-more:]); err != nil {
			return false, 0, nil, err
		}
		n = binary.BigEndian.Uint64(wide[:])
	}
	if head[1]&0x80 == 0 || head[0]&0x70 != 0 || n > 16<<20 {
		return false, 0, nil, fmt.Errorf("frame % x of %d bytes is no client's", head, n)
	}
	body := make([]byte, 4+n)
	if _, err := io.ReadFull(r, body); err != nil {
		return false, 0, nil, err
	}
	mask, payload := body[:4], body[4:]
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0]&0x80 != 0, head[0] & 0x0f, payload, nil
}

// wsEcho is a server of RFC 6455 that sends every frame back as it came, answers pings and closes when it is asked to. It is as
// strict about the opening handshake as the standard.
func wsEcho(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				r := bufio.NewReader(conn)
				if err := wsAccept(conn, r); err != nil {
					fmt.Fprintf(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s", len(err.Error()), err)
					return
				}
				wsServe(conn, r)
			}()
		}
	}()
	return l.Addr().String()
}

func wsAccept(w io.Writer, r *bufio.Reader) error {
	req, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	key := req.Header.Get("Sec-WebSocket-Key")
	nonce, err := base64.StdEncoding.DecodeString(key)
	switch {
	case err != nil || len(nonce) != 16:
		return fmt.Errorf("key %q is not of 16 bytes", key)
	case req.Method != http.MethodGet || req.Header.Get("Sec-WebSocket-Version") != "13":
		return errors.New("method or version is wrong")
	case !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") || !strings.Contains(strings.ToLower(req.Header.Get("Connection")), "upgrade"):
		return fmt.Errorf("no upgrade to websocket in %q", req.Header)
	}
	_, err = fmt.Fprintf(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
		wsAcceptKey(key), req.Header.Get("Sec-WebSocket-Protocol"))
	return err
}

func wsAcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func wsServe(w io.Writer, r *bufio.Reader) {
	for {
		final, opcode, payload, err := wsRead(r)
		if err != nil {
			return
		}
		if opcode == 0x9 {
			opcode = 0xa
		}
		if _, err := w.Write(wsAppend(nil, final, opcode, payload, nil)); err != nil || opcode == 0x8 {
			return
		}
	}
}

// wsTalk is what a client sends after the handshake, in pieces, and how many bytes each is answered with.
func wsTalk() (pieces [][]byte) {
	for _, n := range []int{0, 1, 125, 126, 127, 4096, 65535, 65536, 1 << 20} {
		body := make([]byte, n)
		for i := range body {
			body[i] = byte(i*7 + n)
		}
		pieces = append(pieces, wsFrame(true, 0x2, body))
	}
	return append(pieces,
		wsFrame(true, 0x1, []byte("Grüße")),
		wsFrame(true, 0x9, []byte("ping")),
		wsFrame(false, 0x1, []byte("in ")), wsFrame(true, 0x9, nil), wsFrame(false, 0x0, []byte("three ")), wsFrame(true, 0x0, []byte("parts")),
		wsFrame(true, 0x2, []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")),
		wsFrame(true, 0x8, append([]byte{0x03, 0xe8}, "bye"...)))
}

const wsKey = "dGhlIHNhbXBsZSBub25jZQ=="

// wsOverHTTP1 opens a websocket by an upgrade.
func wsOverHTTP1(t testing.TB, _ hopKind, addr string) io.ReadWriter {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(conn, "GET /chat?room=1 HTTP/1.1\r\nHost: echo.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\r\n", wsKey)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != wsAcceptKey(wsKey) ||
		resp.Header.Get("Sec-WebSocket-Protocol") != "chat" || !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	return struct {
		io.Reader
		io.Writer
	}{r, conn}
}

// wsSpeak says everything on a websocket, at once or each piece when the one before is answered, and returns all that comes back
// until the other end closes, which it has to do in good order if that is wanted.
func wsSpeak(t testing.TB, ws io.ReadWriter, atOnce, orderly bool) []byte {
	t.Helper()
	pieces := wsTalk()
	var got bytes.Buffer
	if atOnce {
		sent := make(chan error, 1)
		go func() { _, err := ws.Write(bytes.Join(pieces, nil)); sent <- err }()
		if _, err := io.Copy(&got, ws); err != nil {
			t.Errorf("after %d bytes: %v", got.Len(), err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		return got.Bytes()
	}
	for i, piece := range pieces {
		if _, err := ws.Write(piece); err != nil {
			t.Fatalf("piece %d: %v", i, err)
		}
		if _, err := io.CopyN(&got, ws, int64(len(piece)-4)); err != nil { // the answer has no mask
			t.Fatalf("piece %d: %v", i, err)
		}
	}
	if rest, err := io.ReadAll(ws); orderly && err != nil || len(rest) > 0 {
		t.Errorf("%d bytes and %v after the close", len(rest), err)
	}
	return got.Bytes()
}

// wsWay is how a client reaches the echo server over hops.
type wsWay struct {
	name string
	open func(t testing.TB, kind hopKind, addr string) io.ReadWriter
	make func(t testing.TB, kind hopKind, echo string) (addr string)
}

func overHTTP1(t testing.TB, kind hopKind, echo string) string {
	return startHop(t, kind, hopSpec{to: []string{echo}, hcm: extendedConnect, route: noTimeout}).addr
}

func overHTTP2(t testing.TB, kind hopKind, echo string) string {
	return startHop(t, kind, hopSpec{to: []string{overHTTP1(t, kind, echo)}, http2: true, hcm: extendedConnect, route: noTimeout}).addr
}

func overMTLS(t testing.TB, kind hopKind, echo string) string {
	certs := testbed.NewCerts(t)
	second := startHop(t, kind, hopSpec{to: []string{echo}, tls: &certs, demand: true, hcm: extendedConnect, route: noTimeout})
	return startHop(t, kind, hopSpec{to: []string{second.addr}, http2: true, toTLS: &certs, hcm: extendedConnect, route: noTimeout}).addr
}

// judgeWebSocket: through hops a websocket's bytes are those that the server sends without them.
func judgeWebSocket(t *testing.T, kind hopKind, ways ...wsWay) {
	echo := wsEcho(t)
	want := wsSpeak(t, wsOverHTTP1(t, kind, echo), true, true)
	if len(want) < 1<<20 {
		t.Fatalf("directly only %d bytes came back", len(want))
	}
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			addr := w.make(t, kind, echo)
			// A stock Envoy resets the stream when the server has closed (RFC 8441 section 5 wants END_STREAM) and loses what is under way.
			orderly, modes := kind == meshProxy, []bool{false}
			if orderly {
				modes = append(modes, true)
			}
			for _, atOnce := range modes {
				if got := wsSpeak(t, w.open(t, kind, addr), atOnce, orderly); !bytes.Equal(got, want) {
					t.Errorf("at once %v: %d bytes came back, directly %d; they differ", atOnce, len(got), len(want))
				}
			}
		})
	}
}

func wsByHTTP1() wsWay {
	return wsWay{"h1 to h1", wsOverHTTP1, func(t testing.TB, kind hopKind, echo string) string {
		return startHop(t, kind, hopSpec{to: []string{echo}, route: noTimeout}).addr
	}}
}

// wsByHTTP2 are the pairings with HTTP/2 (RFC 8441).
func wsByHTTP2() []wsWay {
	return []wsWay{
		{"h2 to h1", wsOverHTTP2, overHTTP1},
		{"h2 to h2", wsOverHTTP2, overHTTP2},
		{"h1 to h2", wsOverHTTP1, overHTTP2},
		{"h2 to mTLS to h1", wsOverHTTP2, overMTLS},
	}
}
