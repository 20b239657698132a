package dns

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/registry"
)

// Each question has an ID and a port of its own, which nobody can foresee (CVE-2023-30464, GHSA-gv9j-4w24-q7vx).
func TestCVEClass29_QuestionsCannotBeForeseen(t *testing.T) {
	const questions = 100
	var mu sync.Mutex
	ids, ports := map[uint16]bool{}, map[string]bool{}
	steps := map[uint16]int{}
	var last uint16
	address := hostile(t, func(w dns.ResponseWriter, q *dns.Msg) {
		_, port, _ := net.SplitHostPort(w.RemoteAddr().String())
		mu.Lock()
		ids[q.Id], ports[port] = true, true
		steps[q.Id-last]++
		last = q.Id
		mu.Unlock()
		_ = w.WriteMsg(reply(q, "192.0.2.1"))
	})
	s, err := newServers(Config{Resolvers: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	r := newResolver(s, 5*time.Second)
	for range questions {
		if _, err := r.records(t.Context(), "w.example.", dns.TypeA); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ids) < questions-5 || len(ports) < questions/2 {
		t.Errorf("%d questions had %d IDs and %d ports", questions, len(ids), len(ports))
	}
	for step, n := range steps {
		if n > 5 {
			t.Errorf("the ID grew %d times by %d", n, step)
		}
	}
}

// What an answer brings along about other names is believed about the targets of that very answer only, and never kept
// for other names (cache poisoning).
func TestCVEClass29_AdditionalRecordsOfOthersAreNotBelieved(t *testing.T) {
	m := message(t, 0, `
_http._tcp.w.example. 9 SRV 0 0 80 a.example.
additional
a.example. 9 A 192.0.2.1
b.example. 9 A 192.0.2.66`)
	if r := about(m.Extra, "b.example.other.", dns.TypeA); len(r.found) > 0 {
		t.Errorf("got %v", r.found)
	}
	z := newZone(t, "b.example. 9 A 192.0.2.2")
	first, err := (&lookup{extraOf{z, m}}).resolve(t.Context(), newName(Service{Name: "w", SRV: "_http._tcp.w.example", Family: IPv4}, "default"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(first); !slices.Equal(got, []string{"192.0.2.1:80 *1"}) {
		t.Errorf("got %q", got)
	}
	other, err := (&lookup{extraOf{z, m}}).resolve(t.Context(), newName(Service{Name: "b", Host: "b.example", Port: 80, Family: IPv4}, "default"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(other); !slices.Equal(got, []string{"192.0.2.2:80 *1"}) {
		t.Errorf("got %q, want what its own server says", got)
	}
}

// A name with more endpoints, targets or aliases than a bound fails, and what it had stays (CVE-2026-26018, CVE-2025-68151).
func TestCVEClass18_AnswersAreBounded(t *testing.T) {
	var hosts, targets strings.Builder
	for i := range maxEndpoints + 1 {
		fmt.Fprintf(&hosts, "w.example. 9 A 10.0.%d.%d\n", i>>8, i&255)
	}
	for i := range maxTargets + 1 {
		fmt.Fprintf(&targets, "_http._tcp.w.example. 9 SRV 0 0 80 t%d.example.\n", i)
	}
	for name, c := range map[string]struct {
		service Service
		zone    string
		want    string
	}{
		"addresses": {Service{Name: "w", Host: "w.example", Port: 80}, hosts.String(), "got 4097 endpoints"},
		"targets":   {Service{Name: "w", SRV: "_http._tcp.w.example"}, targets.String(), "got 1025 targets"},
		"aliases":   {Service{Name: "w", Host: "w.example", Port: 80}, "w.example. 9 CNAME v.example.\nv.example. 9 CNAME w.example.", "a loop of them"},
	} {
		_, err := (&lookup{newZone(t, c.zone)}).resolve(t.Context(), newName(c.service, "default"), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// A name cannot lead to the caller's own address, or to everybody's.
func TestCVEClass12_AddressesLeadToOneHost(t *testing.T) {
	for kind, addrs := range map[string][]string{"A": {"0.0.0.0", "224.0.0.1", "255.255.255.255"}, "AAAA": {"::", "ff02::1", "fe80::1", "::ffff:0.0.0.0", "::ffff:192.0.2.9"}} {
		for _, addr := range addrs {
			f, err := (&lookup{newZone(t, "w.example. 9 "+kind+" "+addr)}).resolve(t.Context(), newName(Service{Name: "w", Host: "w.example", Port: 80}, registry.DefaultNamespace), nil)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.endpoints) > 0 || len(f.problems) != 1 {
				t.Errorf("%s: got %v, problems %v", addr, f.endpoints, f.problems)
			}
			for _, p := range f.problems {
				if p.Kind != "address" {
					t.Errorf("%s: a problem of kind %q", addr, p.Kind)
				}
			}
		}
	}
}

// extraOf answers SRV questions with one message, others from the zone.
type extraOf struct {
	*zone
	srv *dns.Msg
}

func (x extraOf) records(ctx context.Context, name string, qtype uint16) (records, error) {
	if qtype == dns.TypeSRV {
		return read(x.srv, name, qtype)
	}
	return x.zone.records(ctx, name, qtype)
}
