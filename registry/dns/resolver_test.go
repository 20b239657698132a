package dns

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/registry"
)

// hostile is a server that answers as no sound one does, by UDP and TCP on one port.
func hostile(t *testing.T, answer func(w dns.ResponseWriter, q *dns.Msg)) string {
	t.Helper()
	for range 20 {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := packets.LocalAddr().String()
		listener, err := net.Listen("tcp", address)
		if err != nil {
			packets.Close()
			continue // somebody else has that port by TCP
		}
		for _, s := range []*dns.Server{{PacketConn: packets}, {Listener: listener}} {
			s.Handler = dns.HandlerFunc(answer)
			done := make(chan struct{})
			started := make(chan struct{})
			s.NotifyStartedFunc = func() { close(started) }
			go func() { defer close(done); _ = s.ActivateAndServe() }()
			<-started
			t.Cleanup(func() { _ = s.Shutdown(); <-done })
		}
		return address
	}
	t.Fatal("no port is free by UDP and TCP")
	return ""
}

// reply makes the answer that a sound server would give.
func reply(q *dns.Msg, address string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Authoritative = true
	if address != "" {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 9}, A: net.ParseIP(address)}}
	}
	return m
}

func ask(t *testing.T, addresses ...string) (records, error) {
	t.Helper()
	s, err := newServers(Config{Resolvers: addresses})
	if err != nil {
		t.Fatal(err)
	}
	return newResolver(s, 500*time.Millisecond).records(t.Context(), "w.example.", dns.TypeA)
}

// Nobody who guesses answers for the resolver (CVE-2023-30464, GHSA-gv9j-4w24-q7vx).
func TestCVEClass29_OnlyTheAnswerToTheQuestionCounts(t *testing.T) {
	for _, c := range []struct {
		name string
		by   string
		bad  func(w dns.ResponseWriter, q *dns.Msg)
		want string
	}{
		{"other ID", "udp://", func(w dns.ResponseWriter, q *dns.Msg) { m := reply(q, "192.0.2.66"); m.Id++; _ = w.WriteMsg(m) }, "192.0.2.1"},
		{"other name", "udp://", func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.66")
			m.Question[0].Name = "evil.example."
			_ = w.WriteMsg(m)
		}, "192.0.2.1"},
		{"other type", "udp://", func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.66")
			m.Question[0].Qtype = dns.TypeAAAA
			_ = w.WriteMsg(m)
		}, "192.0.2.1"},
		{"a question", "udp://", func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.66")
			m.Response = false
			_ = w.WriteMsg(m)
		}, "192.0.2.1"},
		{"garbage", "udp://", func(w dns.ResponseWriter, q *dns.Msg) { _, _ = w.Write([]byte(strings.Repeat("\xff", 100))) }, "192.0.2.1"},
		{"too short", "udp://", func(w dns.ResponseWriter, q *dns.Msg) { _, _ = w.Write([]byte{1, 2}) }, "192.0.2.1"},
		{"other case", "udp://", func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.7")
			m.Question[0].Name = "W.eXample."
			_ = w.WriteMsg(m)
		}, "192.0.2.7"},
		{"other ID by TCP", "tcp://", func(w dns.ResponseWriter, q *dns.Msg) { m := reply(q, "192.0.2.66"); m.Id++; _ = w.WriteMsg(m) }, "another question"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ask(t, c.by+hostile(t, func(w dns.ResponseWriter, q *dns.Msg) {
				c.bad(w, q.Copy())
				_ = w.WriteMsg(reply(q, "192.0.2.1"))
			}))
			got := ""
			if err != nil {
				got = err.Error()
			} else if len(r.found) == 1 {
				got = r.found[0].(*dns.A).A.String()
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestResolverFallsBack(t *testing.T) {
	isUDP := func(w dns.ResponseWriter) bool { return w.RemoteAddr().Network() == "udp" }
	for _, c := range []struct {
		name   string
		answer func(w dns.ResponseWriter, q *dns.Msg)
		want   string
	}{
		{"truncated by UDP, whole by TCP", func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.1")
			if isUDP(w) {
				m.Answer, m.Truncated = nil, true
			}
			_ = w.WriteMsg(m)
		}, ""},
		{"truncated by TCP too", func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.1")
			m.Truncated = true
			_ = w.WriteMsg(m)
		}, "truncated by TCP too"},
		{"no EDNS", func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() != nil {
				_ = w.WriteMsg(new(dns.Msg).SetRcodeFormatError(q))
				return
			}
			_ = w.WriteMsg(reply(q, "192.0.2.1"))
		}, ""},
		{"no EDNS, and truncated by UDP", func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "192.0.2.1")
			switch {
			case q.IsEdns0() != nil:
				m.SetRcodeFormatError(q)
			case isUDP(w):
				m.Answer, m.Truncated = nil, true
			}
			_ = w.WriteMsg(m)
		}, ""},
		{"silence", func(w dns.ResponseWriter, q *dns.Msg) {}, "no answer within 500ms"},
		{"refused", func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) }, "permission lost"},
		{"servfail", func(w dns.ResponseWriter, q *dns.Msg) {
			_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		}, "SERVFAIL"},
		{"endless aliases", func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(q, "")
			m.Answer = []dns.RR{&dns.CNAME{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET}, Target: "a" + q.Question[0].Name}}
			_ = w.WriteMsg(m)
		}, "more than 8 aliases"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := ask(t, hostile(t, c.answer))
			switch {
			case c.want == "" && (err != nil || len(r.found) != 1):
				t.Errorf("got %v, %v", r.found, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got error %v, want %q", err, c.want)
			}
		})
	}
}

