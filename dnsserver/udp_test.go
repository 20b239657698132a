package dnsserver

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// TestUDPLoopAllocatesNothing has a loop take batches from a real socket and answer them.
func TestUDPLoopAllocatesNothing(t *testing.T) {
	const some = 3
	zones := []*Zone{smallZone()}
	s := New(Options{Zones: func() []*Zone { return zones }, Log: slog.New(slog.DiscardHandler), RateLimit: 1})
	sockets, err := listenUDP("udp4", netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer sockets[0].conn.Close()
	client, err := net.Dial("udp4", sockets[0].conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	query, err := new(dns.Msg).SetQuestion("web.default.mesh.internal.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	l := &udpLoop{socket: sockets[0], responder: responder{server: s, counts: s.shards[udp]}}
	l.query.by = udp
	answer := make([]byte, maxUDPPayload)
	if err := sockets[0].raw.Control(func(fd uintptr) {
		allocated := testing.AllocsPerRun(100, func() {
			for range some {
				_, err = client.Write(query)
			}
			if l.serve(fd) || l.received != some {
				t.Errorf("%d queries taken, want %d, and then to wait", l.received, some)
			}
			for range some {
				_, err = client.Read(answer)
			}
			if l.serve(fd) || l.received != 0 {
				t.Errorf("%d queries taken of none", l.received)
			}
		})
		if allocated != 0 {
			t.Errorf("%v allocations for a batch", allocated)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil || answer[2]&0x80 == 0 || answer[7] == 0 {
		t.Errorf("answered % x, %v", answer[:headerBytes], err)
	}
}

// TestAFullBatchIsFollowedByAnother shows that a loop comes back at once when there may be more than it could take.
func TestAFullBatchIsFollowedByAnother(t *testing.T) {
	s := New(Options{Zones: func() []*Zone { return nil }, Log: slog.New(slog.DiscardHandler)})
	sockets, err := listenUDP("udp4", netip.MustParseAddrPort("127.0.0.1:0"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer sockets[0].conn.Close()
	client, err := net.Dial("udp4", sockets[0].conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range batch + 1 {
		if _, err := client.Write([]byte("no query")); err != nil {
			t.Fatal(err)
		}
	}
	l := &udpLoop{socket: sockets[0], responder: responder{server: s, counts: s.shards[udp]}}
	if err := sockets[0].raw.Control(func(fd uintptr) {
		if !l.serve(fd) || l.received != batch {
			t.Errorf("it waits after %d of %d", l.received, batch+1)
		}
		if l.serve(fd) || l.received != 1 {
			t.Errorf("%d taken, want the last", l.received)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func TestUDPSocketsNeverFragment(t *testing.T) {
	for network, c := range map[string]struct {
		addr                string
		level, option, want int
	}{
		"udp4": {"127.0.0.1:0", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE},
		"udp6": {"[::1]:0", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE},
	} {
		sockets, err := listenUDP(network, netip.MustParseAddrPort(c.addr), 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range sockets {
			if err := u.raw.Control(func(fd uintptr) {
				if got, err := unix.GetsockoptInt(int(fd), c.level, c.option); err != nil || got != c.want {
					t.Errorf("%s: %d, %v, want %d", network, got, err, c.want)
				}
			}); err != nil {
				t.Error(err)
			}
			_ = u.conn.Close()
		}
	}
}
