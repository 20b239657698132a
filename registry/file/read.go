package file

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/internal/hostfile"
	"github.com/hostmesh/hostmesh/registry"
)

// mostBytes is a little more than a file may have, so that the decoder sees one that is too large.
const mostBytes = 1<<20 + 1

// mostLists is how often a directory is listed for one reading, when files are gone before they are read.
const mostLists = 10

// content is what is known of one file.
type content struct {
	sum      [sha256.Size]byte  // of what was read last
	services []hostfile.Service // of the last good state
	problems []registry.Problem // of what was read last; empty when that is the last good state
}

// read reads all files and returns the view, and whether it differs from the one before. A file that is being written
// stays what it was until it is quiet: what stands there now may be the half of it, and look whole.
func (f *files) read(n *notifier) (view registry.View, changed bool, err error) {
	for range mostLists {
		names, err := f.list()
		if err != nil {
			return registry.View{}, false, err
		}
		for name := range f.known {
			if !slices.Contains(names, name) && !n.changing(name) {
				delete(f.known, name)
				changed = true
			}
		}
		missed := false
		for _, name := range names {
			if n.changing(name) {
				continue
			}
			other, gone := f.readFile(name, n)
			changed, missed = changed || other, missed || gone
		}
		if !missed {
			return f.merge(slices.Sorted(maps.Keys(f.known))), changed, nil
		}
	}
	return registry.View{}, false, fmt.Errorf("read files: what %s lists was not there, %d times", f.path, mostLists)
}

// list returns the files to read, sorted.
func (f *files) list() ([]string, error) {
	info, err := os.Stat(f.path)
	if err != nil {
		return nil, f.refused(err)
	}
	if !info.IsDir() {
		if file, err := os.Open(f.path); err != nil {
			return nil, f.refused(err)
		} else if err := file.Close(); err != nil {
			return nil, f.refused(err)
		}
		return []string{f.path}, nil
	}
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return nil, f.refused(err)
	}
	var names []string
	for _, entry := range entries {
		ext := filepath.Ext(entry.Name())
		if (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, filepath.Join(f.path, entry.Name()))
		}
	}
	return names, nil
}

// refused names missing permission as the Catalog knows it.
func (f *files) refused(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read files: %w: %w", registry.ErrPermission, err)
	}
	return fmt.Errorf("read files: %w", err)
}

// readFile brings what is known of a file up to date. One that is gone since it was listed says nothing: it may have been removed,
// or the directory was moved away with all that is in it.
func (f *files) readFile(name string, n *notifier) (changed, gone bool) {
	known := f.known[name]
	if known == nil {
		known = &content{}
	}
	data, modified, err := readRegular(name)
	if err != nil {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return false, true
		}
		problem := []registry.Problem{{
			Object: name, Kind: "unreadable", Reason: "cannot be read: " + reason(err), Stale: len(known.services) > 0,
		}}
		changed = !slices.Equal(problem, known.problems)
		f.known[name] = &content{services: known.services, problems: problem}
		return changed, false
	}
	sum := sha256.Sum256(data)
	if f.known[name] != nil && known.sum == sum || n.fresh(name, modified) {
		return false, false
	}
	services, problems := decode(name, data)
	if problems != nil {
		services = known.services
		for i := range problems {
			problems[i].Stale = len(services) > 0
		}
	}
	f.known[name] = &content{sum: sum, services: services, problems: problems}
	return true, false
}

func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return err.Error()
}

// readRegular reads a file, and then when it was changed last; a pipe or a device would block or never end.
func readRegular(name string) (data []byte, modified time.Time, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, time.Time{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, time.Time{}, fmt.Errorf("got %s, want a regular file", info.Mode().Type())
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer file.Close()
	if data, err = io.ReadAll(io.LimitReader(file, mostBytes)); err != nil {
		return nil, time.Time{}, err
	}
	if info, err = file.Stat(); err != nil {
		return nil, time.Time{}, err
	}
	return data, info.ModTime(), nil
}

// decode returns a file's services, or its problems.
func decode(name string, data []byte) ([]hostfile.Service, []registry.Problem) {
	if len(bytes.TrimSpace(data)) == 0 {
		// Cut off, most likely: half of a rewrite, or a full disk. A comment says that it is meant.
		return nil, []registry.Problem{{Object: name, Kind: "syntax", Reason: "got an empty file, want a service (to remove its services delete the file)"}}
	}
	services, err := hostfile.DecodeStatic(name, data)
	if err == nil {
		return services, nil
	}
	var problems []registry.Problem
	for _, p := range hostfile.Problems(err) {
		kind, reason := "syntax", fmt.Sprintf("got %s, want %s", p.Got, p.Want)
		if p.Path != "" {
			kind, reason = "value", p.Path+": "+reason
		}
		problems = append(problems, registry.Problem{Object: at(name, p.Line), Kind: kind, Reason: reason})
	}
	if problems == nil {
		problems = []registry.Problem{{Object: name, Kind: "syntax", Reason: err.Error()}}
	}
	return nil, problems
}

func at(name string, line int) string {
	if line == 0 {
		return name
	}
	return fmt.Sprintf("%s:%d", name, line)
}
