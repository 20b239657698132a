package dnssec

import (
	"fmt"
	"slices"
	"time"
)

// State is where in its life a key is. A key goes through them in this order.
type State string

// The states of keys.
const (
	// Published keys are in the DNSKEY set. A ZSK does not sign yet, for there are resolvers with the set of before it; a KSK
	// signs the set at once (RFC 7583 §3.3.1, Double-KSK).
	Published State = "published"
	// Ready is a KSK that every resolver knows: CDS and CDNSKEY ask the parent for its DS, and it waits for that.
	Ready State = "ready"
	// Active keys sign. The parent, or whoever validates, has the DS of an active KSK.
	Active State = "active"
	// Retired keys are in the DNSKEY set because resolvers still have signatures by them, or the DS of them.
	Retired State = "retired"
)

// Policy says when keys change. Zero values take the defaults.
type Policy struct {
	TTL         time.Duration // of the DNSKEY set; default 1 h
	ZSKLifetime time.Duration // how long a ZSK signs; default 90 d
	KSKLifetime time.Duration // how long a KSK is active before a new one is published; default 0, only when an operator asks
	// Propagation is how long it takes until every secondary has a change; default 1 h.
	Propagation time.Duration
	// Signatures is how long the longest signature holds; default 14 d. A retired ZSK stays that long.
	Signatures time.Duration
	// ParentTTL is how long resolvers keep the parent's DS; default 48 h. A retired KSK stays that long.
	ParentTTL time.Duration
}

func (p Policy) withDefaults() Policy {
	for _, d := range []struct {
		value  *time.Duration
		preset time.Duration
	}{
		{&p.TTL, time.Hour},
		{&p.ZSKLifetime, 90 * 24 * time.Hour},
		{&p.Propagation, time.Hour},
		{&p.Signatures, 14 * 24 * time.Hour},
		{&p.ParentTTL, 48 * time.Hour},
	} {
		if *d.value == 0 {
			*d.value = d.preset
		}
	}
	return p
}

// entry is a key and where it is in its life. An entry is not changed once it is in a ring.
type entry struct {
	Role  Role
	State State
	// In is how long it has been in its state. It is counted while this program runs and not read off a clock: time that
	// jumps, or that passed while nobody was told of new keys, counts for nothing.
	In  time.Duration
	key *key
}

// life is the state machine of a zone's keys, a pure one: what it is told is how much time has passed. It changes no entry;
// it makes new ones.
type life struct {
	policy  Policy
	entries []*entry
	rolling map[Role]bool // an operator has asked for a new key
	unsaved time.Duration // that has passed since the file was written
	fresh   func(Role, func(tag uint16) bool) (*key, error)
}

// step lets time pass. It returns what has happened, in words for the log.
func (l *life) step(elapsed time.Duration) (events []string, err error) {
	l.unsaved += max(elapsed, 0)
	for i, e := range l.entries {
		older := *e
		older.In += max(elapsed, 0)
		l.entries[i] = &older
	}
	for _, role := range []Role{KSK, ZSK} {
		for {
			event, err := l.advance(role)
			if err != nil {
				return events, err
			}
			if event == "" {
				break
			}
			events = append(events, event)
		}
	}
	return events, nil
}

// advance does the one thing that is due for keys of a role, if any.
func (l *life) advance(role Role) (event string, err error) {
	active, coming := l.find(role, Active), l.coming(role)
	if active == nil {
		e, err := l.add(role, Active)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s %d made", role, e.key.tag), nil
	}
	if gone := l.expired(role); gone != nil {
		l.entries = slices.DeleteFunc(l.entries, func(e *entry) bool { return e == gone })
		return fmt.Sprintf("%s %d removed", role, gone.key.tag), nil
	}
	if coming == nil {
		if !l.rolling[role] && !l.due(role, active) {
			return "", nil
		}
		e, err := l.add(role, Published)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s %d published, to follow %d", role, e.key.tag, active.key.tag), nil
	}
	if coming.State != Published || coming.In < l.policy.TTL+l.policy.Propagation {
		return "", nil
	}
	if role == KSK {
		l.move(coming, Ready)
		return fmt.Sprintf("ksk %d ready: its DS belongs to the parent and to every trust anchor now", coming.key.tag), nil
	}
	if !l.rolling[role] && active.In < l.policy.ZSKLifetime {
		return "", nil
	}
	l.replace(active, coming)
	return fmt.Sprintf("zsk %d signs, %d retired", coming.key.tag, active.key.tag), nil
}

// due reports whether the follower of an active key is to be published.
func (l *life) due(role Role, active *entry) bool {
	if role == ZSK {
		return active.In >= l.policy.ZSKLifetime-l.policy.TTL-l.policy.Propagation
	}
	return l.policy.KSKLifetime > 0 && active.In >= l.policy.KSKLifetime
}

// dsSeen is told that the parent, or every validator, has the DS of a KSK that is ready.
func (l *life) dsSeen(tag uint16) error {
	for _, e := range l.entries {
		if e.Role != KSK || e.key.tag != tag {
			continue
		}
		if e.State != Ready {
			return fmt.Errorf("key %d is %s, want one that is %s", tag, e.State, Ready)
		}
		l.replace(l.find(KSK, Active), e)
		return nil
	}
	return fmt.Errorf("no ksk has the tag %d", tag)
}

// roll begins a rollover.
func (l *life) roll(role Role) error {
	if role != KSK && role != ZSK {
		return fmt.Errorf("role %q, want %s or %s", role, KSK, ZSK)
	}
	if e := l.coming(role); e != nil && (role == KSK || l.rolling[role]) {
		return fmt.Errorf("%s %d is %s already; one rollover at a time", role, e.key.tag, e.State)
	}
	l.rolling[role] = true
	return nil
}

// expired returns a retired key that nobody needs any more.
func (l *life) expired(role Role) *entry {
	wait := l.policy.Signatures
	if role == KSK {
		wait = l.policy.ParentTTL
	}
	for _, e := range l.entries {
		if e.Role == role && e.State == Retired && e.In >= wait+l.policy.TTL+l.policy.Propagation {
			return e
		}
	}
	return nil
}

func (l *life) find(role Role, state State) *entry {
	for _, e := range l.entries {
		if e.Role == role && e.State == state {
			return e
		}
	}
	return nil
}

// coming returns the key that will follow the active one, nil when there is none yet.
func (l *life) coming(role Role) *entry {
	if e := l.find(role, Published); e != nil {
		return e
	}
	return l.find(role, Ready)
}

func (l *life) add(role Role, state State) (*entry, error) {
	k, err := l.fresh(role, func(tag uint16) bool {
		return slices.ContainsFunc(l.entries, func(e *entry) bool { return e.key.tag == tag })
	})
	if err != nil {
		return nil, err
	}
	e := &entry{Role: role, State: state, key: k}
	l.entries = append(l.entries, e)
	return e, nil
}

// move puts an entry into another state.
func (l *life) move(e *entry, state State) {
	for i := range l.entries {
		if l.entries[i] == e {
			l.entries[i] = &entry{Role: e.Role, State: state, key: e.key}
		}
	}
}

func (l *life) replace(active, coming *entry) {
	l.move(active, Retired)
	l.move(coming, Active)
	delete(l.rolling, coming.Role)
}
