// Package file is the registry of a directory that people or a configuration tool write: static.d/*.yaml.
//
// The README says what the files look like and how they are followed.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	debounce   = 50 * time.Millisecond  // quiet that ends a burst of changes
	mostBurst  = time.Second            // a file whose changes do not end is read after this
	mostWait   = 200 * time.Millisecond // other files are, after this, however many change
	duty       = 4                      // but all files are not read in more than one part of so many of the time
	safetyNet  = 30 * time.Second       // re-read without any notification
	withoutNet = 2 * time.Second        // the same where the kernel gives no notifications
)

// Config says where the files are.
type Config struct {
	// Path is a directory, whose *.yaml and *.yml are read, or a single file.
	Path string `yaml:"path,required"`
}

// Check reports what is wrong with the configuration.
func (c Config) Check(report func(path, got, want string)) {
	if c.Path == "" {
		report("path", strconv.Quote(c.Path), "a directory or a file")
	}
}

// New returns the registry of cfg.Path. It keeps each file's last good state for as long as it lives.
func New(cfg Config, log *slog.Logger) registry.Registry {
	return &files{path: cfg.Path, log: log.With("path", cfg.Path), known: map[string]*content{}}
}

type files struct {
	path string
	log  *slog.Logger

	// Of the Watch that runs, and kept for the next one:
	known map[string]*content // by file name
	last  []*registry.Service
}

// Watch reads the files and follows them. It ends when the directory (or single file) itself cannot be read; a file in
// it that cannot keeps its last good entries and is one of the View's problems.
func (f *files) Watch(ctx context.Context, publish func(registry.View)) error {
	published, warned := false, false
	for {
		n, err := newNotifier(f.path)
		if err != nil && !warned && !errors.Is(err, fs.ErrNotExist) { // what does not exist is the reading's to tell
			warned = true
			f.log.Warn("no notifications, the files are read again and again", "every", withoutNet, "error", err)
		}
		err = f.follow(ctx, n, func(v registry.View, changed bool) {
			if changed || !published {
				publish(v)
				published = true
			}
		})
		n.close()
		if err != nil {
			return err
		}
	}
}

// follow reads, and reads again after each notification, until the paths themselves may have been exchanged (then it
// returns nil), something fails or ctx ends. The notifier was there first, so nothing falls between.
func (f *files) follow(ctx context.Context, n *notifier, publish func(v registry.View, changed bool)) error {
	for {
		began := time.Now()
		view, changed, err := f.read(n)
		if err != nil {
			return err
		}
		publish(view, changed)
		moved, err := n.wait(ctx, min(max(mostWait, duty*time.Since(began)), mostBurst))
		if err != nil {
			return fmt.Errorf("watch %s: %w", f.path, err)
		}
		if moved {
			return nil
		}
	}
}
