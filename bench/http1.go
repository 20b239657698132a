package main

import (
	"bytes"
	"fmt"
	"strconv"
)

const (
	authority   = "web.default.mesh.internal"
	requestPath = "/bench/path?x=1"
	requestText = "GET " + requestPath + " HTTP/1.1\r\nHost: " + authority + "\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n"
)

// http1 is HTTP/1.1 with answers of one size.
type http1 struct {
	size     int
	response []byte
}

func newHTTP1(size int) *http1 {
	head := "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n" +
		"Content-Type: application/octet-stream\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n"
	return &http1{size, append([]byte(head), bytes.Repeat([]byte("x"), size)...)}
}

func (h *http1) client() speaker  { return &http1Client{http1: h, remaining: -1} }
func (h *http1) backend() speaker { return &http1Backend{http1: h} }

// http1Client has one request outstanding. remaining counts the bytes of the body still to come, -1 while it waits for a head.
type http1Client struct {
	*http1
	partial   []byte // of a head
	remaining int
}

var wholeRequest = []byte(requestText)

func (c *http1Client) ask(l *load, e *end) error { return l.send(e, wholeRequest) }

func (c *http1Client) take(l *load, e *end, b []byte) error {
	if c.remaining < 0 {
		if len(c.partial) > 0 {
			b = append(c.partial, b...)
		}
		at := bytes.Index(b, endOfHead)
		if at < 0 {
			c.partial = append(c.partial[:0], b...)
			return nil
		}
		if err := c.check(b[:at+2]); err != nil {
			return err
		}
		c.partial = c.partial[:0]
		b = b[at+len(endOfHead):]
		c.remaining = c.size
	}
	if len(b) > c.remaining {
		return fmt.Errorf("proxy sent %d bytes more than the response has", len(b)-c.remaining)
	}
	if c.remaining -= len(b); c.remaining > 0 {
		return nil
	}
	c.remaining = -1
	l.answered(e)
	return l.next(e)
}

func (c *http1Client) check(head []byte) error {
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("proxy answered %q", head)
	}
	_, value, found := bytes.Cut(head, []byte("ontent-length: "))
	if !found {
		if _, value, found = bytes.Cut(head, []byte("ontent-Length: ")); !found {
			return fmt.Errorf("proxy answered without a length: %q", head)
		}
	}
	value, _, _ = bytes.Cut(value, []byte("\r"))
	if n, err := strconv.Atoi(string(value)); err != nil || n != c.size {
		return fmt.Errorf("proxy answered %q bytes, want %d", value, c.size)
	}
	return nil
}

type http1Backend struct {
	*http1
	checked bool   // the first request was looked at
	partial []byte // of a head
}

var endOfHead = []byte("\r\n\r\n")

func (s *http1Backend) take(l *load, e *end, b []byte) error {
	if len(s.partial) > 0 {
		b = append(s.partial, b...)
	}
	for {
		at := bytes.Index(b, endOfHead)
		if at < 0 {
			break
		}
		if !s.checked {
			if err := checkRequest(b[:at+2]); err != nil {
				return err
			}
			s.checked = true
		}
		b = b[at+len(endOfHead):]
		if err := l.send(e, s.response); err != nil {
			return err
		}
	}
	s.partial = append(s.partial[:0], b...)
	return nil
}

// checkRequest makes sure that a proxy does the work it is compared for. Whom x-forwarded-for names is not looked at: Envoy puts the host's
// address for a client on loopback.
func checkRequest(head []byte) error {
	folded := bytes.ToLower(head)
	for _, want := range []string{
		" " + requestPath + " http/1.1\r\n", "\r\nhost: " + authority + "\r\n", "\r\nx-request-id: ", "\r\nx-forwarded-for: ",
	} {
		if !bytes.Contains(folded, []byte(want)) {
			return fmt.Errorf("proxy sent no %q in %q", want, head)
		}
	}
	return nil
}
