package dnstap_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "github.com/dnstap/golang-dnstap"
	framestream "github.com/farsightsec/golang-framestream"
	"github.com/miekg/dns"
	"google.golang.org/protobuf/proto"

	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnstap"
)

// within fails the test when something is not so soon.
func within(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// run runs something until the test ends, or stop is called.
func run(t *testing.T, what func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- what(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// serve runs a server with one name that is logged.
func serve(t *testing.T, log *dnstap.Log) netip.AddrPort {
	t.Helper()
	origin, _ := dnsserver.ParseName("mesh.internal")
	zone := dnsserver.NewZone(dnsserver.Apex{
		Origin: "mesh.internal", Serial: 1, TTL: 60, NegativeTTL: 1, NameServers: []dnsserver.NameServer{{Name: "ns.example."}},
	}, map[string]*dnsserver.Branch{"web": dnsserver.NewBranch(origin, 0, map[string][]dnsserver.Set{
		"web": dnsserver.Addresses(5, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil),
	})})
	s := dnsserver.New(dnsserver.Options{
		Addrs: []string{":0"}, Zones: func() []*dnsserver.Zone { return []*dnsserver.Zone{zone} }, Log: slog.New(slog.DiscardHandler), Tap: log,
	})
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	run(t, s.Run)
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.Addrs()[0].Port())
}

func ask(t *testing.T, network string, server netip.AddrPort, name string) {
	t.Helper()
	if _, _, err := (&dns.Client{Net: network, Timeout: 10 * time.Second}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), server.String()); err != nil {
		t.Fatal(err)
	}
}

// messages reads a file of dnstap, in short: type, protocol, addresses, zone, and what the message says.
func messages(t *testing.T, file string, server netip.AddrPort) (says []string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, err := framestream.NewReader(bytes.NewReader(data), &framestream.ReaderOptions{ContentTypes: [][]byte{pb.FSContentType}})
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 1<<17)
	for {
		n, err := r.ReadFrame(frame)
		if err != nil {
			return says // at its end, or where it has not been written on yet
		}
		var tap pb.Dnstap
		if err := proto.Unmarshal(frame[:n], &tap); err != nil {
			t.Fatal(err)
		}
		says = append(says, short(t, &tap, server))
	}
}

func short(t *testing.T, tap *pb.Dnstap, server netip.AddrPort) string {
	t.Helper()
	m := tap.GetMessage()
	wire, at := m.GetQueryMessage(), time.Unix(int64(m.GetQueryTimeSec()), 0)
	if m.GetResponseMessage() != nil {
		wire, at = m.GetResponseMessage(), time.Unix(int64(m.GetResponseTimeSec()), 0)
	}
	var said dns.Msg
	if err := said.Unpack(wire); err != nil {
		t.Fatal(err)
	}
	if age := time.Since(at); age < 0 || age > time.Minute {
		t.Errorf("its time is %v", at)
	}
	if to, _ := netip.AddrFromSlice(m.GetResponseAddress()); netip.AddrPortFrom(to, uint16(m.GetResponsePort())) != server || (m.GetQueryPort() == 0) != (m.GetType() == pb.Message_FORWARDER_QUERY || m.GetType() == pb.Message_FORWARDER_RESPONSE) {
		t.Errorf("between %v port %d and %v port %d", m.GetQueryAddress(), m.GetQueryPort(), m.GetResponseAddress(), m.GetResponsePort())
	}
	return fmt.Sprintf("%s %v %v %v %q %s %s/%d", tap.GetIdentity(), m.GetType(), m.GetSocketFamily(), m.GetSocketProtocol(), m.GetQueryZone(), said.Question[0].Name, dns.RcodeToString[said.Rcode], len(said.Answer))
}

func want(protocol, zone, name, says string) []string {
	return []string{
		fmt.Sprintf("ns1 AUTH_QUERY INET %s %q %s NOERROR/0", protocol, zone, name),
		fmt.Sprintf("ns1 AUTH_RESPONSE INET %s %q %s %s", protocol, zone, name, says),
	}
}

const meshInternal = "\x04mesh\x08internal\x00"

