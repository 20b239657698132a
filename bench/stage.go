package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stage is what a work of the data plane plays on: processors, certificates, a folder, and the peers that take part.
type stage struct {
	o     options
	out   io.Writer
	dir   string
	cpus  processors
	certs *certificates
	files int // that a process may have open
	peers []*peer
	// failed is why peers that should take part do not. The others are measured nevertheless.
	failed error
}

// onStage runs play with the load's processor as this process's only one, and clears up after it. What peers could not do is
// an error, after the others' results.
func onStage(o options, out io.Writer, cores int, play func(*stage) ([]record, error)) (records []record, err error) {
	s := &stage{o: o, out: out}
	if s.dir, err = os.MkdirTemp("", "hostmesh-bench-"); err != nil {
		return nil, err
	}
	if o.keep {
		fmt.Fprintln(out, "files are in", s.dir)
	} else {
		defer os.RemoveAll(s.dir)
	}
	if s.certs, err = newCertificates(filepath.Join(s.dir, "certs")); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	if s.files, err = raiseFiles(); err != nil {
		return nil, err
	}
	if s.cpus, err = pickProcessors(max(cores, 1)); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pinSelf(s.cpus.all)) }()
	if err := pinSelf(setOf(s.cpus.load)); err != nil {
		return nil, err
	}
	defer func() {
		for _, p := range s.peers {
			p.stop()
		}
	}()
	records, err = play(s)
	return records, errors.Join(err, s.failed)
}

// raiseFiles lets this process, and what it starts, open as many files as the hard limit allows.
func raiseFiles() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of files: %w", err)
	}
	limit.Cur = limit.Max
	// By syscall, not unix: package syscall would give children the old limit back if it had not been told.
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit.Cur, Max: limit.Max}); err != nil {
		return 0, fmt.Errorf("raise the limit of files: %w", err)
	}
	return int(min(limit.Max, 1<<20)), nil
}

// startPeers starts all that take part. without names those that cannot do the work, with the reason.
func (s *stage) startPeers(ctx context.Context, without map[string]string, h hop, backend netip.AddrPort) error {
	for _, name := range s.o.peers {
		if why := without[name]; why != "" {
			fmt.Fprintf(s.out, "%s is left out: %s\n", name, why)
			continue
		}
		p, err := s.start(ctx, name, name, h, backend, nil)
		if s.absent(name, err) {
			continue
		}
		s.peers = append(s.peers, p)
	}
	return s.enough()
}

// absent notes why a peer is not there; it returns false for one that is.
func (s *stage) absent(name string, err error) bool {
	var missing notInstalled
	switch {
	case err == nil:
		return false
	case errors.As(err, &missing) && name != ours:
		fmt.Fprintf(s.out, "%s is left out: %v\n", name, err)
	default:
		s.fail(fmt.Errorf("start %s: %w", name, err))
	}
	return true
}

// fail notes what a peer could not do.
func (s *stage) fail(err error) {
	first, _, _ := strings.Cut(err.Error(), "\n")
	fmt.Fprintln(s.out, "FAILED:", first)
	s.failed = errors.Join(s.failed, err)
}

func (s *stage) enough() error {
	if len(s.peers) == 0 && s.failed == nil {
		return errors.New("no peer takes part")
	}
	return nil
}

// remove takes a peer out that has failed in a measurement.
func (s *stage) remove(p *peer, err error) {
	s.fail(fmt.Errorf("%s: %w", p.name, err))
	p.stop()
	s.peers = slices.DeleteFunc(s.peers, func(q *peer) bool { return q == p })
}
