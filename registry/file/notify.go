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
}

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
	return &notifier{path: path, watcher: w}, nil
}

func (n *notifier) close() {
	if n != nil {
		_ = n.watcher.Close()
	}
}

// wait returns when something changed and has been quiet for a moment, or when it is time for the safety net. moved
// says that the watches may be at something old and must be made anew.
func (n *notifier) wait(ctx context.Context) (moved bool, err error) {
	if n == nil {
		return true, sleep(ctx, withoutNet)
	}
	net := time.NewTimer(safetyNet)
	defer net.Stop()
	var quiet, most <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-net.C:
			return true, nil
		case <-quiet:
			return moved, nil
		case <-most:
			return moved, nil
		case event, ok := <-n.watcher.Events:
			if !ok {
				return true, nil
			}
			ours, itself := n.concerns(event)
			if !ours {
				continue
			}
			moved = moved || itself
			quiet = time.After(debounce)
			if most == nil {
				most = time.After(mostBurst)
			}
		case err, ok := <-n.watcher.Errors:
			if !ok || errors.Is(err, fsnotify.ErrEventOverflow) {
				return true, nil
			}
			return true, sleep(ctx, withoutNet)
		}
	}
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
