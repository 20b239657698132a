package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// readyWithin bounds how long a server may take until it serves; it is generous for a loaded machine.
const readyWithin = 60 * time.Second

// errPortTaken means that somebody took a port between our asking for it and the server's binding it.
var errPortTaken = errors.New("port was taken")

// server is what all servers have in common: one process that can be ended and started again with equal arguments.
type server struct {
	t     testing.TB
	name  string // in logs and errors
	path  string
	args  []string
	ready func(context.Context) error // nil when the server serves
	proc  *process
}

// leftOutEnv lists what e2e/test.sh has told that it leaves out, because it is not installed or needs root.
const leftOutEnv = "HOSTMESH_LEFT_OUT"

// skipLeftOut skips the test when what it needs is left out. What is missing otherwise is a failure.
func skipLeftOut(t testing.TB, what string) {
	t.Helper()
	if slices.Contains(strings.Fields(os.Getenv(leftOutEnv)), what) {
		t.Skipf("%s is left out", what)
	}
}

// startServers calls start, with other ports as often as somebody else took one.
func startServers[T any](t testing.TB, start func() (T, error)) T {
	t.Helper()
	for attempt := 1; ; attempt++ {
		started, err := start()
		if err == nil {
			return started
		}
		if attempt == 5 || !errors.Is(err, errPortTaken) {
			t.Fatal(err)
		}
	}
}

// startTogether starts servers that need each other, waits until all serve, and ends them when the test ends. When
// one fails none is left running.
func startTogether(servers ...*server) error {
	for i, s := range servers {
		if err := s.start(); err != nil {
			endAll(servers[:i])
			return err
		}
	}
	for _, s := range servers {
		if err := s.awaitReady(); err != nil {
			endAll(servers)
			return err
		}
	}
	servers[0].t.Cleanup(func() { endAll(servers) })
	return nil
}

func (s *server) start() error {
	proc, err := spawn(s.path, s.args)
	if err != nil {
		return err
	}
	s.proc = proc
	showLogOnFailure(s.t, s.name, proc)
	return nil
}

// awaitReady returns when the server serves.
func (s *server) awaitReady() error {
	for deadline := time.Now().Add(readyWithin); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := s.ready(ctx)
		cancel()
		if !s.proc.running() {
			log := s.proc.output.String()
			if strings.Contains(strings.ToLower(log), "address already in use") {
				return fmt.Errorf("start %s: %w", s.name, errPortTaken)
			}
			return fmt.Errorf("start %s: it ended: %w\n%s", s.name, s.proc.err, log)
		}
		if err == nil || errors.Is(err, errPortTaken) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("start %s: not ready after %s: %w\n%s", s.name, readyWithin, err, s.proc.output.String())
		}
	}
}

// Kill ends the server by SIGKILL, as a crash does, and waits until it is gone.
func (s *server) Kill() { s.t.Helper(); s.must(s.proc.kill()) }

// Stop ends the server in order and waits until it is gone.
func (s *server) Stop() { s.t.Helper(); s.must(s.proc.stop(10 * time.Second)) }

// Pause stops the server's execution (SIGSTOP): its connections stay open and nothing answers.
func (s *server) Pause() { s.t.Helper(); s.must(s.proc.pause()) }

// Continue ends a Pause.
func (s *server) Continue() { s.t.Helper(); s.must(s.proc.signal(syscall.SIGCONT)) }

// Start starts a killed or stopped server again, on the same ports, and does not wait until it serves. It has the
// data that it kept on disk.
func (s *server) Start() {
	s.t.Helper()
	if s.proc.running() {
		s.t.Fatalf("start %s: it is running", s.name)
	}
	s.must(s.start())
}

// AwaitReady returns when the server serves; the test fails when it does not in a minute. A server of a cluster
// serves when it knows a leader.
func (s *server) AwaitReady() { s.t.Helper(); s.must(s.awaitReady()) }

// Restart is Kill where it still runs, Start and AwaitReady.
func (s *server) Restart() {
	s.t.Helper()
	s.Kill()
	s.Start()
	s.AwaitReady()
}

// PID returns the process's id.
func (s *server) PID() int { return s.proc.cmd.Process.Pid }

func (s *server) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func endAll(servers []*server) {
	for _, s := range servers {
		if s.proc != nil {
			if err := s.proc.kill(); err != nil {
				fmt.Fprintln(os.Stderr, "testbed:", err)
			}
		}
	}
}