func equal(t *testing.T, got []string, wanted ...[]string) {
	t.Helper()
	var all []string
	for _, w := range wanted {
		all = append(all, w...)
	}
	if strings.Join(got, "\n") != strings.Join(all, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(all, "\n"))
	}
}

// TestReceiverGetsWhatIsAskedDnstapTools has the receiver of fstrm take the log, die, and come back.
func TestReceiverGetsWhatIsAskedDnstapTools(t *testing.T) {
	program, err := exec.LookPath("fstrm_capture")
	if err != nil {
		t.Fatalf("%v: e2e/setup.sh installs it", err)
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "tap")
	receive := func(file string) *exec.Cmd {
		_ = os.Remove(socket)
		cmd := exec.Command(program, "-t", "protobuf:dnstap.Dnstap", "-u", socket, "-w", file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	log := dnstap.New(dnstap.Options{Socket: socket, Identity: "ns1", Version: "test", Log: slog.New(slog.DiscardHandler)})
	server := serve(t, log)
	ask(t, "udp", server, "web.mesh.internal.") // before anybody is there: it is kept
	stop := run(t, log.Run)
	within(t, "it says that nobody is there", func() bool { return strings.Contains(log.Stats().Error, "no such file") })

	one := receive(filepath.Join(dir, "one"))
	ask(t, "tcp", server, "none.mesh.internal.")
	ask(t, "udp", server, "example.org.")
	within(t, "three are written", func() bool { return log.Stats().Written == 3 && log.Stats().Error == "" })
	_ = one.Process.Signal(os.Interrupt)
	_ = one.Wait()
	equal(t, messages(t, filepath.Join(dir, "one"), server),
		want("UDP", meshInternal, "web.mesh.internal.", "NOERROR/1"), want("TCP", meshInternal, "none.mesh.internal.", "NXDOMAIN/0"), want("UDP", "", "example.org.", "REFUSED/0"))

	within(t, "it notices that nobody is there", func() bool { ask(t, "udp", server, "lost.mesh.internal."); return log.Stats().Error != "" })
	two := receive(filepath.Join(dir, "two"))
	within(t, "it is connected again", func() bool { return log.Stats().Error == "" })
	ask(t, "udp", server, "last.mesh.internal.")
	stop() // writes what waits, and says that this is the end
	_ = two.Process.Signal(os.Interrupt)
	_ = two.Wait()
	got := messages(t, filepath.Join(dir, "two"), server)
	if len(got) < 2 {
		t.Fatalf("got %q", got)
	}
	equal(t, got[len(got)-2:], want("UDP", meshInternal, "last.mesh.internal.", "NXDOMAIN/0"))
}

// TestFileIsReadDnstapTools has BIND's reader read a file of ours, and the file roll.
func TestFileIsReadDnstapTools(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	options := dnstap.Options{File: file, FileBytes: 300, Identity: "ns1", Version: "test", Log: slog.New(slog.DiscardHandler)}
	log := dnstap.New(options)
	server := serve(t, log)
	stop := run(t, log.Run)
	for i := range 2 {
		ask(t, "udp", server, fmt.Sprintf("n%d.mesh.internal.", i))
		within(t, "it is written", func() bool { return log.Stats().Written == uint64(i+1) })
	}
	ask(t, "udp", server, "web.mesh.internal.")
	stop()
	info, err := os.Stat(file)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	equal(t, messages(t, file, server), want("UDP", meshInternal, "web.mesh.internal.", "NOERROR/1"))
	equal(t, messages(t, file+".1", server), want("UDP", meshInternal, "n0.mesh.internal.", "NXDOMAIN/0"), want("UDP", meshInternal, "n1.mesh.internal.", "NXDOMAIN/0"))
	out, err := exec.Command("dnstap-read", file).CombinedOutput()
	if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); err != nil || len(lines) != 2 || !strings.Contains(lines[0], "AQ 127.0.0.1:") || !strings.Contains(lines[1], "web.mesh.internal/IN/A") {
		t.Errorf("dnstap-read: %v (e2e/setup.sh installs it)\n%s", err, out)
	}
	// What is there when it starts is kept.
	again := dnstap.New(options)
	stop = run(t, again.Run)
	within(t, "it is begun", func() bool { return again.Stats().Error == "" })
	stop()
	equal(t, messages(t, file+".1", server), want("UDP", meshInternal, "web.mesh.internal.", "NOERROR/1"))
}

// TestForwardedIsToldApart has what clients ask that is forwarded, and what upstreams are asked for it, over either family.
func TestForwardedIsToldApart(t *testing.T) {
	for _, server := range []string{"192.0.2.53:53", "[2001:db8::53]:853"} {
		file, at := filepath.Join(t.TempDir(), "log"), netip.MustParseAddrPort(server)
		log := dnstap.New(dnstap.Options{File: file, Identity: "ns1", Log: slog.New(slog.DiscardHandler)})
		asked := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
		query, err := asked.Pack()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := new(dns.Msg).SetRcode(asked, dns.RcodeNameError).Pack()
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		x := dnsserver.Exchange{Answerer: at, Transport: "tls", Kind: dnsserver.FromUpstream, Query: query, Answer: answer, Asked: now, Answered: now}
		log.Show(x)
		x.Asker, x.Transport, x.Kind = netip.AddrPortFrom(at.Addr().Next(), 4096), "udp", dnsserver.FromForwarder
		log.Show(x)
		stop := run(t, log.Run)
		within(t, "both are written", func() bool { return log.Stats().Written == 2 })
		stop()
		family := map[bool]string{true: "INET6", false: "INET"}[at.Addr().Is6()]
		equal(t, messages(t, file, at), []string{
			`ns1 FORWARDER_QUERY ` + family + ` DOT "" example.org. NOERROR/0`, `ns1 FORWARDER_RESPONSE ` + family + ` DOT "" example.org. NXDOMAIN/0`,
			`ns1 CLIENT_QUERY ` + family + ` UDP "" example.org. NOERROR/0`, `ns1 CLIENT_RESPONSE ` + family + ` UDP "" example.org. NXDOMAIN/0`,
		})
	}
}

// TestReceiverThatReadsNothingHoldsNobodyUp: all is answered, memory is bounded, and each exchange is written or counted.
func TestReceiverThatReadsNothingHoldsNobodyUp(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "tap")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = framestream.NewReader(conn, &framestream.ReaderOptions{ContentTypes: [][]byte{pb.FSContentType}, Bidirectional: true})
		}
	}()
	log := dnstap.New(dnstap.Options{Socket: socket, Log: slog.New(slog.DiscardHandler)})
	stop := run(t, log.Run)
	within(t, "it is connected", func() bool { return log.Stats().Error == "" })
	const n = 30_000
	large := make([]byte, 1000)
	for range n {
		log.Show(dnsserver.Exchange{Transport: "udp", Query: large[:100], Answer: large})
	}
	within(t, "it gives the receiver up", func() bool { s := log.Stats(); return s.Error != "" || s.Dropped > n/2 })
	stop()
	if s := log.Stats(); s.Dropped < n/2 || s.Written+s.Dropped > n {
		t.Errorf("%d written, %d dropped of %d", s.Written, s.Dropped, n)
	}
}

