package registry

import (
	"maps"
	"net/netip"
	"slices"
)

// union is one service in the making. Where several say something, they come in the order of their precedence, and the
// first one's word is taken.
type union struct {
	service *Service
	rule    Rule
	notes   notes
	vitals  map[netip.AddrPort]*Unreachable
	sources []string // the last Endpoint.Sources: shared by the endpoints that follow with the same
	scratch []string
}

// describe adds the labels, the original spelling and the external name.
func (u *union) describe(claims []claim) {
	u.mergeServiceLabels(claims)
	var originals, external []Side
	for _, c := range claims {
		if c.service.ExternalName != "" {
			external = append(external, Side{c.source, c.service.ExternalName})
		}
		if c.service.Original != "" {
			originals = append(originals, Side{c.source, c.service.Original})
		}
	}
	if len(originals) > 0 {
		u.service.Original = originals[0].Says
		u.notes.differ("original name", "", originals, "")
	}
	if len(external) > 0 {
		u.service.ExternalName = external[0].Says
		u.notes.differ("external name", "", external, "")
	}
}

func (u *union) mergeServiceLabels(claims []claim) {
	labels := make([]labelling, 0, len(claims))
	for _, c := range claims {
		if len(c.service.Labels) > 0 {
			labels = append(labels, labelling{c.source, c.service.Labels})
		}
	}
	u.service.Labels = u.mergeLabels(labels, "")
}

// labelling is what one source says of labels.
type labelling struct {
	source string
	labels map[string]string
}

// mergeLabels unites labels. It shares the map of the first if the others add nothing, and copies before it writes.
func (u *union) mergeLabels(said []labelling, endpoint string) map[string]string {
	var have map[string]string
	var clashing []string
	copied := false
	for _, s := range said {
		if have == nil {
			have = s.labels
			continue
		}
		for key, value := range s.labels {
			old, ok := have[key]
			switch {
			case !ok && !copied:
				have, copied = maps.Clone(have), true
				fallthrough
			case !ok:
				have[key] = value
			case old != value:
				clashing = append(clashing, key)
			}
		}
	}
	slices.Sort(clashing)
	for _, key := range slices.Compact(clashing) {
		var sides []Side
		for _, s := range said {
			if value, ok := s.labels[key]; ok {
				sides = append(sides, Side{s.source, value})
			}
		}
		u.notes.differ("label", key, sides, endpoint)
	}
	return have
}

// distinct reports whether no two endpoints share a place.
func distinct(endpoints []*Endpoint) bool {
	const few = 16 // up to here comparing each with each is faster than a map
	if len(endpoints) <= few {
		for i, e := range endpoints {
			for _, other := range endpoints[:i] {
				if e.Addr == other.Addr && sharePlace(e, other) {
					return false
				}
			}
		}
		return true
	}
	owner := make(map[place]*Endpoint, len(endpoints))
	for _, e := range endpoints {
		for p := range places(e) {
			if other := owner[p]; other != nil && other != e {
				return false
			}
			owner[p] = e
		}
	}
	return true
}

// sharePlace reports whether two endpoints of one address share a port number, or both have none.
func sharePlace(e, other *Endpoint) bool {
	for _, p := range e.Ports {
		for _, q := range other.Ports {
			if p.Number == q.Number {
				return true
			}
		}
	}
	return len(e.Ports) == 0 && len(other.Ports) == 0
}

// take takes the endpoints of the only source as they are.
func (u *union) take(endpoints []*Endpoint, sources []string) {
	if len(endpoints) == 0 {
		return
	}
	block := make([]Endpoint, len(endpoints)) // they live and die together
	u.service.Endpoints = make([]*Endpoint, len(endpoints))
	for i, e := range endpoints {
		block[i] = *e
		block[i].Sources = sources
		u.examine(&block[i])
		u.service.Endpoints[i] = &block[i]
	}
}
