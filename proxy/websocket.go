package proxy

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it
	"encoding/base64"
	"encoding/binary"

	"github.com/hostmesh/hostmesh/proxy/message"
)

const (
	http2Protocol = "HTTP/2"
	acceptGUID    = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455 section 1.3
)

var (
	keyName    = []byte("sec-websocket-key")
	acceptName = []byte("sec-websocket-accept")
)

// convertUpgrade gives a WebSocket's request that came over HTTP/2 the key that HTTP/1 wants of it: over HTTP/2 there is none
// (RFC 8441 section 5.1).
func (x *exchange) convertUpgrade() {
	if x.method != message.MethodConnect || x.up.Protocol() == http2Protocol || !x.websocket() {
		return
	}
	for i := range x.edit.Set {
		if string(x.edit.Set[i].Name) == string(keyName) { // another try
			return
		}
	}
	var nonce [16]byte
	binary.LittleEndian.PutUint64(nonce[:8], x.w.source.Uint64())
	binary.LittleEndian.PutUint64(nonce[8:], x.w.source.Uint64())
	x.edit.Set = append(x.edit.Set, message.Set{Name: keyName, Value: base64.StdEncoding.AppendEncode(nil, nonce[:])})
}

// convertAccept makes of a host's consent over HTTP/2 the one that a client of HTTP/1 waits for.
func (x *exchange) convertAccept(h *message.Head, e *message.Edit) {
	if x.down.protocol() == http2Protocol || x.method == message.MethodConnect || h.Status == 101 {
		return
	}
	h.Status = 101
	h.Protocol = h.Put(string(x.req.Bytes(x.req.Protocol)))
	x.status = 101
	if key, next := x.req.Next("sec-websocket-key", 0); next >= 0 && x.websocket() {
		sum := sha1.Sum(append(append([]byte(nil), key...), acceptGUID...)) //nolint:gosec // see above
		e.Set = append(e.Set, message.Set{Name: acceptName, Value: base64.StdEncoding.AppendEncode(nil, sum[:])})
	}
}

func (x *exchange) websocket() bool {
	return message.EqualFold(x.req.Bytes(x.req.Protocol), "websocket")
}
