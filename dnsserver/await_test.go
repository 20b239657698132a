package dnsserver_test

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// waiting is a zone whose names come when they are asked for.
type waiting struct {
	origin dnsserver.Name
	zone   atomic.Pointer[dnsserver.Zone]
	ready  chan struct{} // what is not "slow" comes at once
	asked  atomic.Int64
}

func (w *waiting) hold(names ...string) {
	branches := map[string]*dnsserver.Branch{}
	for _, name := range names {
		sets := dnsserver.Addresses(30, []netip.Addr{netip.MustParseAddr("127.64.1.1")}, nil)
		branches[name] = dnsserver.NewBranch(w.origin, 0, map[string][]dnsserver.Set{name: sets})
	}
	w.zone.Store(dnsserver.NewZone(dnsserver.Apex{Origin: "mesh.test", NameServers: []dnsserver.NameServer{{Name: "ns.mesh.test"}}, TTL: 30, NegativeTTL: 1}, branches))
}

func (w *waiting) await(ctx context.Context, name string) error {
	w.asked.Add(1)
	switch name {
	case "slow.mesh.test.":
		select {
		case <-w.ready:
			w.hold("slow")
		case <-ctx.Done():
			return &dnsserver.Failure{Code: dns.ExtendedErrorCodeNotReady, Text: "nobody told"}
		}
	case "broken.mesh.test.":
		return errors.New("it is broken")
	}
	return nil
}

func TestAwait(t *testing.T) {
	origin, err := dnsserver.ParseName("mesh.test")
	if err != nil {
		t.Fatal(err)
	}
	w := &waiting{origin: origin, ready: make(chan struct{})}
	w.hold("web")
	s := dnsserver.New(dnsserver.Options{
		Addrs: []string{"127.0.0.1:0", "[::1]:0", ":0"}, Log: slog.New(slog.DiscardHandler), Await: w.await,
		Zones: func() []*dnsserver.Zone { return []*dnsserver.Zone{w.zone.Load()} },
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()

	addrs := s.Addrs()
	addrs[2] = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), addrs[2].Port()) // the answer comes from there
	for _, at := range addrs[:3] {
		for _, network := range []string{"udp", "tcp"} {
			for _, c := range []struct {
				name  string
				rcode int
				n     int
				why   string
			}{
				{"web.mesh.test.", dns.RcodeSuccess, 1, ""},
				{"WEB.mesh.test.", dns.RcodeSuccess, 1, ""},
				{"other.mesh.test.", dns.RcodeNameError, 0, ""},
				{"broken.mesh.test.", dns.RcodeServerFailure, 0, "it is broken"},
				{"elsewhere.test.", dns.RcodeRefused, 0, ""},
			} {
				m := inquire(t, network, at, c.name)
				if m.Rcode != c.rcode || len(m.Answer) != c.n || c.why != "" && explained(m) != c.why {
					t.Errorf("%s over %s: %v, want %s, %d records and %q", c.name, network, m, dns.RcodeToString[c.rcode], c.n, c.why)
				}
			}
		}
	}
	if n := w.asked.Load(); n != 12 {
		t.Errorf("asked %d times, want only for what is not there", n)
	}
	if m := inquire(t, "udp", addrs[0], "slow.mesh.test."); m.Rcode != dns.RcodeServerFailure || explained(m) != "nobody told" {
		t.Errorf("got %v for what is not told in time", m)
	}
	answered := make(chan *dns.Msg, 1)
	before := w.asked.Load()
	go func() { answered <- inquire(t, "udp", addrs[0], "slow.mesh.test.") }()
	for w.asked.Load() == before {
		time.Sleep(time.Millisecond)
	}
	if m := inquire(t, "udp", addrs[0], "web.mesh.test."); len(m.Answer) != 1 {
		t.Errorf("others wait: %v", m)
	}
	close(w.ready)
	if m := <-answered; m == nil || len(m.Answer) != 1 {
		t.Errorf("got %v for what was told in time", m)
	}
}

