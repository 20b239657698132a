package dns

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/internal/dnsask"
	"github.com/hostmesh/hostmesh/registry"
)

const (
	rounds  = 2    // how often each resolver is asked when none answers: a datagram may be lost
	maxUDP  = 1232 // bytes: no fragment on any common path (DNS flag day 2020)
	maxHops = 8    // CNAMEs that lead to one name
	maxTCP  = 8    // connections at a time: BIND's backlog holds ten, and drops what is beyond
)

// resolver asks the resolvers of the configuration. It is safe for concurrent use.
type resolver struct {
	servers *servers
	timeout time.Duration // of one exchange
	tcp     chan struct{} // holds an element for each connection
	first   atomic.Uint32 // the index of the one that answered last: who is away is not waited for by each question
}

func newResolver(s *servers, timeout time.Duration) *resolver {
	return &resolver{servers: s, timeout: timeout, tcp: make(chan struct{}, maxTCP)}
}

// records returns the records of that type at name, and what the answer adds about other names. There being none is an
// answer. CNAMEs are followed, also where the resolver does not.
func (r *resolver) records(ctx context.Context, name string, qtype uint16) (records, error) {
	all := records{ttl: maxTTLSeconds}
	for range maxHops {
		m, err := r.query(ctx, name, qtype)
		if err != nil {
			return records{}, err
		}
		part, err := read(m, name, qtype)
		if err != nil {
			return records{}, fmt.Errorf("%s %s: %w", dns.TypeToString[qtype], name, err)
		}
		all.ttl = min(all.ttl, part.ttl)
		if part.next == "" {
			part.ttl = all.ttl
			return part, nil
		}
		name = part.next
	}
	return records{}, fmt.Errorf("%s %s: more than %d aliases lead there", dns.TypeToString[qtype], name, maxHops)
}

// query asks each resolver until one answers.
func (r *resolver) query(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	servers := r.servers.now()
	said := make([]error, len(servers)) // by each server, the last time
	for range rounds {
		silent := false
		first := r.first.Load()
		for i := range servers {
			at := (int(first) + i) % len(servers)
			m, err := r.exchange(ctx, servers[at], name, qtype)
			if err == nil {
				r.first.Store(uint32(at))
				return m, nil
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			said[at] = fmt.Errorf("%s: %w", servers[at], err)
			silent = silent || !errors.As(err, new(refusal))
		}
		if !silent {
			break // all of them spoke
		}
	}
	return nil, fmt.Errorf("%s %s: %w", dns.TypeToString[qtype], name, together(said))
}

// refusal is an answer that is none: the code with which a server says that it cannot or will not tell.
type refusal int

// Error returns the code's name.
func (r refusal) Error() string {
	if text, ok := dns.RcodeToString[int(r)]; ok {
		return text
	}
	return fmt.Sprintf("RCODE %d", int(r))
}

// together makes one error of what each resolver said. It is about permission when all of them refused.
func together(said []error) error {
	refused := true
	for _, err := range said {
		var code refusal
		refused = refused && errors.As(err, &code) && int(code) == dns.RcodeRefused
	}
	err := errors.Join(said...)
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if refused {
		return fmt.Errorf("%w: %s (ask a resolver that serves this host, or have it allow the query)", registry.ErrPermission, text)
	}
	return errors.New(text)
}

// exchange asks one server: by UDP, and by TCP when the answer does not fit.
func (r *resolver) exchange(ctx context.Context, s server, name string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(maxUDP, false)
	m, err := r.send(ctx, s, q)
	if err == nil && m.Rcode == dns.RcodeFormatError {
		q.Extra = nil // it is older than EDNS (RFC 6891 §7)
		m, err = r.send(ctx, s, q)
	}
	if err == nil && m.Truncated && s.network == "udp" {
		m, err = r.send(ctx, server{network: "tcp", address: s.address}, q)
	}
	switch {
	case err != nil:
		return nil, err
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return nil, refusal(m.Rcode)
	case m.Truncated:
		return nil, errors.New("the answer is truncated by TCP too")
	}
	return m, nil
}

// send asks once, from a socket (and so a port) of its own, and returns the answer to that very question.
func (r *resolver) send(ctx context.Context, s server, q *dns.Msg) (*dns.Msg, error) {
	if s.network == "tcp" {
		select {
		case r.tcp <- struct{}{}:
			defer func() { <-r.tcp }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("no answer within %s", r.timeout))
	defer cancel()
	return dnsask.Send(ctx, s.network, s.address, q, maxUDP)
}
