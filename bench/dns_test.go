package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// quickDNS is one short round with few services.
func quickDNS(t *testing.T, peers ...string) options {
	t.Helper()
	if runtime.NumCPU() < 2 {
		t.Fatal("one processor: the load and the servers need one each")
	}
	o := quick()
	o.dnsPeers, o.services = peers, 50
	return o
}

func TestEveryWorkOfDNSPerf(t *testing.T) {
	for _, w := range dnsWorks() {
		if w.name == "dns-build" || w.name == "dns-change" { // Go benchmarks
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			o := quickDNS(t, ourDNS, "nsd", "knot", "coredns")
			var out bytes.Buffer
			records, err := w.run(context.Background(), o, &out)
			if err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			for _, name := range o.dnsPeers {
				found := false
				for _, r := range records {
					found = found || r.Peer == name && r.Work == w.name && r.Value > 0
				}
				if !found || strings.Contains(out.String(), name+" is left out") {
					t.Errorf("no result of %s:\n%s", name, &out)
				}
			}
			if !strings.Contains(out.String(), "budget: ") {
				t.Errorf("no budget:\n%s", &out)
			}
		})
	}
}

// Who answers otherwise than we do is not measured, and the work fails.
func TestPeerThatAnswersOtherwiseDNSPerf(t *testing.T) {
	var out bytes.Buffer
	_, err := onStage(quickDNS(t, ourDNS), &out, 1, func(s *stage) ([]record, error) {
		w := &dnsWork{over: "udp", ask: askAddresses}
		if err := s.startDNS(t.Context(), w); err != nil {
			return nil, err
		}
		zone, err := os.ReadFile(filepath.Join(s.dir, "zone"))
		if err != nil {
			return nil, err
		}
		line := serviceName(3) + "." + meshDomain + "\t5\tIN\tA\t10.0.0.30\n"
		if !bytes.Contains(zone, []byte(line)) {
			t.Fatalf("no %q in\n%s", line, zone)
		}
		for name, text := range map[string][]byte{"knot": zone, "nsd": bytes.Replace(zone, []byte(line), nil, 1)} {
			file := filepath.Join(s.dir, name+".zone")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				return nil, err
			}
			p, err := s.startDNSPeer(t.Context(), name, dnsSettings{Zone: file})
			if err != nil {
				return nil, err
			}
			s.peers = append(s.peers, p)
		}
		s.checkAnswers(w)
		if len(s.peers) != 2 || s.peers[1].name != "knot" {
			t.Errorf("%d are left, want %s and knot", len(s.peers), ourDNS)
		}
		return nil, nil
	})
	if err == nil || !strings.Contains(err.Error(), "nsd: ask "+serviceName(3)) {
		t.Errorf("%v, want a failure of nsd\n%s", err, &out)
	}
}
