package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/internal/dnsask"
)

const (
	maxIdle  = 16
	idleTime = 8 * time.Second // less than servers wait, as a rule
)

// pool are connections to an upstream over TLS that are used again. One question is under way on each.
type pool struct {
	addr   string
	config *tls.Config

	mu     sync.Mutex
	idle   []idle // guarded by mu, the one last used last
	closed bool   // guarded by mu
}

type idle struct {
	conn  *dns.Conn
	since time.Time
}

var errConnect = errors.New("connect")

// exchange asks over a connection that is there, and over a new one if that has ended.
func (p *pool) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	if conn := p.take(); conn != nil {
		if m, err := p.use(ctx, conn, q); err == nil || ctx.Err() != nil {
			return m, err
		}
	}
	dialer := tls.Dialer{Config: p.config}
	conn, err := dialer.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConnect, because(ctx, err))
	}
	return p.use(ctx, &dns.Conn{Conn: conn}, q)
}

// use asks over a connection and keeps it, if it is still good.
func (p *pool) use(ctx context.Context, conn *dns.Conn, q *dns.Msg) (m *dns.Msg, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	if err = conn.WriteMsg(q); err == nil {
		m, err = conn.ReadMsg()
	}
	if err == nil && !dnsask.Answers(m, q) {
		err = errors.New("the answer is to another question")
	}
	if !stop() || err != nil { // its deadline may have been set
		_ = conn.Close()
	} else {
		p.give(conn)
	}
	if err != nil {
		return nil, because(ctx, err)
	}
	return m, nil
}

func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (p *pool) take() *dns.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := len(p.idle); n > 0; n-- {
		last := p.idle[n-1]
		p.idle = p.idle[:n-1]
		if time.Since(last.since) < idleTime {
			return last.conn
		}
		_ = last.conn.Close()
	}
	return nil
}

func (p *pool) give(conn *dns.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxIdle {
		_ = conn.Close()
		return
	}
	p.idle = append(p.idle, idle{conn, time.Now()})
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, i := range p.idle {
		_ = i.conn.Close()
	}
	p.idle = nil
}
