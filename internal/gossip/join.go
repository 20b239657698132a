package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	joinAgain   = 250 * time.Millisecond
	joinAtMost  = 4 * time.Second  // between tries while a seed is away
	joinRefresh = 15 * time.Second // names of seeds may come to mean other addresses
	lookupLimit = 3 * time.Second
)

// keepJoined joins every seed that is not in the ring, at the start and whenever one is lost, until ctx ends. That heals
// a partition too: both halves forget each other after a while, but not their seeds.
func (n *Node) keepJoined(ctx context.Context, ring *memberlist.Memberlist) {
	if len(n.config.Join) == 0 {
		return
	}
	for failed := 0; ; {
		err := n.joinMissing(ctx, ring)
		wait := joinRefresh
		switch {
		case err == nil:
			failed = 0
		case errors.Is(err, errElsewhere):
			wait = backoff(failed, joinAgain, joinRefresh)
			failed++
			err = nil
		default:
			wait = backoff(failed, joinAgain, joinAtMost)
			failed++
		}
		n.joinedOrNot(ctx, err)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-n.ifCalm(err):
			timer.Stop()
		}
	}
}

// ifCalm returns the channel that tells of lost members, unless seeds are being tried anyway.
func (n *Node) ifCalm(err error) <-chan struct{} {
	if err != nil {
		return nil
	}
	return n.table.lost
}

func (n *Node) joinedOrNot(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	n.mu.Lock()
	news := problem != n.problem
	n.problem = problem
	n.mu.Unlock()
	switch {
	case !news:
	case problem != "":
		n.log.Warn("gossip: cannot join all seeds, trying on", "err", problem)
	default:
		n.log.Info("gossip: joined all seeds")
	}
}

// joinMissing joins the seeds that are not members, all at a time. A seed with several addresses needs one of them.
func (n *Node) joinMissing(ctx context.Context, ring *memberlist.Memberlist) error {
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(n.config.Join))
	)
	for i, seed := range n.config.Join {
		wg.Go(func() { errs[i] = n.joinSeed(ctx, ring, seed) })
	}
	wg.Wait()
	if err := oneLine(errs); err != nil {
		return err
	}
	if slices.Contains(errs, errElsewhere) {
		return errElsewhere
	}
	return nil
}

// errElsewhere means that a seed was joined and that no member has its address: it is just leaving, or it is a name for
// others. It is no problem, but worth another look before long.
var errElsewhere = errors.New("the seed is not a member itself")

func (n *Node) joinSeed(ctx context.Context, ring *memberlist.Memberlist, seed string) error {
	addrs, err := n.resolve(ctx, seed)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if addr == n.told || addr == n.udptcp.addr() || n.table.has(addr) {
			return nil
		}
	}
	for _, addr := range addrs {
		if _, err = ring.Join([]string{addr.String()}); err == nil {
			if n.table.has(addr) {
				return nil
			}
			return errElsewhere
		}
	}
	return fmt.Errorf("join %s: %s", seed, reason(err))
}

func (n *Node) resolve(ctx context.Context, seed string) ([]netip.AddrPort, error) {
	host, port, err := splitSeed(seed, n.told.Port())
	if err != nil {
		return nil, err
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), port)}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", seed, err)
	}
	addrs := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		addrs[i] = netip.AddrPortFrom(ip.Unmap(), port)
	}
	return addrs, nil
}

// reason makes one line of memberlist's list of errors, and says what to do about keys that do not fit.
func reason(err error) string {
	text := err.Error()
	if _, list, ok := strings.Cut(text, "* "); ok {
		text = strings.TrimSpace(list)
	}
	if i := strings.Index(text, ": "); i > 0 && strings.HasPrefix(text, "failed to join") {
		text = text[i+2:]
	}
	text, _, _ = strings.Cut(text, "\n")
	switch {
	case strings.Contains(text, "no installed keys could decrypt"):
		return "its key is another one, compare both sides' keyFile (" + text + ")"
	case strings.Contains(text, "encryption is not configured"):
		return "it encrypts and we have no keyFile (" + text + ")"
	case strings.Contains(text, "encryption is configured but"):
		return "we encrypt and it has no keyFile (" + text + ")"
	}
	return text
}

func oneLine(errs []error) error {
	var texts []string
	for _, err := range errs {
		if err != nil && !errors.Is(err, errElsewhere) {
			texts = append(texts, err.Error())
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return errors.New(strings.Join(texts, "; "))
}
