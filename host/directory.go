package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/hostmesh/hostmesh/internal/hostfile"
)

const (
	settleFiles = 50 * time.Millisecond // quiet before changed files are read
	settleMost  = time.Second           // of a burst without end
	rereadFiles = 15 * time.Second      // anyway: no event tells of everything
	maxFile     = 1 << 20
	maxFiles    = 4096
)

// loaded is what the files say now, or said when they could be read last.
type loaded struct {
	entries  []entry
	problems []string
}

// directory reads services.d. A file that is broken keeps its last good entries.
type directory struct {
	path string
	log  *slog.Logger
	good map[string][]hostfile.Service // by path
	seen map[string][]byte             // what was read last, by path
	bad  map[string]string             // why a file's last good entries are kept, by path; "" for the directory
}

func newDirectory(path string, log *slog.Logger) *directory {
	return &directory{path: path, log: log, good: map[string][]hostfile.Service{}, seen: map[string][]byte{}, bad: map[string]string{}}
}

// run sends what the files say at the start and whenever it changes, until ctx ends.
func (d *directory) run(ctx context.Context, out chan<- loaded) {
	send := func() bool {
		entries, problems := entriesOf(d.good)
		for _, path := range slices.Sorted(maps.Keys(d.bad)) {
			problems = append(problems, d.bad[path])
		}
		select {
		case out <- loaded{entries: entries, problems: problems}:
			return true
		case <-ctx.Done():
			return false
		}
	}
	if d.path == "" {
		send()
		return
	}
	events := newEvents(d.path, d.log)
	defer events.close()
	d.read()
	for send() {
		for changed := false; !changed; {
			if !events.wait(ctx) {
				return
			}
			changed = d.read()
		}
	}
}

// read reads the directory and reports whether anything is new.
func (d *directory) read() bool {
	files, err := os.ReadDir(d.path)
	if err == nil && len(files) > maxFiles {
		err = fmt.Errorf("%d files, want at most %d", len(files), maxFiles)
	}
	if err != nil {
		return d.fault("", fmt.Sprintf("read %s: %v", d.path, unwrapPath(err)))
	}
	changed := d.cleared("")
	present := map[string]bool{}
	for _, f := range files {
		name := f.Name()
		if ext := filepath.Ext(name); strings.HasPrefix(name, ".") || ext != ".yaml" && ext != ".yml" {
			continue
		}
		path := filepath.Join(d.path, name)
		present[path] = true
		changed = d.readFile(path) || changed
	}
	for path := range d.seen {
		if !present[path] {
			delete(d.seen, path)
			delete(d.good, path)
			delete(d.bad, path)
			changed = true
		}
	}
	return changed
}

func (d *directory) readFile(path string) bool {
	data, err := readBounded(path)
	if errors.Is(err, os.ErrNotExist) {
		return false // gone since the directory was read: the next look removes it
	}
	old, known := d.seen[path]
	if err != nil {
		d.seen[path] = nil
		return d.fault(path, fmt.Sprintf("read %s: %v", path, unwrapPath(err)))
	}
	if known && old != nil && bytes.Equal(old, data) {
		return false
	}
	d.seen[path] = data
	if len(bytes.TrimSpace(data)) == 0 && len(d.good[path]) > 0 {
		return d.fault(path, path+": got an empty file, want a service (delete the file to remove its services)")
	}
	services, err := hostfile.Decode(path, data)
	if err != nil {
		return d.fault(path, err.Error())
	}
	d.good[path] = services
	d.cleared(path)
	return true
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%v is no regular file", info.Mode())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	if data == nil {
		data = []byte{}
	}
	return data, err
}

// unwrapPath takes the path from an error whose message names it already.
func unwrapPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// fault notes what is wrong with a file and reports whether that is news.
func (d *directory) fault(path, problem string) bool {
	if d.bad[path] == problem {
		return false
	}
	d.bad[path] = problem
	d.log.Warn("services.d: kept what was there before", "kept", len(d.good[path]), "problem", problem)
	return true
}

func (d *directory) cleared(path string) bool {
	if _, ok := d.bad[path]; !ok {
		return false
	}
	delete(d.bad, path)
	return true
}

// events tells when to read again.
type events struct {
	watcher *fsnotify.Watcher // nil when the kernel gives none: then it is read every now and then
	path    string
	watched bool
}

func newEvents(path string, log *slog.Logger) *events {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("services.d: no file events, reading it every so often", "every", rereadFiles, "err", err)
		return &events{path: path}
	}
	e := &events{watcher: w, path: path}
	e.watch()
	return e
}

func (e *events) watch() {
	if e.watcher != nil && !e.watched {
		e.watched = e.watcher.Add(e.path) == nil
	}
}

func (e *events) close() {
	if e.watcher != nil {
		_ = e.watcher.Close()
	}
}

// wait returns when files may have changed and are quiet, or after a while. It reports false when ctx ended.
func (e *events) wait(ctx context.Context) bool {
	var news chan fsnotify.Event
	var faults chan error
	every := rereadFiles
	if e.watcher != nil {
		news, faults = e.watcher.Events, e.watcher.Errors
	}
	if !e.watched {
		every = time.Second // the directory is not there yet
	}
	timer := time.NewTimer(every)
	defer timer.Stop()
	var first time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case event := <-news:
			if event.Name == e.path && event.Has(fsnotify.Remove|fsnotify.Rename) {
				_ = e.watcher.Remove(e.path)
				e.watched = false
			}
			if first.IsZero() {
				first = time.Now()
			}
			timer.Reset(min(settleFiles, max(time.Until(first.Add(settleMost)), 0)))
		case <-faults: // an overflow: read everything
			timer.Reset(0)
		case <-timer.C:
			e.watch()
			return true
		}
	}
}