// TestResolversInTurn: each is asked until one answers, who is then asked first.
func TestResolversInTurn(t *testing.T) {
	var asked atomic.Int32
	fails := hostile(t, func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
	})
	refuses := hostile(t, func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused)) })
	works := hostile(t, func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(reply(q, "192.0.2.1")) })
	s, err := newServers(Config{Resolvers: []string{fails, refuses, works}})
	if err != nil {
		t.Fatal(err)
	}
	r := newResolver(s, 5*time.Second)
	for range 3 {
		if got, err := r.records(t.Context(), "w.example.", dns.TypeA); err != nil || len(got.found) != 1 {
			t.Fatalf("got %v, %v", got.found, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the one that fails was asked %d times, want once", n)
	}
	if _, err := ask(t, fails, refuses); err == nil || errors.Is(err, registry.ErrPermission) ||
		!strings.Contains(err.Error(), fails+": SERVFAIL") || !strings.Contains(err.Error(), refuses+": REFUSED") {
		t.Errorf("got error %v, want what each said, and no word of permission as one did not refuse", err)
	}
}

func TestCanceledQuestionEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address := hostile(t, func(w dns.ResponseWriter, q *dns.Msg) { cancel() })
	s, err := newServers(Config{Resolvers: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newResolver(s, time.Hour).records(ctx, "w.example.", dns.TypeA); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestResolvConf follows the file, and keeps what it said while it cannot be read.
func TestResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if _, err := newServers(Config{ResolvConf: path}); err == nil || !strings.Contains(err.Error(), "name some in resolvers") {
		t.Errorf("without a file: %v", err)
	}
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("search example\n")
	if _, err := newServers(Config{ResolvConf: path}); err == nil || !strings.Contains(err.Error(), "no nameserver") {
		t.Errorf("without a nameserver: %v", err)
	}
	write("nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver ///\n")
	s, err := newServers(Config{ResolvConf: path})
	if err != nil {
		t.Fatal(err)
	}
	now := func() string {
		s.looked = time.Time{}
		var words []string
		for _, one := range s.now() {
			words = append(words, one.String())
		}
		return strings.Join(words, " ")
	}
	const first = "udp://192.0.2.1:53 udp://[2001:db8::1]:53"
	if got := now(); got != first {
		t.Errorf("got %s", got)
	}
	write("")
	if got := now(); got != first {
		t.Errorf("while it is rewritten: got %s", got)
	}
	write("nameserver 192.0.2.22\n")
	if got := now(); got != "udp://192.0.2.22:53" {
		t.Errorf("changed: got %s", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := now(); got != "udp://192.0.2.22:53" {
		t.Errorf("removed: got %s", got)
	}
}
