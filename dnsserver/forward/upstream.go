package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/internal/dnsask"
)

// Upstream is a DNS server that is asked.
type Upstream struct {
	Addr    netip.AddrPort
	Timeout time.Duration // for it to answer
	// TLS is how it is verified, for DNS over TLS; nil: it is asked over UDP, and TCP where that is needed.
	TLS *tls.Config
}

const (
	udpBytes     = 1232
	udpAttempts  = 2   // within the time-out: a packet may be lost
	paddingBlock = 128 // RFC 8467 §4.1
)

// sent is what a query of ours is known by: its number and its name in wire form, with the case that it was sent in.
type sent struct {
	id   uint16
	name string
}

// upstream is one and how it does.
type upstream struct {
	Upstream
	trusted bool // what it says is not changed on its way, so its AD counts
	pool    pool
	log     *slog.Logger
	tap     dnsserver.Tap

	answers, failures atomic.Uint64
	health            health
	revived           *atomic.Int64 // the Forwarder's
}

func newUpstream(u Upstream, log *slog.Logger, tap dnsserver.Tap, revived *atomic.Int64) *upstream {
	return &upstream{Upstream: u, revived: revived, trusted: u.TLS != nil || u.Addr.Addr().IsLoopback(), log: log, tap: tap, pool: pool{addr: u.Addr.String(), config: u.TLS}}
}

// UpstreamStats are what is known of one.
type UpstreamStats struct {
	Addr              netip.AddrPort
	TLS               bool
	Answers, Failures uint64
	Error             string // why others are asked before it, "" while it answers
}

func (u *upstream) stats() UpstreamStats {
	return UpstreamStats{u.Addr, u.TLS != nil, u.answers.Load(), u.failures.Load(), u.health.why()}
}

func (u *upstream) close() { u.pool.close() }

// ask asks a question. Sending is called before each query is sent.
func (u *upstream) ask(ctx context.Context, k key, sending func(sent)) (*dns.Msg, error) {
	began := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, u.Timeout, fmt.Errorf("no answer within %v", u.Timeout))
	defer cancel()
	var m *dns.Msg
	var err error
	if u.TLS != nil {
		m, err = u.once(limited, k, sending, u.pool.exchange)
	} else {
		m, err = u.plain(limited, k, sending)
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return nil, context.Cause(ctx) // we end: that is not its fault
	}
	u.note(k.name, began, err)
	return m, err
}

// note remembers how it did, and tells when that changes.
func (u *upstream) note(name dnsserver.Name, asked time.Time, err error) {
	if err == nil {
		u.answers.Add(1)
		u.alive()
		return
	}
	u.failures.Add(1)
	var system syscall.Errno
	unreachable := errors.Is(err, errConnect) || u.TLS == nil && errors.As(err, &system) // whatever it was asked
	if u.health.silent(time.Now(), asked, name, err, unreachable) {
		u.log.Warn("an upstream of dns.forward does not answer", "upstream", u.Addr, "err", err)
	}
}

// alive notes that something came from it.
func (u *upstream) alive() {
	if now := time.Now(); u.health.heard(now) {
		u.revived.Store(now.UnixNano())
		u.log.Info("an upstream of dns.forward answers again", "upstream", u.Addr)
	}
}

// plain asks over UDP, and over TCP where an answer does not fit or somebody sends others.
func (u *upstream) plain(ctx context.Context, k key, sending func(sent)) (m *dns.Msg, err error) {
	send := func(network string) func(context.Context, *dns.Msg) (*dns.Msg, error) {
		return func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
			return dnsask.Send(ctx, network, u.Addr.String(), q, udpBytes)
		}
	}
	for range udpAttempts {
		attempt, cancel := context.WithTimeoutCause(ctx, u.Timeout/udpAttempts, errLost)
		m, err = u.once(attempt, k, sending, send("udp"))
		cancel()
		if !errors.Is(err, errLost) {
			break
		}
	}
	if err == nil && !m.Truncated {
		return m, nil
	}
	if err == nil {
		u.alive() // whatever comes of TCP
	}
	if err == nil || errors.Is(err, errCase) || errors.Is(err, dnsask.ErrFlooded) {
		return u.once(ctx, k, sending, send("tcp"))
	}
	return nil, err
}

