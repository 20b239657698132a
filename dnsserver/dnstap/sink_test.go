package dnstap

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// TestWhatStillComesIsLeft: until two seconds after the end what waits is written, then no more.
func TestWhatStillComesIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := New(Options{File: filepath.Join(t.TempDir(), "log"), Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		to, err := log.open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		to.end(writeTime)
		for _, left := range []int{0, 3} {
			for range 3 {
				log.Show(dnsserver.Exchange{Transport: "udp", Query: make([]byte, 12)})
			}
			if err := log.copy(ctx, to); err != nil || len(log.queue) != left || log.Stats().Written != 3 {
				t.Errorf("%v, %d wait, %+v, want %d to wait and 3 written", err, len(log.queue), log.Stats(), left)
			}
			time.Sleep(writeTime)
			synctest.Wait()
		}
		if err := to.close(); err != nil {
			t.Error(err)
		}
	})
}
