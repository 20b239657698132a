package xds

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// maxRequests is how many requests of one stream are taken in a second. One that sends more is read more slowly.
const maxRequests = 1000

// pace slows down who asks too much. The zero pace is ready to use.
type pace struct {
	since time.Time
	taken int
}

// wait returns when the next request may be taken, or with the error of ctx.
func (p *pace) wait(ctx context.Context) error {
	if now := time.Now(); now.Sub(p.since) >= time.Second {
		p.since, p.taken = now, 0
	}
	if p.taken++; p.taken <= maxRequests {
		return nil
	}
	rest := time.NewTimer(time.Until(p.since.Add(time.Second)))
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-rest.C:
		p.since, p.taken = time.Now(), 1
		return nil
	}
}

// stream is a session with its connection. It has one goroutine, which receives; a second lives only while there is
// something to send, so that a client that waits is cheap.
type stream struct {
	session *session
	ctx     context.Context // the stream's own, as gRPC has it
	grpc    grpc.ServerStream
	address string
	since   time.Time
	log     *slog.Logger

	mu      sync.Mutex
	sending bool // guarded by mu: a goroutine is in flush
	again   bool // guarded by mu: kicked since flush began its round
}

func (s *Server) newStream(g grpc.ServerStream, delta bool) *stream {
	st := &stream{ctx: g.Context(), grpc: g, since: time.Now(), log: s.log}
	if p, ok := peer.FromContext(st.ctx); ok && p.Addr != nil {
		st.address = p.Addr.String()
	}
	st.session = newSession(s.fleet, delta, st.kick)
	return st
}

func (st *stream) status() (ClientStatus, bool) {
	c, ok := st.session.status()
	c.Address, c.Connected = st.address, st.since
	return c, ok
}

// kick makes sure that what is owed is being sent. It does not block.
func (st *stream) kick() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.again = true
	if !st.sending {
		st.sending = true
		go st.flush()
	}
}

// flush sends what is owed. It ends with the stream at the latest: a send that blocks is ended by gRPC then.
func (st *stream) flush() {
	for st.round() {
		for f := st.session.next(); f != nil; f = st.session.next() {
			if err := st.grpc.SendMsg(f); err != nil {
				if st.ctx.Err() == nil {
					st.log.Error("xds response not sent", "peer", st.address, "error", err)
				}
				return // the stream is over, which the receiving side tells; nothing is sent any more
			}
		}
	}
}

// round reports whether there is a reason to look again for what is owed.
func (st *stream) round() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sending, st.again = st.again, false
	return st.sending
}
