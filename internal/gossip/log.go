package gossip

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	repeatAfter = 30 * time.Second // the same message is logged again after so long
	maxRepeats  = 256              // messages remembered
)

// bridge hands memberlist's log lines to slog: level by its [LEVEL] mark, without the peer's address as part of the
// text, and each message once in a while only, because a stranger can provoke them at any rate.
type bridge struct {
	log *slog.Logger
	mu  sync.Mutex
	// seen holds when a message was logged; guarded by mu.
	seen map[string]time.Time
}

func newBridge(log *slog.Logger) *bridge { return &bridge{log: log, seen: map[string]time.Time{}} }

// Write takes one line of a log.Logger without flags.
func (b *bridge) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelInfo
	if mark, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(mark, "[") {
		line = rest
		switch mark[1:] {
		case "DEBUG":
			level = slog.LevelDebug
		case "WARN", "ERR":
			// What memberlist calls an error is a peer's or the network's: the ring goes on.
			level = slog.LevelWarn
		}
	}
	line = strings.TrimPrefix(line, "memberlist: ")
	if !b.log.Enabled(context.Background(), level) {
		return len(p), nil
	}
	text, from, _ := strings.Cut(line, " from=")
	if level >= slog.LevelWarn && !b.fresh(text) {
		return len(p), nil
	}
	attrs := []slog.Attr{slog.String("from", from)}
	if from == "" {
		attrs = nil
	}
	b.log.LogAttrs(context.Background(), level, "gossip: "+text, attrs...)
	return len(p), nil
}

// fresh reports whether text was not logged lately.
func (b *bridge) fresh(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if last, ok := b.seen[text]; ok && now.Sub(last) < repeatAfter {
		return false
	}
	if len(b.seen) >= maxRepeats {
		clear(b.seen)
	}
	b.seen[text] = now
	return true
}
