package dnssec

import (
	"fmt"
	"strings"
	"time"
)

// KeyStatus is what may be told of a key.
type KeyStatus struct {
	Zone   string        `json:"zone"`
	Tag    uint16        `json:"tag"`
	Role   Role          `json:"role"`
	State  State         `json:"state"`
	In     time.Duration `json:"-"`
	Since  string        `json:"in"` // how long it has been in its state, "36h0m0s"
	DNSKEY string        `json:"dnskey"`
	// DS is the record that belongs to the parent, or into a trust anchor; "" for keys that do not, ZSKs and retired ones.
	DS string `json:"ds,omitempty"`
}

// Zone returns the zone's name in lower case, with the last dot.
func (k *Keys) Zone() string { return k.name }

// Status returns all keys, KSKs first, those that are active before others.
func (k *Keys) Status() []KeyStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []KeyStatus
	for _, role := range []Role{KSK, ZSK} {
		for _, state := range []State{Active, Ready, Published, Retired} {
			for _, e := range k.life.entries {
				if e.Role == role && e.State == state {
					all = append(all, k.status(e))
				}
			}
		}
	}
	return all
}

func (k *Keys) status(e *entry) KeyStatus {
	s := KeyStatus{
		Zone: k.name, Tag: e.key.tag, Role: e.Role, State: e.State, In: e.In, Since: e.In.Truncate(time.Minute).String(),
		DNSKEY: dnskeyText(e.key.dnskey),
	}
	if e.Role == KSK && e.State != Retired {
		s.DS = dsText(e.key.ds(k.wire))
	}
	return s
}

// Record returns the DS as a line of a zone file, which is also a trust anchor to unbound and delv.
func (s KeyStatus) Record() string { return fmt.Sprintf("%s IN DS %s", s.Zone, s.DS) }

// UnboundAnchor returns the line of unbound.conf that trusts the key.
func (s KeyStatus) UnboundAnchor() string { return fmt.Sprintf("trust-anchor: %q", s.Record()) }

// BINDAnchor returns the entry of BIND's trust-anchors that trusts the key.
func (s KeyStatus) BINDAnchor() string {
	fields := strings.Fields(s.DS)
	if len(fields) != 4 {
		return ""
	}
	return fmt.Sprintf("%s static-ds %s %s %s %q;", strings.TrimSuffix(s.Zone, "."), fields[0], fields[1], fields[2], fields[3])
}
