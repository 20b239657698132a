package probe

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"
)

// maxBody is more than a probe's answer should have.
const maxBody = 16 << 20

// link is a connection to the proxy.
type link struct {
	net.Conn
	r    *bufio.Reader
	used bool
}

func (p *prober) dial() (*link, error) {
	c, err := net.DialTimeout("tcp", p.addr, p.Timeout)
	if err != nil {
		return nil, err
	}
	if p.secure {
		cfg := p.TLS.Clone()
		cfg.NextProtos = []string{"http/1.1"}
		t := tls.Client(c, cfg)
		_ = t.SetDeadline(time.Now().Add(p.Timeout))
		if err := t.Handshake(); err != nil {
			c.Close()
			return nil, err
		}
		c = t
	}
	return &link{Conn: c, r: bufio.NewReader(c)}, nil
}

// keep sends requests on one connection, and on another when the proxy has said that it closes this one.
func (p *prober) keep(jobs <-chan job) {
	var l *link
	defer func() {
		if l != nil {
			l.Close()
		}
	}()
	for j := range jobs {
		if l == nil {
			var err error
			if l, err = p.dial(); err != nil {
				p.failed("connect", err)
				continue
			}
		}
		more, err := p.exchange(l, false)
		switch {
		case err != nil && l.used:
			p.failed("kept connection", err)
		case err != nil:
			p.failed("new connection", err)
		default:
			p.answered(j)
		}
		l.used = true
		if err != nil || !more {
			l.Close()
			l = nil
		}
	}
}

// renew sends each request on a connection of its own.
func (p *prober) renew(jobs <-chan job) {
	for j := range jobs {
		l, err := p.dial()
		if err != nil {
			p.failed("connect", err)
			continue
		}
		if _, err = p.exchange(l, true); err != nil {
			p.failed("new connection", err)
		} else {
			p.answered(j)
		}
		l.Close()
	}
}

// exchange sends a request and reads all of its answer. more says that the connection can be used again.
func (p *prober) exchange(l *link, last bool) (more bool, err error) {
	_ = l.SetDeadline(time.Now().Add(p.Timeout))
	ending := ""
	if last {
		ending = "Connection: close\r\n"
	}
	if _, err := fmt.Fprintf(l, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: mesh-proxy-probe\r\n%s\r\n", p.target, p.Host, ending); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(l.r, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if err := whole(resp); err != nil {
		return false, err
	}
	return !resp.Close && !last, nil
}
