package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

// Secondary is a server that copies the zones.
type Secondary struct {
	Addr netip.AddrPort
	Key  *tsig.Key  // that NOTIFY is signed with; nil: it is not signed
	From netip.Addr // the address that NOTIFY comes from; invalid: the one that the system chooses
}

const (
	notifyTimeout  = 2 * time.Second
	notifyRetryMin = 500 * time.Millisecond
	notifyRetryMax = 10 * time.Second
	// notifyPause is how long a secondary has peace after it has been told: what changes meanwhile it is told together.
	notifyPause = 100 * time.Millisecond
)

// secondary is one and what is known of it.
type secondary struct {
	Secondary
	log  *slog.Logger
	busy chan struct{} // holds one while it is being told something

	mu    sync.Mutex
	zones map[dnsserver.Name]*told // guarded by mu
}

// told is what a secondary knows of a zone.
type told struct {
	notified uint32
	serial   uint32 // of the last copy
	copied   time.Time
	failures uint64
	err      error // of the last attempt to tell it
}

// Status is what a secondary knows of a zone.
type Status struct {
	Zone      string         `json:"zone"` // with the last dot
	Secondary netip.AddrPort `json:"secondary"`
	Key       string         `json:"key,omitempty"`
	Serial    uint32         `json:"serial,omitempty"`   // of the last copy that its address got; 0: none since mesh control has started
	Copied    time.Time      `json:"copied,omitzero"`    // when
	Notified  uint32         `json:"notified,omitempty"` // the serial that it has confirmed to have been told
	Failures  uint64         `json:"failures"`           // how often it could not be told
	Error     string         `json:"error,omitempty"`    // of the last attempt
}

// Status returns what secondaries know, of each zone that there is, in no order.
func (p *Primary) Status() (all []Status) {
	for _, s := range p.secondaries {
		s.mu.Lock()
		for zone, t := range s.zones {
			status := Status{Zone: zone.String(), Secondary: s.Addr, Serial: t.serial, Copied: t.copied, Notified: t.notified, Failures: t.failures}
			if s.Key != nil {
				status.Key = s.Key.Name()
			}
			if t.err != nil {
				status.Error = t.err.Error()
			}
			all = append(all, status)
		}
		s.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b Status) int {
		if a.Zone != b.Zone {
			return len(a.Zone) - len(b.Zone)
		}
		return a.Secondary.Compare(b.Secondary)
	})
	return all
}

// knows changes what is known of a zone.
func (s *secondary) knows(zone dnsserver.Name, change func(*told)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.zones[zone]
	if t == nil {
		t = &told{}
		s.zones[zone] = t
	}
	change(t)
}

func (s *secondary) copied(zone dnsserver.Name, serial uint32, at time.Time) {
	s.knows(zone, func(t *told) { t.serial, t.copied = serial, at })
}

// run tells the secondary of each copy of a zone, or of the latest when it is slow, until it confirms that.
func (s *secondary) run(ctx context.Context, c *copies) error {
	s.knows(c.origin, func(*told) {})
	var last *image
	for retry := notifyRetryMin; ; {
		current, changed := c.state.Get()
		wait := time.Duration(0) // for ever
		if current.image != nil && current.image != last {
			err := s.notify(ctx, current.image.soa)
			s.took(c.origin, serial(current.image.soa), err)
			if err == nil {
				last, retry, wait = current.image, notifyRetryMin, notifyPause
			} else {
				wait, retry = retry, min(2*retry, notifyRetryMax)
			}
		}
		if wait > 0 {
			changed = nil // it is looked at after the pause
		}
		pause := time.NewTimer(wait)
		if wait == 0 {
			pause.Stop()
		}
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-changed:
			pause.Stop()
		case <-pause.C:
		}
	}
}

// took notes how telling it went. It is logged when that changes.
func (s *secondary) took(zone dnsserver.Name, serial uint32, err error) {
	s.knows(zone, func(t *told) {
		first := t.notified == 0
		switch {
		case errors.Is(err, context.Canceled):
			return
		case err != nil:
			t.failures++
			if t.err == nil {
				s.log.Warn("secondary cannot be told of changes, it is tried again", "secondary", s.Addr, "zone", zone.String(), "serial", serial, "error", err)
			}
		case t.err != nil || first:
			s.log.Info("secondary is told of changes", "secondary", s.Addr, "zone", zone.String(), "serial", serial)
		}
		if t.err = err; err == nil {
			t.notified = serial
		}
	})
}

// notify sends one NOTIFY and waits for its answer. One is under way at a time.
func (s *secondary) notify(ctx context.Context, soa dnsserver.Record) error {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	query, id, err := notification(soa)
	if err != nil {
		return fmt.Errorf("notify %s: %w", s.Addr, err)
	}
	var session *tsig.Session
	if s.Key != nil {
		query, session = tsig.Sign(s.Key, query, time.Now())
	}
	if err := s.exchange(ctx, query, id, session); err != nil {
		return fmt.Errorf("notify %s: %w", s.Addr, err)
	}
	return nil
}

// notification is the message, with the SOA as a hint (RFC 1996 §3.7).
func notification(soa dnsserver.Record) (query []byte, id uint16, err error) {
	m := new(dns.Msg).SetNotify(soa.Owner.String())
	packed := append([]byte(soa.Owner), 0, byte(soa.Type), 0, dns.ClassINET, byte(soa.TTL>>24), byte(soa.TTL>>16), byte(soa.TTL>>8), byte(soa.TTL), byte(len(soa.Data)>>8), byte(len(soa.Data)))
	rr, _, err := dns.UnpackRR(append(packed, soa.Data...), 0)
	if err != nil {
		return nil, 0, err
	}
	m.Answer = []dns.RR{rr}
	query, err = m.Pack()
	return query, m.Id, err
}

// exchange sends a query over UDP and waits for the answer that belongs to it.
func (s *secondary) exchange(ctx context.Context, query []byte, id uint16, session *tsig.Session) error {
	dialer := net.Dialer{}
	if s.From.IsValid() {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.From, 0))
	}
	conn, err := dialer.DialContext(ctx, "udp", s.Addr.String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(notifyTimeout))
	if _, err := conn.Write(query); err != nil {
		return err
	}
	for buf := make([]byte, dns.MaxMsgSize); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return errors.Join(ctx.Err(), err)
		}
		var m dns.Msg
		if m.Unpack(buf[:n]) != nil || m.Id != id || !m.Response || m.Opcode != dns.OpcodeNotify {
			continue
		}
		if m.Rcode != dns.RcodeSuccess {
			return fmt.Errorf("it answered %s: it takes no notifications for the zone from here, or not with this key", dns.RcodeToString[m.Rcode])
		}
		if session != nil {
			return session.VerifyAnswer(buf[:n], time.Now())
		}
		return nil
	}
}
