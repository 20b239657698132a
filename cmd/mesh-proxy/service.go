package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/host"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/overload"
	"github.com/hostmesh/hostmesh/proxy/takeover"
	"github.com/hostmesh/hostmesh/proxy/xds"
	"github.com/hostmesh/hostmesh/systemd"
)

const (
	inheritTime = 10 * time.Second // to hear what a predecessor hands over
	bootTime    = 15 * time.Second // a host boots without a control plane: until then "ready" waits for it
)

// service is the program while it runs.
type service struct {
	settings *settings
	log      *slog.Logger
	manager  *systemd.Manager
	engine   *proxy.Proxy
	client   *xds.Client
	parts    parts
	places   places
	upgrader *upgrader
	heir     *heir // nil: nobody was here before
	start    chan struct{}
	stop     context.CancelFunc
}

// serve runs everything until a signal, until a part of it fails, or until another process has taken over and the last
// connection has ended.
func serve(s *settings, log *slog.Logger) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	v := &service{settings: s, log: log, stop: stop}
	if err := v.prepare(ctx); err != nil {
		return err
	}
	defer v.signals(ctx)()
	runs, err := v.runs()
	if err != nil {
		return err
	}
	err = v.parts.run(ctx, v.ended, runs)
	v.upgrader.close()
	log.Info("mesh-proxy has ended")
	return err
}

// prepare makes all parts; nothing is served yet.
func (v *service) prepare(ctx context.Context) error {
	s := v.settings
	loops := tune(s.loops)
	limit := overload.MemoryLimit()
	bounds := overloadOf(s.bootstrap, limit)
	boundMemory(bounds, limit)
	if s.state != "" {
		if err := os.MkdirAll(s.state, 0o700); err != nil {
			return fmt.Errorf("prepare state directory: %w", err)
		}
	}
	var err error
	if v.manager, err = systemd.Connect(); err != nil {
		return err
	}
	given, err := v.inherit(ctx)
	if err != nil {
		return err
	}
	v.client, err = xds.New(xds.Options{Bootstrap: s.bootstrap, StateDir: s.state, AccessLog: s.accessLog, Version: version, Log: v.log})
	if err != nil {
		return err
	}
	v.upgrader = newUpgrader(v)
	v.engine, err = proxy.New(proxy.Options{
		Config: v.place(ctx, given), Steered: v.places.steered, Admin: s.admin, AdminSocket: s.adminSocket, Loops: loops, DrainTime: s.drainTime,
		ListenerDrainTime: s.listenerDrainTime, HandedOverTime: s.handedOverTime,
		Overload: bounds, Sockets: given, Start: v.start, Upgrade: v.upgrader.upgrade, ConfigDump: v.client.ConfigDump, ControlPlane: v.stats,
		Node: s.bootstrap.Node.ID, Version: version, Log: v.log, Ready: v.ready,
	})
	if err != nil {
		return err
	}
	if err := v.answerNames(); err != nil {
		return err
	}
	v.log.Info("mesh-proxy starts", "version", version, "node", s.bootstrap.Node.ID, "control", s.bootstrap.Control, "admin", v.engine.AdminAddr(), "loops", loops, "pid", os.Getpid())
	return nil
}

// inherit takes the listening sockets that a predecessor or the service manager hands out.
func (v *service) inherit(ctx context.Context) ([]takeover.Socket, error) {
	within, cancel := context.WithTimeout(ctx, inheritTime)
	defer cancel()
	old, err := takeover.Inherit(within, version)
	if err != nil {
		return nil, err
	}
	if old != nil {
		v.heir, v.start = newHeir(v, old), make(chan struct{})
		return v.ofNames(old.Sockets), nil
	}
	var given []takeover.Socket
	for _, s := range systemd.Sockets() {
		given = append(given, takeover.Socket{FD: s.FD, Unit: !strings.HasPrefix(s.Name, proxy.KeptPrefix)})
	}
	return given, nil
}

func (v *service) ready() (bool, string) {
	if v.parts.stopping.Load() {
		return false, "this process to end"
	}
	return v.client.Ready()
}

func (v *service) stats() []xds.Stat {
	return slices.Concat(v.client.Stats(), v.upgrader.stats(), v.dnsStats())
}

