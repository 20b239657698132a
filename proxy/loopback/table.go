package loopback

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/hostmesh/hostmesh/internal/seal"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	tableFile    = "loopback.sealed"
	tableKind    = "loopback"
	tableVersion = 1

	// remembered is how long an address is no other service's after its own has gone, and how long a port is avoided.
	remembered = 90 * 24 * time.Hour
)

// table is who has which address. It is not safe for concurrent use.
type table struct {
	path    string // empty: it is not kept
	log     *slog.Logger
	entries map[string]*entry     // by service
	owners  map[netip.Addr]string // service of an address
	ports   map[uint16]*port      // that could not be bound
	dirty   bool                  // it is not as on disk
	failed  bool                  // the last write
}

// entry is what is known of a service.
type entry struct {
	Address netip.Addr `json:"address"` // invalid: it has none
	Gone    time.Time  `json:"gone,omitzero"`
}

// port is one that could not be bound.
type port struct {
	Why   string    `json:"why"`
	Found time.Time `json:"found"`
}

// document is the table as it is written.
type document struct {
	Services map[string]*entry `json:"services"`
	Ports    map[uint16]*port  `json:"ports,omitempty"`
}

// openTable reads the table, without what need not be remembered any more.
func openTable(dir string, log *slog.Logger, now time.Time) *table {
	t := &table{log: log, entries: map[string]*entry{}, owners: map[netip.Addr]string{}, ports: map[uint16]*port{}}
	if dir == "" {
		return t
	}
	t.path = filepath.Join(dir, tableFile)
	payload, err := seal.Read(t.path, tableKind, tableVersion)
	if errors.Is(err, fs.ErrNotExist) {
		return t
	}
	var d document
	if err == nil {
		if err = json.Unmarshal(payload, &d); err != nil {
			err = fmt.Errorf("read %s: %w", t.path, err)
		}
	}
	if err != nil {
		log.Error("table of loopback addresses is not used, services get their addresses anew", "err", err)
		return t
	}
	for _, service := range slices.Sorted(maps.Keys(d.Services)) {
		e := d.Services[service]
		if e == nil || !e.Gone.IsZero() && now.Sub(e.Gone) >= remembered {
			continue
		}
		if e.Address.IsValid() {
			if other, twice := t.owners[e.Address]; twice || !Range().Contains(e.Address) {
				log.Error("entry of the table of loopback addresses is not used", "service", service, "address", e.Address, "other", other)
				continue
			}
			t.owners[e.Address] = service
		}
		t.entries[service] = e
	}
	for number, p := range d.Ports {
		if p != nil && now.Sub(p.Found) < remembered {
			t.ports[number] = p
		}
	}
	return t
}

// names are the services that were not gone when last heard of, sorted.
func (t *table) names() []string {
	var names []string
	for service, e := range t.entries {
		if e.Gone.IsZero() {
			names = append(names, service)
		}
	}
	slices.Sort(names)
	return names
}

// owner is the service of an address, empty for none.
func (t *table) owner(addr netip.Addr) string { return t.owners[addr] }

// assign returns the address of a service: what it has, what it wishes for, or another one. It is to be flushed before it is used.
func (t *table) assign(service string, wish netip.Addr) netip.Addr {
	e := t.entries[service]
	if e != nil && e.Address.IsValid() {
		return e.Address
	}
	addr := wish
	for n := 1; t.owners[addr] != ""; n++ {
		addr = another(service, n)
	}
	t.entries[service], t.owners[addr], t.dirty = &entry{Address: addr}, service, true
	return addr
}

// follow notes which services are gone and which are back, and forgets those that are long gone.
func (t *table) follow(cfg *config.Config, now time.Time) {
	there := make(map[string]bool, len(cfg.Listeners))
	for _, l := range cfg.Listeners {
		there[l.Name] = true
	}
	for service, e := range t.entries {
		switch {
		case there[service] || cfg.Clusters[service] != nil:
			t.dirty = t.dirty || !e.Gone.IsZero()
			e.Gone = time.Time{}
		case cfg.Absent[service] && e.Gone.IsZero():
			e.Gone, t.dirty = now, true
		case !e.Gone.IsZero() && now.Sub(e.Gone) >= remembered:
			delete(t.entries, service)
			delete(t.owners, e.Address)
			t.dirty = true
		}
	}
}

// flush writes the table if it has changed. A disk that cannot be written to is reported, and tried again the next time.
func (t *table) flush() {
	if t.path == "" || !t.dirty {
		return
	}
	payload, err := json.Marshal(document{t.entries, t.ports})
	if err == nil {
		err = seal.Write(t.path, tableKind, tableVersion, payload)
	}
	if err != nil && !t.failed {
		t.log.Error("loopback addresses are not kept", "err", err)
	}
	t.failed, t.dirty = err != nil, err != nil
}
