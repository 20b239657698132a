package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"github.com/hostmesh/hostmesh/internal/seal"
)

// Of the sealed file that holds the number.
const (
	numberFile    = "number"
	numberKind    = "snapshot-number"
	numberVersion = 1
)

// reserveAhead is how many numbers are taken from the disk at a time. A crash loses the rest of them, no more, and at
// ten snapshots a second there is one sync in ten seconds.
const reserveAhead = 100

// numbers deals out the numbers of Snapshots. What is on disk is never less than what was dealt out, so a number is
// not used again after a crash, even if the clock was set back. It belongs to one goroutine.
type numbers struct {
	path     string // "" keeps nothing
	log      *slog.Logger
	last     uint64 // dealt out
	reserved uint64 // on disk: up to here
	err      error  // of the last write
}

// loadNumbers goes on from where the last process may have been. A file that is refused is told in the log; numbers
// then start at the time, which is where they would be but for a clock that was set back.
func loadNumbers(dir string, log *slog.Logger) *numbers {
	n := &numbers{log: log}
	if dir == "" {
		return n
	}
	n.path = filepath.Join(dir, numberFile)
	payload, err := seal.Read(n.path, numberKind, numberVersion)
	if errors.Is(err, fs.ErrNotExist) {
		return n
	}
	var last uint64
	if err == nil {
		if last, err = strconv.ParseUint(string(payload), 10, 64); err != nil {
			err = fmt.Errorf("open %s: %w", n.path, err)
		}
	}
	if err != nil {
		log.Error("number of the last snapshot refused, starting at the time", "error", err)
		return n
	}
	n.last, n.reserved = last, last
	return n
}

// longestLeap is how far a number may lie beyond the one before it: the SOA serial is the number modulo 2³², and what is further away
// comes before it (RFC 1982). It is 68 years, so a clock that says so is wrong.
const longestLeap = 1<<31 - 1

// next returns the number of a new Snapshot, max(last + 1, Unix time), when it is on disk or the disk refuses it.
func (n *numbers) next() uint64 {
	now := uint64(max(time.Now().Unix(), 0))
	if n.last != 0 && now > n.last+longestLeap {
		now = 0
	}
	n.last = max(n.last+1, now)
	if n.last > n.reserved {
		n.write(n.last + reserveAhead)
	}
	return n.last
}

// close gives back what was reserved and not used.
func (n *numbers) close() {
	if n.reserved != n.last {
		n.write(n.last)
	}
}

func (n *numbers) write(upTo uint64) {
	if n.path == "" {
		return
	}
	err := seal.Write(n.path, numberKind, numberVersion, strconv.AppendUint(nil, upTo, 10))
	if err == nil {
		n.reserved = upTo
	} else if n.err == nil { // once for an outage
		n.log.Error("number of the snapshot not kept, serving goes on", "error", err)
	}
	n.err = err
}
