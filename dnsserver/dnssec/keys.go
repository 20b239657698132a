package dnssec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostmesh/hostmesh/internal/seal"
)

// What a file of keys says it is, and how often a running program lets its keys grow older.
const (
	sealKind    = "dnssec-keys"
	sealVersion = 1
	stepEvery   = time.Minute
	saveEvery   = time.Hour // after a crash that much of a wait may count twice, which harms nobody
)

// Keys are a zone's keys: on disk, and through their lives. They are safe for concurrent use.
//
// They are in one sealed file, dnssec-<zone>.keys, readable by its owner alone, so that a step of a rollover that changes two
// keys is on disk whole or not at all; and it is there before anybody is told of it. A file that is damaged is refused, never
// replaced: other keys than those that a parent or a trust anchor knows would make the zone bogus.
type Keys struct {
	name string // of the zone, as text, with the last dot
	wire []byte
	path string
	log  *slog.Logger

	mu   sync.Mutex // guards life
	life life
	ring atomic.Pointer[Ring]
}

// keyFile is the file's payload, as JSON.
type keyFile struct {
	Zone    string          `json:"zone"`
	Rolling map[Role]bool   `json:"rolling,omitempty"`
	Keys    []keyFileRecord `json:"keys"`
}

type keyFileRecord struct {
	Role    Role   `json:"role"`
	State   State  `json:"state"`
	Seconds int64  `json:"seconds"` // in this state
	Tag     uint16 `json:"tag"`
	Private string `json:"private"` // base64 of 32 bytes, as PrivateKey in BIND's files
}

// KeyPath returns where the keys of a zone are.
func KeyPath(dir, zone string) string {
	return filepath.Join(dir, "dnssec-"+strings.ToLower(strings.TrimSuffix(zone, "."))+".keys")
}

// OpenKeys reads the keys of a zone from dir; where there is no file yet it makes the first ones.
func OpenKeys(dir, zone string, policy Policy, log *slog.Logger) (*Keys, error) {
	wire, err := WireName(zone)
	if err != nil {
		return nil, err
	}
	k := &Keys{
		name: textName(wire), wire: wire, path: KeyPath(dir, zone), log: log,
		life: life{policy: policy.withDefaults(), rolling: map[Role]bool{}, fresh: generate},
	}
	payload, err := seal.Read(k.path, sealKind, sealVersion)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("read the keys of %s: %w (restore it, or remove it to begin with new keys, which every trust anchor and DS must follow)", zone, err)
	default:
		if err := k.load(payload); err != nil {
			return nil, fmt.Errorf("read the keys of %s from %s: %w", zone, k.path, err)
		}
	}
	// Who can write the directory could have put it there readable by others.
	if err := os.Chmod(k.path, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the keys of %s: %w", zone, err)
	}
	if err := k.change(func(l *life) ([]string, error) { return l.step(0) }); err != nil {
		return nil, fmt.Errorf("make the keys of %s: %w", zone, err)
	}
	if k.ring.Load() == nil {
		k.publish()
	}
	return k, nil
}

func (k *Keys) load(payload []byte) error {
	var file keyFile
	if err := json.Unmarshal(payload, &file); err != nil {
		return err
	}
	if file.Zone != k.name {
		return fmt.Errorf("they are of zone %s", file.Zone)
	}
	for _, r := range file.Keys {
		key, err := parsePrivate(r.Role, r.Private)
		if err != nil {
			return fmt.Errorf("key %d: %w", r.Tag, err)
		}
		if key.tag != r.Tag || !slices.Contains([]State{Published, Ready, Active, Retired}, r.State) {
			return fmt.Errorf("key %d: state %q, tag %d", r.Tag, r.State, key.tag)
		}
		k.life.entries = append(k.life.entries, &entry{Role: r.Role, State: r.State, In: time.Duration(max(r.Seconds, 0)) * time.Second, key: key})
	}
	maps.Copy(k.life.rolling, file.Rolling)
	return nil
}

// Ring returns what is published and signed with now. It is never nil.
func (k *Keys) Ring() *Ring { return k.ring.Load() }

// Run lets the keys grow older until ctx ends, and writes how old they are then: programs that seldom run for an hour roll keys too. What
// cannot be written is tried again, and until then nothing changes.
func (k *Keys) Run(ctx context.Context) error {
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			k.keep(time.Since(last))
			return context.Cause(ctx)
		case <-tick.C:
		}
		now := time.Now() // both have a monotonic reading: a jump of the clock is no elapsed time
		if err := k.change(func(l *life) ([]string, error) { return l.step(now.Sub(last)) }); err != nil {
			k.log.Error("keys of DNSSEC do not change", "zone", k.name, "error", err)
			continue // the time that has passed counts at the next attempt
		}
		last = now
	}
}

// keep writes how old the keys are, that much more than was counted.
func (k *Keys) keep(elapsed time.Duration) {
	err := k.change(func(l *life) ([]string, error) {
		events, err := l.step(elapsed)
		l.unsaved += saveEvery // so that it is written now
		return events, err
	})
	if err != nil {
		k.log.Warn("the age of the keys of DNSSEC is not kept: it counts from an hour ago at most", "zone", k.name, "error", err)
	}
}

// Roll begins a rollover of the keys of a role.
func (k *Keys) Roll(role Role) error {
	err := k.change(func(l *life) ([]string, error) {
		if err := l.roll(role); err != nil {
			return nil, err
		}
		events, err := l.step(0)
		return append([]string{"rollover of the " + string(role) + " begun"}, events...), err
	})
	if err != nil {
		return fmt.Errorf("roll the keys of %s: %w", k.name, err)
	}
	return nil
}

// DSSeen says that the parent, and every trust anchor, has the DS of a KSK that is ready: the old one retires.
func (k *Keys) DSSeen(tag uint16) error {
	err := k.change(func(l *life) ([]string, error) {
		return []string{fmt.Sprintf("ds of ksk %d seen", tag)}, l.dsSeen(tag)
	})
	if err != nil {
		return fmt.Errorf("take the DS of %s as seen: %w", k.name, err)
	}
	return nil
}

// change changes the keys' lives by do, all or nothing: on disk first, then in the ring. do returns what happened.
func (k *Keys) change(do func(*life) ([]string, error)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.life
	next.entries, next.rolling = slices.Clone(k.life.entries), maps.Clone(k.life.rolling)
	events, err := do(&next)
	if err != nil {
		return err
	}
	if len(events) > 0 || next.unsaved > saveEvery {
		if err := k.save(&next); err != nil {
			return err
		}
		next.unsaved = 0
	}
	k.life = next
	if len(events) > 0 {
		k.publish()
	}
	for _, event := range events {
		k.log.Info("keys of DNSSEC", "zone", k.name, "event", event)
	}
	return nil
}

func (k *Keys) publish() {
	k.ring.Store(newRing(k.wire, uint32(k.life.policy.TTL/time.Second), k.life.entries))
}

func (k *Keys) save(l *life) error {
	file := keyFile{Zone: k.name, Rolling: l.rolling}
	for _, e := range l.entries {
		private, err := e.key.encodePrivate()
		if err != nil {
			return fmt.Errorf("encode key %d: %w", e.key.tag, err)
		}
		file.Keys = append(file.Keys, keyFileRecord{
			Role: e.Role, State: e.State, Seconds: int64(e.In / time.Second), Tag: e.key.tag, Private: private,
		})
	}
	payload, err := json.Marshal(file)
	if err != nil {
		return fmt.Errorf("encode keys: %w", err)
	}
	return seal.Write(k.path, sealKind, sealVersion, payload)
}
