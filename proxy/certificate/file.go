package certificate

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// maxFile bounds what is read of a file.
const maxFile = 1 << 20

// text is what a file holds.
type text struct {
	path string
	data []byte
	err  error
}

// read reads the file and reports whether it holds something else than before.
func (f *text) read() bool {
	data, err := readFile(f.path)
	same := bytes.Equal(data, f.data) && (err == nil) == (f.err == nil)
	f.data, f.err = data, err
	return !same
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("read %s: more than %d bytes", path, maxFile)
	}
	return data, err
}

// directories adds where a change of the file shows: its directory, and that of what it is a link to, which the links'
// targets may be replaced in.
func (f *text) directories(dirs map[string]bool) {
	dirs[filepath.Dir(f.path)] = true
	if real, err := filepath.EvalSymlinks(f.path); err == nil {
		dirs[filepath.Dir(real)] = true
	}
}

// read returns what a source holds; mu is held.
func (s *Store) read(from config.Source) ([]byte, error) {
	if from.File == "" {
		return []byte(from.Inline), nil
	}
	f := s.texts[from.File]
	if f == nil {
		f = &text{path: from.File}
		s.texts[from.File] = f
		f.read()
	}
	return f.data, f.err
}

// openToAll reports whether others than the owner and the group may read a file.
func openToAll(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm()&0o004 != 0
}

// watcher tells of changes in directories. Without inotify it tells nothing, and the files are looked at now and then.
type watcher struct {
	log   *slog.Logger
	inner *fsnotify.Watcher // nil: there is none
	dirs  map[string]bool
}

func newWatcher(log *slog.Logger) *watcher {
	inner, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("cannot watch files, they are looked at now and then", "every", poll, "err", err)
		inner = nil
	}
	return &watcher{log: log, inner: inner, dirs: map[string]bool{}}
}

// events is ready when something changed in a directory.
func (w *watcher) events() <-chan fsnotify.Event {
	if w.inner == nil {
		return nil
	}
	return w.inner.Events
}

// skip drops what has been told so far.
func (w *watcher) skip() {
	for {
		select {
		case <-w.inner.Events:
		case <-w.inner.Errors:
		default:
			return
		}
	}
}

// watch makes the directories those that are watched. One that is not there is tried again with the next look.
func (w *watcher) watch(dirs map[string]bool) {
	if w.inner == nil {
		return
	}
	for dir := range w.dirs {
		if !dirs[dir] {
			_ = w.inner.Remove(dir)
			delete(w.dirs, dir)
		}
	}
	watched := map[string]bool{} // a directory that was replaced is watched no more
	for _, dir := range w.inner.WatchList() {
		watched[dir] = true
	}
	for dir := range dirs {
		if !watched[dir] && w.inner.Add(dir) == nil {
			w.dirs[dir] = true
		}
	}
}

func (w *watcher) close() {
	if w.inner != nil {
		_ = w.inner.Close()
	}
}
