package transfer_test

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/dnsserver/transfer"
	"github.com/hostmesh/hostmesh/dnsserver/tsig"
)

// software is an implementation of secondaries. Its configuration has DIR, PORT, PRIMARY, a port too, TSIG and SECRET filled in.
type software struct {
	name, config string
	argv         []string
}

func implementations() []software {
	return []software{
		{"nsd", `
server:
  ip-address: 127.0.0.1@PORT
  username: ""
  chroot: ""
  zonesdir: "DIR"
  database: ""
  pidfile: "DIR/nsd.pid"
  xfrdfile: "DIR/xfrd.state"
  xfrdir: "DIR"
  zonelistfile: "DIR/zone.list"
  xfrd-reload-timeout: 0
  cookie-secret-file: "DIR/cookies"
remote-control:
  control-enable: no
key:
  name: "TSIG"
  algorithm: hmac-sha256
  secret: "SECRET"
zone:
  name: mesh.internal
  zonefile: "DIR/mesh.zone"
  allow-notify: 127.0.0.1 TSIG
  request-xfr: 127.0.0.1@PRIMARY TSIG
  provide-xfr: 127.0.0.1 NOKEY
`, []string{"nsd", "-d", "-c"}},
		{"knotd", `
server:
  listen: 127.0.0.1@PORT
  rundir: DIR
database:
  storage: DIR
log:
  - target: stderr
    any: info
key:
  - id: TSIG
    algorithm: hmac-sha256
    secret: SECRET
remote:
  - id: mesh
    address: 127.0.0.1@PRIMARY
    key: TSIG
acl:
  - id: notify
    address: 127.0.0.1
    key: TSIG
    action: notify
  - id: copy
    address: 127.0.0.1
    action: transfer
zone:
  - domain: mesh.internal
    storage: DIR
    master: mesh
    acl: [notify, copy]
`, []string{"knotd", "-c"}},
		{"named", `
options {
  directory "DIR"; listen-on port PORT { 127.0.0.1; }; listen-on-v6 { none; }; pid-file none; session-keyfile none;
  recursion no; dnssec-validation no; allow-transfer { 127.0.0.1; }; notify no;
};
controls { };
key "TSIG" { algorithm hmac-sha256; secret "SECRET"; };
zone "mesh.internal" {
  type secondary; file "mesh.zone"; primaries { 127.0.0.1 port PRIMARY key TSIG; };
};
`, []string{"named", "-g", "-c"}},
	}
}

// secondary is a server that runs.
type secondary struct {
	software
	addr netip.AddrPort
	mu   sync.Mutex
	log  strings.Builder // guarded by mu
}

// Write keeps what the server says.
func (s *secondary) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(b)
}

func (s *secondary) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// start starts a secondary of a primary that may not be there yet.
func (s software) start(t *testing.T, port, primary int, secret string) *secondary {
	t.Helper()
	dir := t.TempDir()
	out := &secondary{software: s, addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))}
	config := filepath.Join(dir, "config")
	text := strings.NewReplacer("DIR", dir, "PORT", fmt.Sprint(port), "PRIMARY", fmt.Sprint(primary), "TSIG", "transfer.example",
		"SECRET", base64.StdEncoding.EncodeToString([]byte(secret))).Replace(s.config)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath(s.argv[0])
	if err != nil {
		program = "/usr/sbin/" + s.argv[0]
	}
	cmd := exec.Command(program, append(s.argv[1:], config)...)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			said := out.said()
			t.Logf("%s said:\n%s", s.name, said[max(0, len(said)-4000):])
		}
	})
	return out
}

// holds returns the zone that a secondary holds, as sorted lines.
func (s *secondary) holds() ([]dns.RR, error) {
	tr := dns.Transfer{DialTimeout: time.Second, ReadTimeout: 5 * time.Second}
	envelopes, err := tr.In(new(dns.Msg).SetAxfr("mesh.internal."), s.addr.String())
	if err != nil {
		return nil, err
	}
	var all []dns.RR
	for e := range envelopes {
		if e.Error != nil {
			err = e.Error
		}
		all = append(all, e.RR...)
	}
	if err != nil || len(all) < 2 {
		return nil, fmt.Errorf("no zone: %w", err)
	}
	return all[:len(all)-1], nil
}

