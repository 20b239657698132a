package file

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// notifier tells when something at a path may have changed. A nil notifier only has its safety net.
type notifier struct {
	path    string
	watcher *fsnotify.Watcher
	pending map[string]burst // files that changed, by name, and are not quiet yet
	forced  map[string]bool  // files that are to be read though they are not quiet
	again   bool             // this is not what is there at the start
}

// burst is when the changes of a file began, and the last of them.
type burst struct{ first, last time.Time }

// newNotifier watches what stands at path and the directory that holds it: an exchange of the path itself (renamed
// over, a symbolic link that is switched) is seen only there.
func newNotifier(path string) (*notifier, error) {
	path = filepath.Clean(path)
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	for _, p := range []string{filepath.Dir(path), path} {
		if err = w.Add(p); err != nil {
			break
		}
	}
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	return &notifier{path: path, watcher: w, pending: make(map[string]burst), forced: make(map[string]bool)}, nil
}

func (n *notifier) close() {
	if n != nil {
		_ = n.watcher.Close()
	}
}

// changing reports whether a file is being written, for all that is known: it is not to be read now.
func (n *notifier) changing(name string) bool {
	if n == nil {
		return false
	}
	_, ok := n.pending[name]
	return ok
}

// fresh is changing for a file that was read and bears that time: its event may not have come yet, and what was read
// may be the half of it. It is read again soon. What is there at the start is taken as it is.
func (n *notifier) fresh(name string, modified time.Time) bool {
	now := time.Now()
	if n == nil || !n.again || n.forced[name] || modified.After(now) || now.Sub(modified) >= debounce {
		return false
	}
	n.pending[name] = burst{modified, modified}
	return true
}

// wait returns when something changed and it is quiet for a moment, or when it is time for the safety net. Where it is
// never quiet it returns after most, if there are files that are quiet themselves; the others are changing. moved says
// that the watches may be at something old and must be made anew.
func (n *notifier) wait(ctx context.Context, most time.Duration) (moved bool, err error) {
	if n == nil {
		return true, sleep(ctx, withoutNet)
	}
	n.again = true
	clear(n.forced)
	net := time.NewTimer(safetyNet)
	defer net.Stop()
	var quiet, bound <-chan time.Time
	if len(n.pending) > 0 {
		quiet, bound = time.After(debounce), time.After(most)
	}
	var since time.Time // of moved
	for {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-net.C:
			if len(n.pending) == 0 { // else the end of what changes comes soon, and new watches would not know what it is
				return true, nil
			}
		case <-quiet:
			clear(n.pending)
			return moved, nil
		case <-bound:
			if moved && time.Since(since) >= mostBurst || !moved && n.settle() {
				return moved, nil
			}
			bound = time.After(most)
		case event, ok := <-n.watcher.Events:
			if !ok {
				return true, nil
			}
			ours, itself := n.concerns(event)
			if !ours {
				continue
			}
			if itself && !moved {
				moved, since = true, time.Now()
			}
			n.note(filepath.Clean(event.Name))
			quiet = time.After(debounce)
			if bound == nil {
				bound = time.After(most)
			}
		case err, ok := <-n.watcher.Errors:
			if !ok || errors.Is(err, fsnotify.ErrEventOverflow) {
				return true, nil
			}
			return true, sleep(ctx, withoutNet)
		}
	}
}

// note takes down that a file changed now.
func (n *notifier) note(name string) {
	now := time.Now()
	b, ok := n.pending[name]
	if !ok {
		b.first = now
	}
	b.last = now
	n.pending[name] = b
}

// settle forgets the files that are quiet, or have not been for so long that they are read as they are, and reports
// whether there are any.
func (n *notifier) settle() (some bool) {
	for name, b := range n.pending {
		endless := time.Since(b.first) >= mostBurst
		if endless || time.Since(b.last) >= debounce {
			delete(n.pending, name)
			n.forced[name] = endless
			some = true
		}
	}
	return some
}

// concerns reports whether an event is about what is read, and whether about the path itself.
func (n *notifier) concerns(event fsnotify.Event) (ours, itself bool) {
	name := filepath.Clean(event.Name)
	switch {
	case name == n.path:
		return true, event.Op != fsnotify.Chmod
	case filepath.Dir(name) == n.path:
		return true, false
	}
	return strings.HasPrefix(filepath.Base(name), ".."), true // how Kubernetes exchanges a volume's files
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
