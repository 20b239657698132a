package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// Who meets whom: nobody is on loopback, whose clients are not bounded.
const (
	floodedAddr, decoyAddr = "10.77.0.1", "10.77.0.2"
	flooderAddr            = "10.77.1.1"
	bystanderAddr          = "10.78.0.1"
)

// dnsFloods are what one source does as fast as it can.
func dnsFloods() map[string]func(flooder *dnsFlooder) error {
	const existing = "orders.mesh.internal."
	return map[string]func(*dnsFlooder) error{
		"random-names": func(f *dnsFlooder) error {
			return f.datagrams(func(m *dns.Msg) { m.SetQuestion(randomName, dns.TypeA) })
		},
		"random-signed": func(f *dnsFlooder) error {
			return f.datagrams(func(m *dns.Msg) { m.SetQuestion(randomName, dns.TypeA).SetEdns0(1232, true) })
		},
		"any": func(f *dnsFlooder) error {
			return f.datagrams(func(m *dns.Msg) { m.SetQuestion(existing, dns.TypeANY).SetEdns0(4096, false) })
		},
		"large-edns": func(f *dnsFlooder) error {
			return f.datagrams(func(m *dns.Msg) {
				m.SetQuestion(existing, dns.TypeA).SetEdns0(65535, true)
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 1200)}}
			})
		},
		"connections": (*dnsFlooder).connections,
	}
}

// randomName has a label of which each query has another.
const randomName = "xxxxxxxxxxxxxxxx.mesh.internal."

type dnsFlooder struct {
	ctx  context.Context
	to   string
	sent int
}

func playDNSFlood(args ...string) error {
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19) // as playAttack
	runtime.GOMAXPROCS(1)
	d, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	f := &dnsFlooder{ctx: ctx, to: args[1]}
	err = dnsFloods()[args[0]](f)
	fmt.Println(f.sent)
	return err
}

func (f *dnsFlooder) dial(network string) (net.Conn, error) {
	d := net.Dialer{Timeout: time.Second}
	if network == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(flooderAddr)}
	} else {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(flooderAddr)}
	}
	return d.Dial(network, f.to)
}

// datagrams sends a query again and again from several ports and looks at no answer.
func (f *dnsFlooder) datagrams(ask func(*dns.Msg)) error {
	m := new(dns.Msg)
	ask(m)
	query, err := m.Pack()
	if err != nil {
		return err
	}
	label := slices.Index(query, 16) // its length
	var conns []net.Conn
	for range 16 {
		conn, err := f.dial("udp")
		if err != nil {
			return err
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	for f.ctx.Err() == nil {
		for _, conn := range conns {
			if m.Question[0].Name == randomName {
				copy(query[label+1:], fmt.Sprintf("%016x", f.sent))
			}
			if _, err := conn.Write(query); err == nil {
				f.sent++
			}
		}
	}
	return nil
}

// connections makes connections that ask half a question, and holds the last thousand.
func (f *dnsFlooder) connections() error {
	held := make([]net.Conn, 1000)
	for f.ctx.Err() == nil {
		conn, err := f.dial("tcp")
		if err != nil {
			continue
		}
		_, _ = conn.Write([]byte{0, 40, 1, 2})
		if at := f.sent % len(held); held[at] != nil {
			_ = held[at].Close()
			held[at] = conn
		} else {
			held[at] = conn
		}
		f.sent++
	}
	return nil
}

// TestDNSFloodOfOneSourceHoldsNobodyBackNamespace has one source flood a control plane while others ask it at a low rate, over UDP and,
// every fourth, over a connection for each question: each is answered at the first try. In make soak they are as fast as when the
// source floods another control plane.
func TestDNSFloodOfOneSourceHoldsNobodyBackNamespace(t *testing.T) {
	if testbed.InNamespace(t, floodedAddr, decoyAddr, flooderAddr, bystanderAddr) {
		return
	}
	for name := range dnsFloods() {
		t.Run(name, func(t *testing.T) {
			flooded := startFlooded(t, floodedAddr)
			decoy := ""
			rounds, each := attackWindows(t, hostility{lasts: 2 * time.Second})
			if rounds > 1 {
				decoy = startFlooded(t, decoyAddr)
			}
			others := startAsking(t, func(i int) (func() error, func()) { return dnsBystander(i, flooded) })
			for round := range rounds {
				others.during(attackedElsewhere(round))
				if decoy == "" {
					time.Sleep(time.Second)
				} else {
					floodDNS(t, name, decoy, each)
				}
				others.during(attacked(round))
				if sent := floodDNS(t, name, flooded, each); sent < 1000 {
					t.Errorf("only %d were sent", sent)
				}
			}
			others.finish()
			judgeTimes(t, others, rounds)
		})
	}
}

// startFlooded starts a control plane, that knows a service, with its DNS at an address.
func startFlooded(t *testing.T, addr string) (at string) {
	t.Helper()
	p, static := newOrders(t)
	_ = static
	at = net.JoinHostPort(addr, "53")
	file, err := os.ReadFile(p.controlFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.controlFile, strings.Replace(string(file), p.dns, at, 1))
	start(t, "mesh control at "+addr, bin(t, "mesh"), "control", "--config", p.controlFile)
	ask, end := dnsBystander(0, at)
	defer end()
	eventually(t, 30*time.Second, "orders is answered", ask)
	return at
}

func floodDNS(t *testing.T, name, at string, d time.Duration) (sent int) {
	t.Helper()
	out, err := role(t.Context(), "dnsflood", name, at, d.String())
	if err != nil {
		t.Fatal(err)
	}
	if sent, err = strconv.Atoi(strings.TrimSpace(out)); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d sent in %s", sent, d)
	return sent
}

// dnsBystander asks for a service from an address that the flood has nothing to do with.
func dnsBystander(i int, at string) (ask func() error, end func()) {
	client := dns.Client{Timeout: 10 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(bystanderAddr)}}}
	if i%4 == 3 {
		client.Net, client.Dialer = "tcp", &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(bystanderAddr)}}
	}
	return func() error {
		m, _, err := client.Exchange(new(dns.Msg).SetQuestion("orders.mesh.internal.", dns.TypeA), at)
		if err == nil && (len(m.Answer) != 1 || m.Truncated) {
			err = fmt.Errorf("answered %v", m)
		}
		return err
	}, func() {}
}