// follows waits until a secondary holds what the primary copies, and says how long it took. Until then it may answer from either zone:
// NSD's processes change one after the other.
func (s *secondary) follows(t *testing.T, p *primary) (records []dns.RR, took time.Duration) {
	t.Helper()
	want := lines(p.axfr(true))
	began := time.Now()
	for time.Since(began) < 2*time.Minute {
		got, err := s.holds()
		if err == nil && got[0].(*dns.SOA).Serial == p.zone().Serial() && slices.Equal(lines(got), want) {
			return got, time.Since(began)
		}
		time.Sleep(5 * time.Millisecond)
	}
	got, err := s.holds()
	t.Fatalf("%s holds another zone, %v: %s", s.name, err, cmp.Diff(want, lines(got)))
	return nil, 0
}

// TestSecondariesHoldTheZone shows that other implementations hold the zone after each of many changes, and after a restart of
// the primary, whose serials go on.
func TestSecondariesHoldTheZone(t *testing.T) {
	for _, signed := range []bool{false, true} {
		t.Run(fmt.Sprintf("signed %v", signed), func(t *testing.T) {
			var running []*secondary
			var known []transfer.Secondary
			at, outer := freePort(t), t
			for range implementations() {
				known = append(known, transfer.Secondary{Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(freePort(t))), Key: &tsig.Key{}})
			}
			serial := uint32(1_800_000_000)
			for range 2 {
				t.Run("primary", func(t *testing.T) {
					p := startPrimary(t, signed, fmt.Sprintf("127.0.0.1:%d", at), serial, known...)
					for i, s := range implementations()[len(running):] { // BIND that finds no primary when it starts takes a minute to ask again
						running = append(running, s.start(outer, int(known[i].Addr.Port()), at, secret))
					}
					for i := range 12 {
						for range i % 3 { // more than one while they are being told
							p.churn()
						}
						serial = p.churn().Serial()
						for _, s := range running {
							got, took := s.follows(t, p)
							t.Logf("%s has %d after %s", s.name, serial, took.Round(time.Millisecond))
							if signed && i%4 == 0 {
								p.judge(t, got)
							}
						}
					}
					p.told(t, len(running), serial)
				})
				serial += 1000
			}
		})
	}
}

// told waits until all secondaries have confirmed a serial: one may hold the zone before its answer to the NOTIFY has come.
func (p *primary) told(t *testing.T, secondaries int, serial uint32) {
	t.Helper()
	var statuses []transfer.Status
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		statuses = p.copies.Status()
		if len(statuses) == secondaries && !slices.ContainsFunc(statuses, func(s transfer.Status) bool { return s.Notified != serial || s.Error != "" }) {
			return
		}
	}
	t.Errorf("%+v, want all to know %d", statuses, serial)
}

// TestSecondariesWithAnotherSecretAreRefused shows that nobody gets the zone by another secret, and that he is not told of it.
func TestSecondariesWithAnotherSecretAreRefused(t *testing.T) {
	at := freePort(t)
	for _, s := range implementations() {
		t.Run(s.name, func(t *testing.T) {
			one := s.start(t, freePort(t), at, strings.Repeat("x", 32))
			p := startPrimary(t, false, fmt.Sprintf("127.0.0.1:%d", at), 77, transfer.Secondary{Addr: one.addr, Key: &tsig.Key{}})
			deadline := time.Now().Add(20 * time.Second)
			for time.Now().Before(deadline) {
				if status := p.copies.Status(); len(status) == 1 && strings.Contains(status[0].Error, "not with this key") {
					if got, err := one.holds(); err == nil {
						t.Errorf("it holds %v", got)
					}
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			t.Errorf("it is told, or does not say that it refuses: %+v", p.copies.Status())
		})
	}
}