// TestSample: of so many exchanges one is logged.
func TestSample(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	log := dnstap.New(dnstap.Options{File: file, Sample: 10, Log: slog.New(slog.DiscardHandler)})
	for range 10_000 {
		log.Show(dnsserver.Exchange{Transport: "udp", Query: make([]byte, 12)})
	}
	stop := run(t, log.Run)
	within(t, "it is begun", func() bool { return log.Stats().Error == "" })
	stop()
	if s := log.Stats(); s.Written < 700 || s.Written > 1300 || s.Dropped != 0 { // ten standard deviations
		t.Errorf("%d of 10,000 written, %d dropped", s.Written, s.Dropped)
	}
}

// TestAFileEndsThoughMoreComes: what still comes holds the end up for two seconds at most.
func TestAFileEndsThoughMoreComes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	log := dnstap.New(dnstap.Options{File: file, FileBytes: 1 << 20, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	asking, enough := context.WithCancel(t.Context())
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for asking.Err() == nil {
				log.Show(dnsserver.Exchange{Transport: "udp", Query: make([]byte, 12)})
			}
		})
	}
	within(t, "more comes than is written", func() bool { return log.Stats().Dropped > 0 })
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("Run did not return within 30 s of its context's end")
	}
	enough()
	askers.Wait()
}
