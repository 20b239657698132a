package probe

import (
	"context"
	"crypto/rand"
	"crypto/sha1" // RFC 6455 wants it
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// What RFC 6455 says of a handshake and of a short frame.
const (
	acceptSalt  = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	textFrame   = 0x81 // final, text
	closeFrame  = 0x88
	masked      = 0x80
	mostPayload = 125 // of a frame whose length is one byte
)

// webSocket holds a connection until ctx ends, and has a message sent back at each interval. One that ends before, or whose
// message does not come back as it was sent, is dropped.
func (p *prober) webSocket(ctx context.Context, delay time.Duration) {
	l, err := p.upgrade()
	if err != nil {
		p.failed("WebSocket handshake", err)
		return
	}
	defer l.Close()
	p.count(func(r *Result) { r.WebSockets++ })
	wait := time.NewTimer(delay)
	defer wait.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			_ = p.frame(l, closeFrame, nil)
			return
		case <-wait.C:
		}
		if err := p.echo(l, fmt.Sprintf("message %d", i)); err != nil {
			p.failed("WebSocket", err)
			return
		}
		p.count(func(r *Result) { r.Messages++ })
		wait.Reset(p.Interval)
	}
}

func (p *prober) upgrade() (*link, error) {
	l, err := p.dial()
	if err != nil {
		return nil, err
	}
	if err := p.handshake(l); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (p *prober) handshake(l *link) error {
	_ = l.SetDeadline(time.Now().Add(p.Timeout))
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	_, err := fmt.Fprintf(l, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", p.target, p.Host, key)
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(l.r, nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	sum := sha1.Sum([]byte(key + acceptSalt))
	if got, want := resp.Header.Get("Sec-WebSocket-Accept"), base64.StdEncoding.EncodeToString(sum[:]); got != want {
		return errors.New("the answer is another's")
	}
	return nil
}

// echo sends a text and waits until it is back.
func (p *prober) echo(l *link, text string) error {
	_ = l.SetDeadline(time.Now().Add(p.Timeout))
	if err := p.frame(l, textFrame, []byte(text)); err != nil {
		return err
	}
	var head [2]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return err
	}
	if head[0] != textFrame || int(head[1]) != len(text) {
		return errors.New("another frame came back")
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(l.r, back); err != nil {
		return err
	}
	if string(back) != text {
		return errors.New("another message came back")
	}
	return nil
}

// frame sends a frame with a short payload, masked as a client must.
func (p *prober) frame(l *link, kind byte, payload []byte) error {
	if len(payload) > mostPayload {
		return fmt.Errorf("send frame: got %d bytes, want at most %d", len(payload), mostPayload)
	}
	var mask [4]byte
	_, _ = rand.Read(mask[:])
	out := append([]byte{kind, masked | byte(len(payload))}, mask[:]...)
	for i, b := range payload {
		out = append(out, b^mask[i%4])
	}
	_, err := l.Write(out)
	return err
}
