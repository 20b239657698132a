package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// What dnsperf does: many sockets, and so many queries outstanding on all of them together.
const (
	dnsSockets     = 16
	dnsOutstanding = 100
)

// dnsLoad is dnsperf, as a generator.
type dnsLoad struct {
	ctx     context.Context
	program string
	args    []string
	to      netip.AddrPort
}

func newDNSLoad(ctx context.Context, s *stage, w *dnsWork) (*dnsLoad, error) {
	program, err := installed("dnsperf")(ctx)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "questions")
	if err := os.WriteFile(file, []byte(strings.Join(questions(w.ask), "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	args := []string{"-d", file, "-m", w.over, "-c", strconv.Itoa(dnsSockets), "-q", strconv.Itoa(dnsOutstanding), "-T", "1"}
	if w.edns {
		args = append(args, "-e")
	}
	if w.do {
		args = append(args, "-D")
	}
	if w.rate > 0 {
		args = append(args, "-Q", strconv.Itoa(w.rate))
	}
	return &dnsLoad{ctx: ctx, program: program, args: args}, nil
}

func (l *dnsLoad) backendAddr() netip.AddrPort { return netip.AddrPort{} }

func (l *dnsLoad) connect(to netip.AddrPort) error {
	l.to = to
	return nil
}

func (l *dnsLoad) disconnect() error { return nil }

func (l *dnsLoad) close() {}

// run returns how many queries were answered, which all must be.
func (l *dnsLoad) run(d time.Duration) (int, error) {
	args := append([]string{"-s", l.to.Addr().String(), "-p", strconv.Itoa(int(l.to.Port())), "-l", fmt.Sprintf("%.3f", d.Seconds())}, l.args...)
	var out bytes.Buffer
	cmd := exec.CommandContext(l.ctx, l.program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("run dnsperf: %w: %s", err, bytes.TrimSpace(out.Bytes()))
	}
	sent, err := counted(out.String(), "sent")
	if err != nil {
		return 0, err
	}
	completed, err := counted(out.String(), "completed")
	if err != nil {
		return 0, err
	}
	return completed, lossless(sent, completed)
}

// counted reads a line of what dnsperf prints.
func counted(output, what string) (int, error) {
	found := regexp.MustCompile(`(?m)^\s*Queries ` + what + `:\s+(\d+)`).FindStringSubmatch(output)
	if found == nil {
		return 0, fmt.Errorf("dnsperf printed no %q: %s", "Queries "+what, output)
	}
	return strconv.Atoi(found[1])
}
