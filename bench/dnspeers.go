package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// The names of who takes part. The others serve the zone that ours is copied as.
const (
	ourDNS       = "mesh-control"
	dnsReference = "nsd"
)

//go:embed control.yaml.tmpl nsd.conf.tmpl knot.conf.tmpl Corefile.tmpl
var dnsConfigs embed.FS

// dnsProduct is a DNS server that can be measured.
type dnsProduct struct {
	config string // a template over dnsSettings
	args   func(config string) []string
	find   func(ctx context.Context) (string, error)
}

// dnsSettings are what a configuration depends on.
type dnsSettings struct {
	Dir           string
	Listen, Admin netip.AddrPort
	Services      string // folder of static.d
	Zone          string // file
	Signed        bool
}

func installed(name string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		for _, path := range []string{name, "/usr/sbin/" + name} {
			if found, err := exec.LookPath(path); err == nil {
				return found, nil
			}
		}
		return "", fmt.Errorf("find %s: not installed (bench/setup.sh)", name)
	}
}

func findDNS(bin, name string) (*dnsProduct, error) {
	switch name {
	case ourDNS:
		return &dnsProduct{"control.yaml.tmpl", func(c string) []string { return []string{"control", "--config", c} }, func(context.Context) (string, error) {
			return exec.LookPath(filepath.Join(bin, "mesh"))
		}}, nil
	case "nsd":
		return &dnsProduct{"nsd.conf.tmpl", func(c string) []string { return []string{"-d", "-c", c} }, installed("nsd")}, nil
	case "knot":
		return &dnsProduct{"knot.conf.tmpl", func(c string) []string { return []string{"-c", c} }, installed("knotd")}, nil
	case "coredns":
		return &dnsProduct{"Corefile.tmpl", func(c string) []string { return []string{"-quiet", "-conf", c} }, func(ctx context.Context) (string, error) {
			return testbed.Build(ctx, "coredns")
		}}, nil
	}
	return nil, fmt.Errorf("no DNS peer %q", name)
}

// startDNS starts all that take part, ours first: the others serve the copy that it gives of its zone.
func (s *stage) startDNS(ctx context.Context, w *dnsWork) error {
	services := filepath.Join(s.dir, "static.d")
	if err := writeServices(services, s.o.services); err != nil {
		return fmt.Errorf("write services: %w", err)
	}
	zone := filepath.Join(s.dir, "zone")
	names := slices.Clone(s.o.dnsPeers)
	if i := slices.Index(names, ourDNS); i >= 0 {
		names[0], names[i] = names[i], names[0]
	} else {
		return fmt.Errorf("%s has to take part: its zone is what all serve", ourDNS)
	}
	for _, name := range names {
		if why := w.without[name]; why != "" {
			fmt.Fprintf(s.out, "%s is left out: %s\n", name, why)
			continue
		}
		p, err := s.startDNSPeer(ctx, name, dnsSettings{Services: services, Zone: zone, Signed: w.signed})
		if name == ourDNS {
			if err == nil {
				s.peers = append(s.peers, p)
				err = awaitCopy(ctx, p.addr, zone)
			}
			if err != nil {
				return fmt.Errorf("start %s: %w", name, err)
			}
			continue
		}
		var missing notInstalled
		switch {
		case errors.As(err, &missing):
			fmt.Fprintf(s.out, "%s is left out: %v\n", name, err)
		case err != nil:
			s.fail(fmt.Errorf("start %s: %w", name, err))
		default:
			s.peers = append(s.peers, p)
		}
	}
	return nil
}

func (s *stage) startDNSPeer(ctx context.Context, name string, set dnsSettings) (*peer, error) {
	pr, err := findDNS(s.o.bin, name)
	if err != nil {
		return nil, err
	}
	program, err := pr.find(ctx)
	if err != nil {
		return nil, notInstalled{err}
	}
	if set.Listen, err = freePort(); err != nil {
		return nil, err
	}
	if set.Admin, err = freePort(); err != nil {
		return nil, err
	}
	set.Dir = filepath.Join(s.dir, name)
	if err := os.MkdirAll(set.Dir, 0o700); err != nil {
		return nil, err
	}
	config, err := writeDNSConfig(pr.config, set)
	if err != nil {
		return nil, err
	}
	p := &process{stderr: new(bytes.Buffer), exited: make(chan struct{})}
	if err := s.launch(p, program, pr.args(config)...); err != nil {
		return nil, err
	}
	one := &peer{name, set.Listen, []*process{p}}
	if err := errors.Join(p.serves(ctx, set.Listen, s.o.services), one.pin(s.cpus.proxy)); err != nil {
		p.stop()
		return nil, err
	}
	return one, nil
}

func writeDNSConfig(name string, set dnsSettings) (string, error) {
	t, err := template.New(name).Option("missingkey=error").ParseFS(dnsConfigs, name)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, set); err != nil {
		return "", err
	}
	file := filepath.Join(set.Dir, strings.TrimSuffix(name, ".tmpl"))
	return file, os.WriteFile(file, b.Bytes(), 0o600)
}

// serves waits until the process answers for the last service.
func (p *process) serves(ctx context.Context, at netip.AddrPort, services int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	client := dns.Client{Timeout: time.Second}
	for {
		m, _, err := client.Exchange(new(dns.Msg).SetQuestion(serviceName(services-1)+"."+meshDomain, dns.TypeA), at.String())
		if err == nil && len(m.Answer) == dnsEndpoints {
			return nil
		}
		select {
		case <-p.exited:
			return p.ended()
		case <-ctx.Done():
			return fmt.Errorf("wait for an answer of %v: %w: %s", at, ctx.Err(), bytes.TrimSpace(p.stderr.Bytes()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// pin puts all threads of a peer where they were started: Knot moves its workers by itself.
func (p *peer) pin(cpus []int) error {
	pids, err := p.pids()
	if err != nil {
		return err
	}
	set := setOf(cpus...)
	for _, pid := range pids {
		if err := eachThread(pid, func(tid int) error { return unix.SchedSetaffinity(tid, &set) }); err != nil {
			return fmt.Errorf("pin %s: %w", p.name, err)
		}
	}
	return nil
}

// awaitCopy copies the zone as soon as there is a copy: a signed one has hundreds of thousands of signatures.
func awaitCopy(ctx context.Context, from netip.AddrPort, file string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		err := copyZone(from, file)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// copyZone writes the zone as a server gives it to secondaries to a file, without the NS records of its origin: NSD and CoreDNS
// would add them, with addresses, to every answer, which we do not.
func copyZone(from netip.AddrPort, file string) error {
	transfer := dns.Transfer{ReadTimeout: 2 * time.Minute}
	messages, err := transfer.In(new(dns.Msg).SetAxfr(meshDomain), from.String())
	if err != nil {
		return fmt.Errorf("copy the zone: %w", err)
	}
	var b bytes.Buffer
	for m := range messages {
		if m.Error != nil {
			return fmt.Errorf("copy the zone: %w", m.Error)
		}
		for _, rr := range m.RR {
			if _, end := rr.(*dns.SOA); end && b.Len() > 0 {
				break
			}
			covers := rr.Header().Rrtype
			if sig, ok := rr.(*dns.RRSIG); ok {
				covers = sig.TypeCovered
			}
			if covers != dns.TypeNS {
				fmt.Fprintln(&b, rr)
			}
		}
	}
	return os.WriteFile(file, b.Bytes(), 0o600)
}
