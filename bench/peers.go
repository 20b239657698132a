package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// peer is a product that runs: one process, or one behind the other.
type peer struct {
	name      string
	addr      netip.AddrPort // where the clients go
	processes []*process     // the first is the clients'
}

// process is a running proxy.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	log    string // access log, "" for a server that has none
	sink   *sink  // of the access log, or nil
	stderr *bytes.Buffer
	logged int64
}

// start starts a peer in a folder of its own, with settings that tune may change.
func (s *stage) start(ctx context.Context, name, folder string, h hop, backend netip.AddrPort, tune func(*settings)) (*peer, error) {
	pr, err := findProduct(s.o.bin, name)
	if err != nil {
		return nil, err
	}
	program, err := pr.program(h.TCP)
	if err != nil {
		return nil, notInstalled{err}
	}
	dir := filepath.Join(s.dir, folder)
	if !h.Two {
		var front *tlsFiles
		if h.TLS {
			front = &tlsFiles{certificate: s.certs.Server}
		}
		set := settings{Dir: dir, Backend: backend, TCP: h.TCP, HTTP2: h.HTTP2, TLS: front}
		p, listen, err := s.startProcess(ctx, pr, program, set, tune)
		if err != nil {
			return nil, err
		}
		return &peer{name, listen, []*process{p}}, nil
	}
	behind, inner, err := s.startProcess(ctx, pr, program, settings{Dir: dir + "-2", Backend: backend, TLS: &tlsFiles{s.certs.Server, s.certs.CA}}, tune)
	if err != nil {
		return nil, fmt.Errorf("second proxy: %w", err)
	}
	front, listen, err := s.startProcess(ctx, pr, program, settings{Dir: dir, Backend: inner, UpstreamTLS: &tlsFiles{s.certs.Client, s.certs.CA}}, tune)
	if err != nil {
		behind.stop()
		return nil, fmt.Errorf("first proxy: %w", err)
	}
	return &peer{name, listen, []*process{front, behind}}, nil
}

// notInstalled says that a peer is not on this machine.
type notInstalled struct{ error }

func (s *stage) startProcess(ctx context.Context, pr *product, program string, set settings, tune func(*settings)) (*process, netip.AddrPort, error) {
	fail := func(p *process, err error) (*process, netip.AddrPort, error) {
		if p != nil {
			p.stop()
		}
		return nil, netip.AddrPort{}, err
	}
	if err := os.MkdirAll(set.Dir, 0o755); err != nil {
		return fail(nil, err)
	}
	set.AccessLog, set.ErrorLogFile = filepath.Join(set.Dir, "access.log"), filepath.Join(set.Dir, "error.log")
	set.Threads, set.MaxConns, set.MaxFiles, set.IdleSeconds = len(s.cpus.proxy), 4096, s.files, 60
	var err error
	if set.Listen, err = freePort(); err != nil {
		return fail(nil, err)
	}
	if set.Admin, err = freePort(); err != nil {
		return fail(nil, err)
	}
	if tune != nil {
		tune(&set)
	}
	p := &process{log: set.AccessLog, stderr: new(bytes.Buffer), exited: make(chan struct{})}
	if pr.sink {
		if p.sink, err = openSink(set.AccessLog); err != nil {
			return fail(nil, err)
		}
		set.LogSink = p.sink.addr
	}
	config, err := pr.writeConfig(set)
	if err != nil {
		return fail(p, err)
	}
	if err := s.launch(p, program, pr.args(config, set)...); err != nil {
		return fail(p, err)
	}
	if err := p.ready(ctx, set.Listen); err != nil {
		return fail(p, err)
	}
	return p, set.Listen, nil
}

// launch starts the process on the peers' processors.
func (s *stage) launch(p *process, program string, args ...string) error {
	p.cmd = exec.Command(program, args...)
	p.cmd.Stderr = p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal is for us; we then stop it
	if err := onCPU(s.cpus.proxy, p.cmd.Start); err != nil {
		p.cmd = nil
		return err
	}
	go func() {
		p.cmd.Wait()
		close(p.exited)
	}()
	return nil
}

// freePort returns a port that is free and from which no connection goes out, of which there will be thousands.
func freePort() (netip.AddrPort, error) {
	const from, until = 12000, 32000
	var last error
	for range 100 {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(from+rand.IntN(until-from)))
		l, err := net.Listen("tcp4", addr.String())
		if err == nil {
			return addr, l.Close()
		}
		last = err
	}
	return netip.AddrPort{}, fmt.Errorf("find a free port: %w", last)
}

// ready waits until the process accepts connections.
func (p *process) ready(ctx context.Context, at netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if c, err := net.Dial("tcp", at.String()); err == nil {
			return c.Close()
		}
		select {
		case <-p.exited:
			return p.ended()
		case <-ctx.Done():
			return fmt.Errorf("wait for %v: %w", at, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *process) ended() error {
	return fmt.Errorf("ended: %v: %s", p.cmd.ProcessState, bytes.TrimSpace(p.stderr.Bytes()))
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// check makes sure, after a measurement, that the process lives and has written its access log. Envoy and nginx write when a buffer is full or
// some seconds have passed.
func (p *process) check(ctx context.Context) error {
	for start := time.Now(); ; {
		select {
		case <-p.exited:
			return p.ended()
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if p.log == "" {
			return nil
		}
		info, err := os.Stat(p.log)
		if err != nil {
			return fmt.Errorf("read access log: %w", err)
		}
		if info.Size() > p.logged {
			p.logged = info.Size()
			return nil
		}
		if time.Since(start) > 12*time.Second {
			return fmt.Errorf("access log %s has not grown", p.log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// stop ends the process and waits for it.
func (p *process) stop() {
	defer p.sink.close()
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(3 * time.Second):
		p.cmd.Process.Kill()
		<-p.exited
	}
}

func (p *peer) check(ctx context.Context) error {
	var err error
	for _, process := range p.processes {
		err = errors.Join(err, process.check(ctx))
	}
	return err
}

func (p *peer) stop() {
	for _, process := range p.processes {
		process.stop()
	}
}

// pids are those of its processes and of what these have started.
func (p *peer) pids() ([]int, error) {
	var pids []int
	for _, process := range p.processes {
		more, err := descendants(process.pid())
		if err != nil {
			return nil, err
		}
		pids = append(append(pids, process.pid()), more...)
	}
	return pids, nil
}

// cpuTime is what all of them have used.
func (p *peer) cpuTime() (time.Duration, error) {
	pids, err := p.pids()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, pid := range pids {
		used, err := cpuTime(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// times are its processor time and that of this process, with the load generators that it has run.
func (p *peer) times() (proxy, self time.Duration, err error) {
	if proxy, err = p.cpuTime(); err != nil {
		return 0, 0, err
	}
	if self, err = cpuTime(os.Getpid()); err != nil {
		return 0, 0, err
	}
	var ran unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &ran); err != nil {
		return 0, 0, fmt.Errorf("read processor time of load generators: %w", err)
	}
	return proxy, self + time.Duration(ran.Utime.Nano()+ran.Stime.Nano()), nil
}

// memory is what all of them have resident.
func (p *peer) memory() (memory, error) {
	pids, err := p.pids()
	if err != nil {
		return memory{}, err
	}
	var sum memory
	for _, pid := range pids {
		m, err := memoryOf(pid)
		if err != nil {
			return memory{}, err
		}
		sum.resident += m.resident
		sum.own += m.own
	}
	return sum, nil
}
