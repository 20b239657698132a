package main

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestSignalReopensLogs: SIGUSR1 makes new files where the logs were moved away.
func TestSignalReopensLogs(t *testing.T) {
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(testbed.FreePort(t)))
	path := filepath.Join(t.TempDir(), "log")
	engine, err := proxy.New(proxy.Options{Admin: "-", Loops: 1, Config: watch.New(&config.Config{Listeners: []*config.Listener{{
		Name: "l", Addresses: []netip.AddrPort{addr},
		TCP: &config.TCP{Clusters: []config.WeightedCluster{{Name: "none", Weight: 1}}, AccessLogs: []config.AccessLog{{Path: path}}},
	}}})})
	if err != nil {
		t.Fatal(err)
	}
	signals := make(chan os.Signal)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- engine.Run(ctx) }()
	go func() { ended <- reopenLogs(ctx, signals, engine) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no log")
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// The file is there a moment before the proxy knows its sink: it is asked until it has heard.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		signals <- syscall.SIGUSR1
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the log is not opened again")
		}
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
