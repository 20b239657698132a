package proxy

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// Hold stops all loops until release is called.
func (p *Proxy) Hold() (release func()) {
	released := make(chan struct{})
	for _, w := range p.workers {
		held := make(chan struct{})
		w.loop.Post(func() { close(held); <-released })
		<-held
	}
	return func() { close(released) }
}

// WarmFor has clusters wait so long for their first checks that come from now on.
func (p *Proxy) WarmFor(d time.Duration) {
	p.fleet.mu.Lock()
	defer p.fleet.mu.Unlock()
	p.fleet.warmingTime = d
}

// FlushFor has clients lose their connections that take nothing of their last response for so long, from now on.
func (p *Proxy) FlushFor(d time.Duration) {
	p.everywhere(func(w *worker) { w.flushLook = d / flushLooks })
}

// SendBuffer bounds what the kernel keeps for clients, of connections that come from now on.
func (p *Proxy) SendBuffer(bytes int) {
	p.everywhere(func(w *worker) {
		for _, a := range w.acceptors {
			_ = unix.SetsockoptInt(a.socket.FD(), unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
		}
	})
}

// SendBufferNow bounds what the kernel keeps for clients of HTTP that are connected.
func (p *Proxy) SendBufferNow(bytes int) {
	p.everywhere(func(w *worker) {
		for _, a := range w.acceptors {
			for _, b := range a.branches {
				for d := b.clients.next; d != &b.clients; d = d.next {
					_ = unix.SetsockoptInt(d.FD(), unix.SOL_SOCKET, unix.SO_SNDBUF, bytes)
				}
			}
		}
	})
}

func (p *Proxy) everywhere(f func(*worker)) {
	for _, w := range p.workers {
		_ = w.loop.Do(context.Background(), func() { f(w) })
	}
}

// Streams counts the streams that clients have on connections of HTTP/2.
func (p *Proxy) Streams() int {
	total := 0
	for _, w := range p.workers {
		_ = w.loop.Do(context.Background(), func() {
			for _, a := range w.acceptors {
				for _, b := range a.branches {
					for d := b.clients.next; d != &b.clients; d = d.next {
						if s, ok := d.owner.(*session); ok {
							total += s.mux.Active()
						}
					}
				}
			}
		})
	}
	return total
}

// Panic makes the first loop panic.
func (p *Proxy) Panic() { p.workers[0].loop.Post(func() { panic("a bug on a loop") }) }

// Dump says what every connection of every loop is doing; of a loop that does not answer, only that.
func (p *Proxy) Dump() string {
	var b strings.Builder
	for i, w := range p.workers {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		var part strings.Builder
		if err := w.loop.Do(ctx, func() { w.dump(&part) }); err != nil {
			fmt.Fprintf(&b, "loop %d does not answer: %v\n", i, err)
		} else {
			fmt.Fprintf(&b, "loop %d:\n%s", i, part.String())
		}
		cancel()
	}
	return b.String()
}

func (w *worker) dump(b *strings.Builder) {
	for addr, a := range w.acceptors {
		for _, branch := range a.branches {
			branch.dump(b, addr)
		}
	}
	for name, c := range w.clusters {
		fmt.Fprintf(b, "cluster %s: %+v\n", name, c.Gauges())
	}
}

func (a *branch) dump(b *strings.Builder, addr config.Address) {
	for d := a.clients.next; d != &a.clients; d = d.next {
		c, ok := d.owner.(*client)
		if !ok {
			fmt.Fprintf(b, "%s<-%s HTTP/2\n", addr, d.peer)
			continue
		}
		fmt.Fprintf(b, "%s<-%s phase %d readable %v quiet %v hup %v stuck %v closing %v in %d out %d timer %v\n", addr, c.peer, c.phase,
			c.readable, c.Quiet(), c.hup, c.stuck, c.closing, len(c.in), len(c.out)-c.outAt, c.timer.Running())
		if x := c.x; x != nil {
			fmt.Fprintf(b, "  exchange: whole %v ended %v buf %d held %v headDone %v backoff %v attempts %d", x.whole, x.ended, len(x.buf), x.held, x.headDone, x.backoff, x.attempts)
			if x.up != nil {
				fmt.Fprintf(b, " up quiet %v", x.up.Connection().Quiet())
			}
			b.WriteByte('\n')
		}
	}
}
