package main

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// quick is one short round.
func quick(peers ...string) options {
	return options{peers: peers, rounds: 1, duration: 100 * time.Millisecond, conns: 8, idle: 200, clusters: 50, settle: 100 * time.Millisecond, bin: "../bin"}
}

func TestEveryWork(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Fatal("one processor: the load and the proxy need one each")
	}
	for _, w := range dataplaneWorks() {
		t.Run(w.name, func(t *testing.T) {
			o := quick(reference, ours)
			var out bytes.Buffer
			records, err := w.run(context.Background(), o, &out)
			if err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			for _, name := range o.peers {
				found := false
				for _, r := range records {
					found = found || r.Peer == name
				}
				if !found || !strings.Contains(out.String(), name) {
					t.Errorf("no result of %s:\n%s", name, &out)
				}
			}
			if len(o.peers) > 1 && w.name != "tls-handshake" && !strings.Contains(out.String(), "budget: ") {
				t.Errorf("no budget:\n%s", &out)
			}
		})
	}
}

// A peer that does not start fails the work by name, the others are measured.
func TestPeerThatDoesNotStartFailsTheWork(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Fatal("one processor: the load and the proxy need one each")
	}
	o := quick(ours, reference)
	o.bin = t.TempDir()
	if err := os.WriteFile(filepath.Join(o.bin, ours), []byte("#!/bin/sh\necho cannot >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := choose("http1-128")
	if err != nil {
		t.Fatal(err)
	}
	records, err := w[0].run(context.Background(), o, &out)
	if err == nil || !strings.Contains(err.Error(), "start mesh-proxy") || !strings.Contains(err.Error(), "cannot") || len(records) != 1 || records[0].Peer != reference {
		t.Errorf("%v, %+v\n%s", err, records, &out)
	}
}

// hops are all that the works ask of a proxy.
func hops() map[string]hop {
	all := map[string]hop{}
	for _, w := range traffics() {
		all[w.name] = w.hop
	}
	return all
}

func settingsFor(t *testing.T, h hop) settings {
	t.Helper()
	certs, err := newCertificates(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := settings{
		Dir: dir, Listen: netip.MustParseAddrPort("127.0.0.1:1"), Backend: netip.MustParseAddrPort("127.0.0.1:2"),
		Admin: netip.MustParseAddrPort("127.0.0.1:3"), LogSink: netip.MustParseAddrPort("127.0.0.1:4"), AccessLog: filepath.Join(dir, "log"),
		ErrorLogFile: filepath.Join(dir, "err"), TCP: h.TCP, HTTP2: h.HTTP2, Threads: 1, MaxConns: 100, MaxFiles: 1000, IdleSeconds: 60, Clusters: []int{0, 1},
	}
	if h.TLS {
		s.TLS = &tlsFiles{certificate: certs.Server}
	}
	if h.Two { // both of its sides at once
		s.TLS, s.UpstreamTLS = &tlsFiles{certs.Server, certs.CA}, &tlsFiles{certs.Client, certs.CA}
	}
	return s
}

func TestConfigurations(t *testing.T) {
	for name, h := range hops() {
		for _, pr := range products("bin") {
			file, err := pr.writeConfig(settingsFor(t, h))
			if err != nil {
				t.Errorf("%s of %s: %v", name, pr.name, err)
				continue
			}
			b, err := os.ReadFile(file)
			if err != nil || bytes.Contains(b, []byte("{{")) || !bytes.Contains(b, []byte("127.0.0.1")) || h.TCP == bytes.Contains(b, []byte(authority)) {
				t.Errorf("%s of %s: %v\n%s", name, pr.name, err, b)
			}
		}
	}
}

// What mesh-proxy is given is Envoy's own form, for every work.
func TestStockEnvoyTakesEveryBootstrap(t *testing.T) {
	pr, err := findProduct("bin", "envoy")
	if err != nil {
		t.Fatal(err)
	}
	program, err := pr.program(false)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[hop]bool{}
	for name, h := range hops() {
		if seen[h] {
			continue
		}
		seen[h] = true
		file, err := pr.writeConfig(settingsFor(t, h))
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, "--mode", "validate", "-c", file, "--log-level", "error").CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}