// runs are the parts in the order of their end, after readiness is off: out of the ring, so that nobody new comes;
// listeners closed and connections drained; the configuration last, which the draining may still need.
func (v *service) runs() ([]func(context.Context) error, error) {
	runs := []func(context.Context) error{v.engine.Run, v.upgrader.unlessHandedOver(v.client.Run), v.manage}
	if v.settings.host != nil {
		run, err := v.hostRun()
		if err != nil {
			return nil, err
		}
		runs = append([]func(context.Context) error{run}, runs...)
	}
	if v.heir != nil {
		runs = append(runs, v.heir.run)
	}
	return v.dnsRuns(runs), nil
}

// hostRun announces what this host runs. After an upgrade that is the predecessor's until it has left the ring.
func (v *service) hostRun() (func(context.Context) error, error) {
	v.settings.host.Log = v.log
	if v.heir == nil {
		h, err := host.New(*v.settings.host)
		if err != nil {
			return nil, err
		}
		v.upgrader.host.Store(h)
		return v.upgrader.leaving(h.Run), nil
	}
	return v.upgrader.leaving(func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-v.heir.left:
		}
		for {
			h, err := host.New(*v.settings.host)
			if err == nil {
				v.upgrader.host.Store(h)
				return h.Run(ctx)
			}
			v.log.Error("what this host runs is not announced, trying again", "err", err)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Second):
			}
		}
	}), nil
}

// manage tells the service manager how the process is.
func (v *service) manage(ctx context.Context) error {
	if v.heir != nil {
		select {
		case <-ctx.Done():
			return nil
		case <-v.heir.main: // before that, it does not listen to this process
		}
	}
	if v.manager == nil {
		<-ctx.Done()
		return nil
	}
	if err := v.engine.Keep(ctx, v.manager); err != nil && ctx.Err() == nil {
		v.log.Warn("sockets are not kept by the service manager", "err", err)
	}
	if v.heir == nil {
		v.tellReady(ctx)
	} else {
		v.tell("STATUS=serving, process %d ends its connections", v.heir.old.PID)
	}
	v.manager.Watch(ctx, v.engine.Responds)
	<-ctx.Done()
	return nil
}

func (v *service) tell(format string, args ...any) {
	if err := v.manager.Say(fmt.Sprintf(format, args...)); err != nil {
		v.log.Warn("service manager does not hear", "err", err)
	}
}

// tellReady says that the service is up once it is live. After a while it says so with what there is.
func (v *service) tellReady(ctx context.Context) {
	late := time.NewTimer(bootTime)
	defer late.Stop()
	waiting, reason := true, ""
	for waiting {
		var state string
		if state, reason = v.engine.State(); state == "LIVE" {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-late.C:
			waiting = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	if !waiting {
		v.tell("%s\nSTATUS=waiting for %s", systemd.Ready, reason)
		return
	}
	v.tell("%s\nSTATUS=serving", systemd.Ready)
}

// ended is called when the end begins.
func (v *service) ended() {
	if !v.upgrader.handedOver() {
		v.tell("%s\nSTATUS=ending its connections", systemd.Stopping)
	}
	v.stop()
}

// signals acts on signals until the function that it returns is called: SIGTERM and SIGINT end the process, SIGHUP has
// another one take over, SIGUSR1 opens the access logs again.
func (v *service) signals(ctx context.Context) (forget func()) {
	ctx, cancel := context.WithCancel(ctx)
	reopen, end, upgrade := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(reopen, syscall.SIGUSR1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(upgrade, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE) // who reads the output may go away: lines are lost then, not the process
	go func() { _ = reopenLogs(ctx, reopen, v.engine) }()
	go func() {
		for range end {
			v.engine.Hurry()
			if !v.upgrader.handedOver() {
				signal.Reset(syscall.SIGTERM, syscall.SIGINT) // the next one ends it at once
			}
			v.stop()
		}
	}()
	go func() {
		for range upgrade {
			_ = v.upgrader.upgrade(context.WithoutCancel(ctx)) // which logs it
		}
	}()
	return func() {
		cancel()
		signal.Stop(reopen)
		signal.Stop(end)
		signal.Stop(upgrade)
	}
}

// reopenLogs has the access logs' files opened again at each signal, until ctx ends.
func reopenLogs(ctx context.Context, asked <-chan os.Signal, engine *proxy.Proxy) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-asked:
			engine.ReopenLogs()
		}
	}
}
