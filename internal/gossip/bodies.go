package gossip

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

const (
	askAtOnce = 16 // requests for bodies under way
	askAgain  = 300 * time.Millisecond
	askAtMost = 10 * time.Second
	sendLimit = 4 // bodies being sent
)

// backoff returns base·2^n, at most limit, between three and five quarters of it at random.
func backoff(n int, base, limit time.Duration) time.Duration {
	d := limit
	if n < 16 && base<<n < limit {
		d = base << n
	}
	return d*3/4 + rand.N(d/2)
}

// receive takes a message. It is called on the goroutine that reads the stream or the packets and never blocks.
func (n *Node) receive(b []byte) {
	m, err := decodeMessage(b)
	if err != nil {
		n.log.Debug("gossip: drop message", "err", err)
		return
	}
	if n.role == Control {
		switch m.Kind {
		case kindBody:
			n.receiveBody(m)
		case kindHint:
			n.table.hinted(m.Meta, time.Now())
		}
		return
	}
	if m.Kind == kindWant {
		select {
		case n.wanted <- asker{name: m.From, digest: m.Digest}:
		default: // it asks again
		}
	}
}

func (n *Node) receiveBody(m message) {
	hosts := n.table.asking(m.Digest)
	if len(hosts) == 0 {
		n.log.Debug("gossip: drop a body that was not asked for")
		return
	}
	if sha256.Sum256(m.Rest) != m.Digest {
		n.log.Warn("gossip: refuse announcement", "hosts", hosts[:min(len(hosts), 3)], "err", errors.New("its digest does not match"))
		return
	}
	body, err := decodeAnnouncement(m.Rest, hosts...)
	if err != nil {
		n.log.Warn("gossip: refuse announcement", "hosts", hosts[:min(len(hosts), 3)], "err", err)
		return
	}
	n.table.obtained(body.Host, m.Digest, body)
}

// fetch asks for bodies that we lack until ctx ends.
func (n *Node) fetch(ctx context.Context, ring *memberlist.Memberlist) {
	var asking errgroup.Group
	asking.SetLimit(askAtOnce)
	defer func() { _ = asking.Wait() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.table.fetch:
		case <-timer.C:
		}
		now := time.Now()
		wants, next := n.table.due(now, askAtOnce, func(n int) time.Duration { return backoff(n, askAgain, askAtMost) })
		for _, w := range wants {
			asking.Go(func() error {
				if err := ring.SendReliable(&w.to, wantMessage(w.digest, n.name)); err != nil && ctx.Err() == nil {
					n.log.Debug("gossip: ask for announcement", "node", w.to.Name, "err", err)
				}
				return nil
			})
		}
		if next.IsZero() {
			timer.Stop()
			continue
		}
		timer.Reset(max(next.Sub(now), time.Millisecond))
	}
}

// reply sends our body to the control nodes that ask for it until ctx ends.
func (n *Node) reply(ctx context.Context, ring *memberlist.Memberlist) {
	var sending errgroup.Group
	sending.SetLimit(sendLimit)
	defer func() { _ = sending.Wait() }()
	for {
		var a asker
		select {
		case <-ctx.Done():
			return
		case a = <-n.wanted:
		}
		to, ok := n.table.live()[a.name]
		n.mu.Lock()
		body, d := n.body, n.self.Digest
		n.mu.Unlock()
		if !ok || d != a.digest { // not known to be a control node yet, or it will ask for the newer one
			continue
		}
		sending.Go(func() error {
			if err := ring.SendReliable(&to, bodyMessage(d, body)); err != nil && ctx.Err() == nil {
				n.log.Debug("gossip: send announcement", "node", to.Name, "err", err)
			}
			return nil
		})
	}
}