func inquire(t *testing.T, network string, at netip.AddrPort, name string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, dns.TypeA)
	m.SetEdns0(1232, false)
	answer, _, err := (&dns.Client{Net: network, Timeout: 10 * time.Second}).Exchange(m, at.String())
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return new(dns.Msg)
	}
	return answer
}

func explained(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.ExtraText
			}
		}
	}
	return ""
}

// TestNoQueryOfAConnectionWaitsForAnother: what has to wait is answered when it can be, and holds back neither answers nor queries.
func TestNoQueryOfAConnectionWaitsForAnother(t *testing.T) {
	zone := testZone()
	var asked atomic.Int64
	release := make(chan struct{})
	s := dnsserver.New(dnsserver.Options{
		Addrs: []string{"127.0.0.1:0"}, Log: slog.New(slog.DiscardHandler), Zones: only(zone),
		Await: func(context.Context, string) error {
			asked.Add(1)
			<-release
			return nil
		},
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	let := sync.OnceFunc(func() { close(release) })
	defer func() { let(); cancel(); <-done }()

	conns := map[string]*pipeline{}
	for _, name := range []string{"few", "many", "cut off", "half closed"} {
		conns[name] = dialPipeline(t, s.Addrs()[0])
	}
	const there, slow = "web.default.mesh.internal.", "slow.mesh.internal."
	few := conns["few"]
	few.write(append(append(message(t, 1, there), message(t, 2, slow)...), message(t, 3, there)...))
	few.want("what waits holds nothing back", 1, 3)
	few.write(message(t, 4, slow))
	few.write(message(t, 5, there))
	few.want("nor what comes later", 5)

	last := message(t, 7, there)
	conns["cut off"].write(append(message(t, 6, there), last[:5]...))
	conns["cut off"].want("an answer waits for no rest of the next query", 6)
	conns["cut off"].write(last[5:])
	conns["cut off"].want("which is answered when it is there", 7)

	conns["half closed"].write(message(t, 8, slow))
	if err := conns["half closed"].CloseWrite(); err != nil {
		t.Fatal(err)
	}

	const most = 32
	many, all, ids := conns["many"], message(t, 100, there), []uint16{}
	for i := range uint16(3 * most) {
		all = append(all, message(t, 101+i, slow)...)
		ids = append(ids, 101+i)
	}
	many.write(all)
	many.want("before so much as may wait does", 100)
	for asked.Load() < 3+most+1 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // for any more to come
	if n := asked.Load(); n != 3+most+1 {
		t.Errorf("%d queries of a connection wait, want %d and the one that its reader waits with", n-3, most)
	}
	let()
	few.want("what has waited", 2, 4)
	conns["half closed"].want("who asks no more gets what he has asked for", 8)
	many.want("all that has waited", ids...)
}

// pipeline is a connection that many queries are sent over.
type pipeline struct {
	*net.TCPConn
	t *testing.T
}

func dialPipeline(t *testing.T, to netip.AddrPort) *pipeline {
	t.Helper()
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &pipeline{conn, t}
}

func (p *pipeline) write(b []byte) {
	p.t.Helper()
	if _, err := p.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

// want takes as many answers as there are numbers, in whatever order.
func (p *pipeline) want(what string, ids ...uint16) {
	p.t.Helper()
	var got []uint16
	conn := &dns.Conn{Conn: p.TCPConn}
	for range ids {
		m, err := conn.ReadMsg()
		if err != nil {
			p.t.Fatalf("%s: %v after answers %d, want %d", what, err, got, ids)
		}
		got = append(got, m.Id)
	}
	slices.Sort(got)
	if !slices.Equal(got, ids) {
		p.t.Errorf("%s: answers %d, want %d", what, got, ids)
	}
}

// message is a query as it goes over a connection.
func message(t *testing.T, id uint16, name string) []byte {
	t.Helper()
	m := question(name, dns.TypeA)
	m.Id = id
	packed, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
}
