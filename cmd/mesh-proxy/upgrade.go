package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/host"
	"github.com/hostmesh/hostmesh/proxy/takeover"
	"github.com/hostmesh/hostmesh/proxy/xds"
	"github.com/hostmesh/hostmesh/systemd"
)

// upgrader has a new process take over from this one.
type upgrader struct {
	v     *service
	path  string
	state takeover.State
	host  atomic.Pointer[host.Host]

	mu        sync.Mutex // one at a time
	handed    chan struct{}
	successor *takeover.Successor // of handed

	attempts, failures atomic.Uint64
}

func newUpgrader(v *service) *upgrader {
	u := &upgrader{v: v, handed: make(chan struct{}), state: takeover.State{Started: time.Now()}}
	if v.heir != nil {
		u.state = v.heir.old.State
		u.state.Epoch++
		u.attempts.Store(u.state.Counters["attempts"])
		u.failures.Store(u.state.Counters["failures"])
	}
	// By the name that it was started with: what stands there later is the new program, also behind a symbolic link.
	path, err := exec.LookPath(os.Args[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path = os.Args[0]
	}
	u.path = path
	return u
}

var errUnderWay = errors.New("an upgrade is under way")

// upgrade starts the program and hands over to it. When it returns nil the other process serves and this one drains;
// otherwise this one serves as before. It may be called from any goroutine.
func (u *upgrader) upgrade(ctx context.Context) error {
	if !u.mu.TryLock() {
		return errUnderWay
	}
	defer u.mu.Unlock()
	if u.handedOver() || u.v.parts.stopping.Load() {
		return errors.New("this process is ending: ask the one that has taken over")
	}
	log := u.v.log
	u.attempts.Add(1)
	log.Info("another process is to take over", "program", u.path, "timeout", u.v.settings.upgradeTime)
	began := time.Now()
	s, err := u.startSuccessor(ctx)
	if err != nil {
		u.failures.Add(1)
		_ = u.v.engine.Reclaim(ctx) // which fails if this process ends as well
		log.Error("upgrade failed, this process serves on", "err", err)
		u.v.tell("STATUS=serving; the last upgrade failed: %v", err)
		return err
	}
	log.Info("another process has taken over", "pid", s.PID, "version", s.Program, "after", time.Since(began))
	if err := u.v.manager.Say(systemd.MainPID(s.PID), systemd.Ready, "STATUS=serving"); err != nil {
		log.Warn("service manager does not hear of the new main process", "err", err)
	}
	if err := s.IsMain(); err != nil {
		log.Warn("successor does not hear", "err", err)
	}
	if err := u.v.engine.HandOver(ctx, s.Addresses, s); err != nil {
		log.Error("sockets are not let go", "err", err)
	}
	if h := u.host.Load(); h != nil {
		h.Abandon()
	}
	u.successor = s
	close(u.handed)
	u.v.stop()
	return nil
}

func (u *upgrader) startSuccessor(ctx context.Context) (*takeover.Successor, error) {
	ctx, cancel := context.WithTimeout(ctx, u.v.settings.upgradeTime)
	defer cancel()
	sockets, err := u.v.engine.Sockets(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, s := range sockets {
			_ = syscall.Close(s.FD)
		}
	}()
	if names := u.v.places.resolver; names != nil {
		fds, err := names.Sockets()
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			sockets = append(sockets, takeover.Socket{FD: fd})
		}
	}
	state := u.state
	state.Counters = map[string]uint64{"attempts": u.attempts.Load(), "failures": u.failures.Load()}
	return takeover.Start(ctx, takeover.Offer{
		Program: version, Path: u.path, Args: os.Args, Env: systemd.Environ(os.Environ()), Sockets: sockets, State: state,
	})
}

func (u *upgrader) handedOver() bool {
	select {
	case <-u.handed:
		return true
	default:
		return false
	}
}

// leaving tells the successor when run, which stands for this host in the ring, has ended.
func (u *upgrader) leaving(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := run(ctx)
		if err == nil {
			<-ctx.Done() // it may have been abandoned; its end is not that of the others
		}
		if u.handedOver() {
			_ = u.successor.Left()
		}
		return err
	}
}

// unlessHandedOver ends run early for a process that drains after an upgrade: one process of a host has the control
// plane's ear.
func (u *upgrader) unlessHandedOver(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		own, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-u.handed:
				cancel()
			case <-own.Done():
			}
		}()
		err := run(own)
		if err == nil && u.handedOver() {
			<-ctx.Done()
		}
		return err
	}
}

// close ends the conversation with the successor.
func (u *upgrader) close() {
	if u.handedOver() {
		_ = u.successor.Close()
	}
}

func (u *upgrader) stats() []xds.Stat {
	stats := []xds.Stat{
		{Name: "upgrade.attempts", Value: u.attempts.Load(), Counter: true},
		{Name: "upgrade.failures", Value: u.failures.Load(), Counter: true},
		{Name: "server.hot_restart_epoch", Value: u.state.Epoch},
	}
	parent := uint64(0)
	if h := u.v.heir; h != nil {
		parent = uint64(h.draining.Load())
	}
	return append(stats, xds.Stat{Name: "server.parent_connections", Value: parent})
}

// heir is this process as the successor of another.
type heir struct {
	v    *service
	old  *takeover.Predecessor
	main chan struct{} // closed when this is the main process
	left chan struct{} // closed when the other has left the ring

	once     [2]sync.Once
	draining atomic.Int64 // connections of the other
}

func newHeir(v *service, old *takeover.Predecessor) *heir {
	return &heir{v: v, old: old, main: make(chan struct{}), left: make(chan struct{})}
}

// run takes over when all is ready, and takes what the other process gives until that is gone.
func (h *heir) run(ctx context.Context) error {
	for {
		if state, _ := h.v.engine.State(); state == "LIVE" {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := h.old.Ready(ctx, h.v.engine.Addresses()); err != nil {
		return err
	}
	close(h.v.start)
	select {
	case <-ctx.Done():
		return nil
	case <-h.v.engine.Accepting():
	}
	if err := h.old.Serving(); err != nil { // it is gone, and nobody else serves
		h.v.log.Warn("the process before does not hear", "err", err)
	}
	h.v.log.Info("taken over", "pid", h.old.PID, "version", h.old.Program)
	if err := h.old.Follow(ctx, h); err != nil {
		h.v.log.Warn("the process before cannot be followed", "err", err)
	}
	<-ctx.Done()
	return nil
}

// IsMain begins what the main process alone does.
func (h *heir) IsMain() { h.once[0].Do(func() { close(h.main) }) }

// Left begins to stand for the host in the ring.
func (h *heir) Left() { h.once[1].Do(func() { close(h.left) }) }

// Draining is told how many connections the other has left.
func (h *heir) Draining(n int) { h.draining.Store(int64(n)) }

// Adopt serves connections of the other.
func (h *heir) Adopt(all []takeover.Connection) { h.v.engine.Adopt(context.Background(), all) }