var (
	errLost = errors.New("no answer over UDP")
	errCase = errors.New("the answer has the name in another case than the question")
)

// once sends a query and takes the answer to it.
func (u *upstream) once(ctx context.Context, k key, sending func(sent), exchange func(context.Context, *dns.Msg) (*dns.Msg, error)) (*dns.Msg, error) {
	try := func(change func(*dns.Msg)) (*dns.Msg, *dns.Msg, error) {
		q, id := u.query(k)
		change(q)
		sending(id)
		asked := time.Now()
		m, err := exchange(ctx, q)
		if u.tap != nil {
			u.show(q, m, asked)
		}
		return q, m, err
	}
	q, m, err := try(func(*dns.Msg) {})
	if err == nil && m.IsEdns0() == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		q, m, err = try(func(q *dns.Msg) { q.Extra = nil }) // it does not know EDNS (RFC 6891 §6.2.2)
	}
	switch {
	case err != nil:
		return nil, err
	case len(m.Question) != 1:
		return nil, fmt.Errorf("got %s without the question, want it repeated", dns.RcodeToString[m.Rcode])
	case m.Question[0].Name != q.Question[0].Name:
		return nil, errCase
	}
	settle(m, q.Question[0].Name)
	return m, nil
}

// settle gives names of an answer the case that they had before the question's was made up: those that the question was repeated in.
func settle(m *dns.Msg, asked string) {
	fix := func(names ...*string) {
		for _, name := range names {
			for _, at := range dns.Split(*name) {
				if end := (*name)[at:]; strings.HasSuffix("."+asked, "."+end) {
					*name = (*name)[:at] + strings.ToLower(end)
					break
				}
			}
		}
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			fix(&rr.Header().Name)
			switch rr := rr.(type) { // whose names may be written as pointers to the question (RFC 1035)
			case *dns.CNAME:
				fix(&rr.Target)
			case *dns.PTR:
				fix(&rr.Ptr)
			case *dns.MX:
				fix(&rr.Mx)
			case *dns.NS:
				fix(&rr.Ns)
			case *dns.SOA:
				fix(&rr.Ns, &rr.Mbox)
			case *dns.SRV:
				fix(&rr.Target)
			}
		}
	}
}

// written is a name as the message library writes it, which differs from ours in what it escapes.
func written(name dnsserver.Name) string {
	text, _, _ := dns.UnpackDomainName([]byte(name), 0)
	return text
}

// query makes one with a number and a case of letters that cannot be guessed. EDNS is our own: what the client said there, such as
// its address or a cookie, is between it and us.
func (u *upstream) query(k key) (*dns.Msg, sent) {
	wire := []byte(k.name)
	for i, c := range wire {
		if c >= 'a' && c <= 'z' && rand.Uint32()&1 == 0 { // lengths of labels are less
			wire[i] = c - 'a' + 'A'
		}
	}
	q := &dns.Msg{}
	q.Id, q.RecursionDesired, q.AuthenticatedData, q.CheckingDisabled = dns.Id(), true, true, k.unchecked
	q.Question = []dns.Question{{Name: written(dnsserver.Name(wire)), Qtype: k.qtype, Qclass: dns.ClassINET}}
	q.SetEdns0(udpBytes, k.dnssec)
	if u.TLS != nil {
		padding := &dns.EDNS0_PADDING{}
		q.IsEdns0().Option = append(q.IsEdns0().Option, padding)
		if over := q.Len() % paddingBlock; over > 0 {
			padding.Padding = make([]byte, paddingBlock-over)
		}
	}
	return q, sent{q.Id, string(wire)}
}

func (u *upstream) show(q, m *dns.Msg, asked time.Time) {
	x := dnsserver.Exchange{Answerer: u.Addr, Transport: "udp", Kind: dnsserver.FromUpstream, Asked: asked, Answered: time.Now()}
	if u.TLS != nil {
		x.Transport = "tls"
	}
	x.Query, _ = q.Pack()
	if m != nil {
		x.Answer, _ = m.Pack()
	}
	u.tap.Show(x)
}
