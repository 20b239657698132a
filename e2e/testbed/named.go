package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// NamedZone is the zone that a Named is authoritative for. Its TTLs are one second, those of what is not there too.
const NamedZone = "test.example."

// NamedWriter is the address that updates come from. BIND takes none from an address whose questions it refuses.
const NamedWriter = "127.0.0.2"

// Named is one running BIND, authoritative for NamedZone, which keeps its data over a Restart. It answers and takes
// dynamic updates from loopback addresses.
type Named struct {
	Address string // 127.0.0.1:port, UDP and TCP

	*server
}

// StartNamed starts Debian's BIND and returns it when it serves. It is ended when the test ends; a test that failed
// shows its log.
func StartNamed(t testing.TB) *Named {
	t.Helper()
	skipLeftOut(t, "Named")
	installed, err := exec.LookPath("named")
	if err != nil {
		installed, err = exec.LookPath("/usr/sbin/named")
	}
	if err != nil {
		t.Fatalf("start named: %v (e2e/setup.sh installs it)", err)
	}
	// Debian's AppArmor profile confines the program at its path to system directories; a copy is free of it.
	path := filepath.Join(t.TempDir(), "named")
	if err := copyProgram(path, installed); err != nil {
		t.Fatal(err)
	}
	return startServers(t, func() (*Named, error) { return startNamed(t, path) })
}

func copyProgram(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	// No process may be forked meanwhile: it would keep the file open for writing, and that cannot be executed.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(to, data, 0o755)
}

const (
	namedConfig = `options {
  directory %q;
  pid-file none; session-keyfile none; lock-file none;
  listen-on port %d { 127.0.0.1; }; listen-on-v6 { none; };
  recursion no; dnssec-validation no; notify no; empty-zones-enable no;
  allow-query { 127.0.0.0/8; };
};
controls { };
zone "test.example" { type primary; file "zone"; allow-update { 127.0.0.0/8; }; };
`
	namedZoneFile = `$TTL 1
@ SOA ns hostmaster 1 60 60 3600 1
@ NS ns
ns A 127.0.0.1
`
)

func startNamed(t testing.TB, path string) (*Named, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "named.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, namedConfig, dir, ports[0]), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "zone"), []byte(namedZoneFile), 0o600); err != nil {
		return nil, err
	}
	n := &Named{Address: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	n.server = &server{t: t, name: "named", path: path, args: []string{"-g", "-n", "1", "-c", config}, ready: n.serves}
	return n, startTogether(n.server)
}

// serves asks for the zone's SOA record, over UDP.
func (n *Named) serves(ctx context.Context) error {
	if strings.Contains(n.proc.output.String(), "address in use") {
		return errPortTaken // it would run on without listening
	}
	question := new(dns.Msg).SetQuestion(NamedZone, dns.TypeSOA)
	answer, _, err := (&dns.Client{Timeout: time.Second}).ExchangeContext(ctx, question, n.Address)
	if err != nil {
		return err
	}
	if answer.Rcode != dns.RcodeSuccess || len(answer.Answer) == 0 {
		return fmt.Errorf("it answers %s to %s SOA", dns.RcodeToString[answer.Rcode], NamedZone)
	}
	return nil
}

// maxUpdate is how many lines fit in one message.
const maxUpdate = 500

// Update changes the zone by lines as nsupdate takes them, with full names: "add web.test.example. 1 A 127.20.0.1",
// "delete web.test.example. A 127.20.0.1", "delete web.test.example. A", "delete web.test.example.". Up to 500 lines
// are one change.
func (n *Named) Update(t testing.TB, lines ...string) {
	t.Helper()
	for batch := range slices.Chunk(lines, maxUpdate) {
		update := new(dns.Msg).SetUpdate(NamedZone)
		for _, line := range batch {
			if err := addUpdate(update, line); err != nil {
				t.Fatalf("update named: %q: %v", line, err)
			}
		}
		client := dns.Client{Net: "tcp", Dialer: &net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(NamedWriter)}}, Timeout: 10 * time.Second}
		answer, _, err := client.ExchangeContext(t.Context(), update, n.Address)
		if err != nil {
			t.Fatalf("update named: %v", err)
		}
		if answer.Rcode != dns.RcodeSuccess {
			t.Fatalf("update named: it answers %s", dns.RcodeToString[answer.Rcode])
		}
	}
}

// addUpdate puts what one line says into the message.
func addUpdate(update *dns.Msg, line string) error {
	verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	fields := strings.Fields(rest)
	switch {
	case verb == "add":
		rr, err := dns.NewRR(rest)
		if err != nil {
			return err
		}
		update.Insert([]dns.RR{rr})
	case verb == "delete" && len(fields) == 1:
		update.RemoveName([]dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: fields[0]}}})
	case verb == "delete" && len(fields) == 2:
		kind, ok := dns.StringToType[fields[1]]
		if !ok {
			return fmt.Errorf("unknown type %s", fields[1])
		}
		update.RemoveRRset([]dns.RR{&dns.ANY{Hdr: dns.RR_Header{Name: fields[0], Rrtype: kind}}})
	case verb == "delete" && len(fields) > 2:
		rr, err := dns.NewRR(fields[0] + " 0 " + strings.Join(fields[1:], " "))
		if err != nil {
			return err
		}
		update.Remove([]dns.RR{rr})
	default:
		return errors.New("want add NAME TTL TYPE DATA, or delete NAME [TYPE [DATA]]")
	}
	return nil
}
