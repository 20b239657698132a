package file

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// TestWait writes files at given times and tells when wait returns, and which of them are not to be read then.
func TestWait(t *testing.T) {
	type write struct {
		at   time.Duration
		name string
	}
	every := func(d, until time.Duration, name string) (all []write) {
		for at := time.Duration(0); at < until; at += d {
			all = append(all, write{at, name})
		}
		return all
	}
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		writes   []write
		most     time.Duration // mostWait if 0
		after    time.Duration
		moved    bool
		changing bool // of b.yaml
	}{
		"one change":                       {writes: []write{{0, "/d/a.yaml"}}, after: debounce},
		"a burst":                          {writes: append(every(40*ms, 150*ms, "/d/b.yaml"), write{10 * ms, "/d/a.yaml"}), after: 120*ms + debounce},
		"another file changes on and on":   {writes: append(every(10*ms, time.Minute, "/d/b.yaml"), write{5 * ms, "/d/a.yaml"}), after: mostWait, changing: true},
		"a change just before the bound":   {writes: append(every(10*ms, time.Minute, "/d/b.yaml"), write{195 * ms, "/d/a.yaml"}), after: 2 * mostWait, changing: true},
		"to read all takes its time":       {writes: append(every(10*ms, time.Minute, "/d/b.yaml"), write{5 * ms, "/d/a.yaml"}), most: 600 * ms, after: 600 * ms, changing: true},
		"one file alone changes on and on": {writes: every(10*ms, time.Minute, "/d/b.yaml"), after: mostBurst},
		"nothing":                          {after: safetyNet, moved: true},
		"the directory while files change": {writes: append(every(10*ms, time.Minute, "/d/b.yaml"), write{5 * ms, "/d"}), after: mostBurst + mostWait, moved: true, changing: true},
		"a change at the safety net":       {writes: []write{{safetyNet - 10*ms, "/d/a.yaml"}}, after: safetyNet - 10*ms + debounce},
		"changes from the safety net on":   {writes: []write{{safetyNet - 10*ms, "/d/a.yaml"}, {safetyNet + 20*ms, "/d/a.yaml"}}, after: safetyNet + 20*ms + debounce},
		"beside the directory":             {writes: every(10*ms, time.Minute, "/x"), after: safetyNet, moved: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &notifier{
					path: "/d", pending: make(map[string]burst), forced: make(map[string]bool),
					watcher: &fsnotify.Watcher{Events: make(chan fsnotify.Event), Errors: make(chan error)},
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for _, w := range test.writes {
					go func() {
						if sleep(ctx, w.at) != nil {
							return
						}
						select {
						case n.watcher.Events <- fsnotify.Event{Name: w.name, Op: fsnotify.Write}:
						case <-ctx.Done():
						}
					}()
				}
				if test.most == 0 {
					test.most = mostWait
				}
				began := time.Now()
				moved, err := n.wait(ctx, test.most)
				if took := time.Since(began); err != nil || moved != test.moved || took != test.after {
					t.Errorf("got moved %v, %v after %v, want %v after %v", moved, err, took, test.moved, test.after)
				}
				if n.changing("/d/a.yaml") || n.changing("/d/b.yaml") != test.changing {
					t.Errorf("got a changing %v and b %v, want false and %v", n.changing("/d/a.yaml"), n.changing("/d/b.yaml"), test.changing)
				}
			})
		})
	}
}

// TestHalfIsNotTaken reads a file of which the half is there, without any event so far: it stays what it was until it has
// been left alone.
func TestHalfIsNotTaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	write := func(text string, ago time.Duration) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-ago)); err != nil {
			t.Fatal(err)
		}
	}
	f := &files{path: path, known: map[string]*content{}}
	n := &notifier{path: path, pending: make(map[string]burst), forced: make(map[string]bool)}
	endpoints := func(want int) {
		t.Helper()
		view, _, err := f.read(n)
		if err != nil || len(view.Services) != 1 || len(view.Services[0].Endpoints) != want {
			t.Fatalf("got %v, %v, want one service with %d endpoints", view, err, want)
		}
	}
	const half, whole = "service: web\nport: 80\nendpoints:\n- address: 192.0.2.1\n", "- address: 192.0.2.2\n"
	write(half+whole, 0)
	endpoints(2) // as it is, at the start
	n.again = true
	write(half, -time.Hour) // whose clock is right?
	endpoints(1)
	write(half+whole, 10*time.Second)
	endpoints(2)
	for { // until this host is fast enough
		began := time.Now()
		write(half, 0)
		view, _, err := f.read(n)
		if err == nil && time.Since(began) >= debounce {
			clear(n.pending)
			write(half+whole, 10*time.Second)
			endpoints(2)
			continue
		}
		if err != nil || len(view.Services[0].Endpoints) != 2 || !n.changing(path) {
			t.Fatalf("got %v, %v, changing: %v, want what was there, and that it will be read again", view, err, n.changing(path))
		}
		break
	}
	clear(n.pending) // it was quiet
	write(half, debounce)
	endpoints(1)
}
