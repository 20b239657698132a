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
	over    string
	rate    int
	args    []string
	to      netip.AddrPort
}

func newDNSLoad(ctx context.Context, s *stage, w *dnsWork) (*dnsLoad, error) {
	program, err := installed("dnsperf")(ctx)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "questions")
	if err := os.WriteFile(file, []byte(strings.Join(questions(w.ask, s.o.services), "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	l := &dnsLoad{ctx: ctx, program: program, over: w.over}
	l.args = []string{"-d", file, "-c", strconv.Itoa(dnsSockets), "-q", strconv.Itoa(dnsOutstanding), "-T", "1"}
	if w.edns {
		l.args = append(l.args, "-e")
	}
	if w.do {
		l.args = append(l.args, "-D")
	}
	l.rate = w.rate
	return l, nil
}

func (l *dnsLoad) backendAddr() netip.AddrPort { return netip.AddrPort{} }

func (l *dnsLoad) connect(to netip.AddrPort) error {
	l.to = to
	return nil
}

func (l *dnsLoad) disconnect() error { return nil }

func (l *dnsLoad) close() {}

// run returns how many queries were answered.
func (l *dnsLoad) run(d time.Duration) (int, error) {
	args := []string{"-m", l.over, "-l", fmt.Sprintf("%.3f", d.Seconds())}
	if l.rate > 0 {
		args = append(args, "-Q", strconv.Itoa(l.rate))
	}
	return l.dnsperf(args...)
}

// once asks each question once, over TCP.
func (l *dnsLoad) once() error {
	_, err := l.dnsperf("-m", "tcp", "-n", "1")
	return err
}

// dnsperf returns how many queries were answered, which all must be: nothing is lost on the way.
func (l *dnsLoad) dnsperf(args ...string) (int, error) {
	args = append([]string{"-s", l.to.Addr().String(), "-p", strconv.Itoa(int(l.to.Port()))}, append(args, l.args...)...)
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
	if err == nil && sent != completed {
		err = fmt.Errorf("of %d queries %d were answered", sent, completed)
	}
	return completed, err
}

// counted reads a line of what dnsperf prints.
func counted(output, what string) (int, error) {
	found := regexp.MustCompile(`(?m)^\s*Queries ` + what + `:\s+(\d+)`).FindStringSubmatch(output)
	if found == nil {
		return 0, fmt.Errorf("dnsperf printed no %q: %s", "Queries "+what, output)
	}
	return strconv.Atoi(found[1])
}
