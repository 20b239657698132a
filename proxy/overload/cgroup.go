package overload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// unlimited is what version 1 says for no limit, rounded down to a page; anything near it is none.
const unlimited = 1 << 62

// cgroup is the control group of this process, of either version, as far as memory goes.
type cgroup struct {
	files []memoryFiles // of the group, and of those above it
}

type memoryFiles struct{ used, limit string }

// MemoryLimit is the memory that the control group of this process allows; 0: all there is.
func MemoryLimit() uint64 { return findCgroup("/").limit() }

// findCgroup finds it by /proc/self/cgroup, below root. In a container the path there may be one of the host's: then the
// mount is the group.
func findCgroup(root string) *cgroup {
	data, _ := os.ReadFile(filepath.Join(root, "proc/self/cgroup")) // without it there is none
	g := &cgroup{}
	for line := range strings.Lines(string(data)) {
		id, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		mount, used, limit := "", "", ""
		switch {
		case id == "0" && controllers == "":
			mount, used, limit = "sys/fs/cgroup", "memory.current", "memory.max"
		case hasWord(controllers, "memory"):
			mount, used, limit = "sys/fs/cgroup/memory", "memory.usage_in_bytes", "memory.limit_in_bytes"
		default:
			continue
		}
		for {
			dir := filepath.Join(root, mount, path)
			if _, err := os.Stat(filepath.Join(dir, limit)); err == nil {
				g.files = append(g.files, memoryFiles{filepath.Join(dir, used), filepath.Join(dir, limit)})
			}
			if path == "/" || path == "" || path == "." {
				break
			}
			path = filepath.Dir(path)
		}
	}
	return g
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// limit is the lowest of the group and those above it; 0: there is none.
func (g *cgroup) limit() uint64 {
	lowest := uint64(0)
	for _, f := range g.files {
		if n, err := number(f.limit); err == nil && n > 0 && n < unlimited && (lowest == 0 || n < lowest) {
			lowest = n
		}
	}
	return lowest
}

// memory returns what is used and allowed where least is left.
func (g *cgroup) memory() (used, limit uint64, err error) {
	if len(g.files) == 0 {
		return 0, 0, errors.New("read control group: this process is in none that counts memory")
	}
	for i, f := range g.files {
		n, err := number(f.limit)
		if err != nil {
			return 0, 0, err
		}
		u, err := number(f.used)
		if err != nil {
			return 0, 0, err
		}
		if n >= unlimited {
			n = 0
		}
		if i == 0 || n > 0 && (limit == 0 || float64(u)/float64(n) > float64(used)/float64(limit)) {
			used, limit = u, n
		}
	}
	return used, limit, nil
}

// number reads a file with one; "max" is none.
func number(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read control group: %w", err)
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read control group: %s: got %q, want a number", path, text)
	}
	return n, nil
}
