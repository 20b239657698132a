package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is one server that a test started. It dies with the test process, however that ends.
type process struct {
	cmd    *exec.Cmd
	output logTail
	exited chan struct{} // closed when the process has ended and was waited for
	err    error         // what Wait said; read after exited
}

// spawn starts a program. The kernel kills it when the thread that forked it ends, so that thread is kept for as long
// as the process lives.
func spawn(path string, args []string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), exited: make(chan struct{})}
	p.cmd.Env = serverEnv()
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return p, nil
}

// serverEnv is all that a server gets of the environment: what a developer set for a client of his must not set up a
// test's server.
func serverEnv() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// signal sends sig; a process that has already ended is no error.
func (p *process) signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.cmd.Path, err)
	}
	return nil
}

// pause stops the process and waits until each of its threads has stopped: the signal reaches them one by one.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); p.running(); time.Sleep(time.Millisecond) {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(stats, func(file string) bool {
			text, err := os.ReadFile(file)
			_, state, ok := bytes.Cut(text, []byte(") "))
			return err == nil && ok && len(state) > 0 && !bytes.ContainsAny(state[:1], "TtZX")
		}) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("pause %s: it runs on", p.cmd.Path)
		}
	}
	return nil
}

// kill ends the process as a crash would, even when it is paused, and waits until it is gone.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.exited
	return nil
}

// stop asks the process to end and waits; after the grace it is killed.
func (p *process) stop(grace time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(grace):
		return p.kill()
	}
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// logTail keeps the last part of what a process wrote.
type logTail struct {
	mu   sync.Mutex
	data []byte // guarded by mu
}

const maxLog = 256 << 10

func (l *logTail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, b...)
	if extra := len(l.data) - maxLog; extra > 0 {
		l.data = append(l.data[:0], l.data[extra:]...)
	}
	return len(b), nil
}

func (l *logTail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(bytes.TrimSpace(l.data))
}

// showLogOnFailure makes a failing test tell what the server said.
func showLogOnFailure(t testing.TB, name string, p *process) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, p.output.String())
		}
	})
}
