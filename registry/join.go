package registry

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// place is where an endpoint can be reached; number is 0 for one that has no port.
type place struct {
	addr   netip.Addr
	number uint16
}

// places yields every place of e.
func places(e *Endpoint) iter.Seq[place] {
	return func(yield func(place) bool) {
		if len(e.Ports) == 0 {
			yield(place{addr: e.Addr})
			return
		}
		for _, p := range e.Ports {
			if !yield(place{e.Addr, p.Number}) {
				return
			}
		}
	}
}

// joined is an endpoint in the making.
type joined struct {
	Endpoint
	label            origin
	weight, location string // the source that said it
}

// report is what one source says of one endpoint.
type report struct {
	source   string
	endpoint *Endpoint
	group    int // index of the first report of the same endpoint; of itself for the first
}

// join makes the union of all endpoints. Those that share an address and a port number are one, also by way of a
// third; it has the ID of the first source that reports it, and the labels and weight of the first that says so.
func (u *union) join(claims []claim) {
	var reports []report
	first := make(map[place]int) // the first report of a place
	for _, c := range claims {
		for _, e := range c.service.Endpoints {
			at := len(reports)
			reports = append(reports, report{c.source, e, at})
			for p := range places(e) {
				if other, ok := first[p]; ok {
					unite(reports, other, at)
				} else {
					first[p] = at
				}
			}
		}
	}
	made := make([]*joined, len(reports)) // by group
	all := make([]*joined, 0, len(reports))
	for i, r := range reports {
		if group := groupOf(reports, i); group != i {
			u.add(made[group], r.endpoint, r.source)
			continue
		}
		j := &joined{Endpoint: *r.endpoint, weight: r.source, location: r.source}
		j.Labels = u.mergeLabels(nil, &j.label, r.endpoint.Labels, r.source, r.endpoint.ID)
		j.Sources = u.origins[r.source]
		made[i] = j
		all = append(all, j)
	}
	u.uniqueIDs(all)
	slices.SortFunc(all, func(a, b *joined) int { return strings.Compare(a.ID, b.ID) })
	u.service.Endpoints = make([]*Endpoint, len(all))
	for i, j := range all {
		e := j.Endpoint
		u.service.Endpoints[i] = &e
	}
}

func groupOf(reports []report, i int) int {
	for reports[i].group != i {
		i = reports[i].group
	}
	return i
}

// unite makes one group of two; its index is the lesser.
func unite(reports []report, a, b int) {
	a, b = groupOf(reports, a), groupOf(reports, b)
	reports[max(a, b)].group = min(a, b)
}

// add adds what another source, or the same under another ID, says of an endpoint.
func (u *union) add(j *joined, e *Endpoint, source string) {
	last := j.Sources[len(j.Sources)-1]
	if last == source {
		u.notes.add("same place "+source, fmt.Sprintf("%s reports two endpoints at one place", source), j.ID+" and "+e.ID)
	} else {
		j.Sources = append(slices.Clip(j.Sources), source)
	}
	// Draining before unhealthy before healthy before unknown: whoever only knows the presence says unknown.
	j.Health = max(j.Health, e.Health)
	j.Labels = u.mergeLabels(j.Labels, &j.label, e.Labels, source, j.ID)
	if j.Weight != e.Weight {
		u.notes.differ("weight", j.weight, strconv.FormatUint(uint64(j.Weight), 10), source, strconv.FormatUint(uint64(e.Weight), 10), j.ID)
	}
	j.Host = cmp.Or(j.Host, e.Host)
	switch {
	case j.Locality == Locality{}:
		j.Locality, j.location = e.Locality, source
	case e.Locality != Locality{} && e.Locality != j.Locality:
		u.notes.differ("locality", j.location, j.Locality.path(), source, e.Locality.path(), j.ID)
	}
	for _, p := range e.Ports {
		i, ok := slices.BinarySearchFunc(j.Ports, p.Name, func(p EndpointPort, name string) int { return strings.Compare(p.Name, name) })
		switch {
		case !ok:
			j.Ports = slices.Insert(slices.Clone(j.Ports), i, p)
		case j.Ports[i].Number != p.Number:
			u.notes.differ("port "+quote(p.Name), j.Sources[0], strconv.Itoa(int(j.Ports[i].Number)), source, strconv.Itoa(int(p.Number)), j.ID)
		}
	}
}

func (l Locality) path() string { return l.Region + "/" + l.Zone + "/" + l.SubZone }

// uniqueIDs gives an endpoint whose ID an earlier one has another, made of its ID and its source.
func (u *union) uniqueIDs(all []*joined) {
	taken := make(map[string]bool, len(all))
	var clashing []*joined
	for _, j := range all {
		if taken[j.ID] {
			clashing = append(clashing, j)
		}
		taken[j.ID] = true
	}
	for _, j := range clashing {
		id := j.ID + "@" + j.Sources[0]
		for n := 2; taken[id]; n++ {
			id = j.ID + "@" + j.Sources[0] + "." + strconv.Itoa(n)
		}
		taken[id] = true
		j.ID = id
	}
}

// notes are the conflicts of one service: one line for each thing and pair of sources, however many endpoints it hits.
type notes struct {
	order  []string
	lineOf map[string]*note
}

type note struct {
	text, example string
	more          int
}

// differ notes that two sources say different things; the first one's is taken.
func (n *notes) differ(what, first, a, second, b, endpoint string) {
	text := fmt.Sprintf("%s: %s says %s, %s says %s; taken from %s", what, first, quote(a), second, quote(b), first)
	n.add(what+"\x00"+first+"\x00"+second, text, endpoint)
}

func (n *notes) add(key, text, endpoint string) {
	if have := n.lineOf[key]; have != nil {
		have.more++
		return
	}
	if n.lineOf == nil {
		n.lineOf = make(map[string]*note)
	}
	n.lineOf[key] = &note{text: text, example: endpoint}
	n.order = append(n.order, key)
}

func (n *notes) conflicts() []Conflict {
	var lines []Conflict
	for _, key := range n.order {
		note := n.lineOf[key]
		line := note.text
		if note.example != "" {
			line += " (" + note.example
			if note.more > 0 {
				line += fmt.Sprintf(" and %d more", note.more)
			}
			line += ")"
		}
		lines = append(lines, Conflict{Text: line})
	}
	return lines
}

func quote(s string) string { return strconv.Quote(s) }

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

func cloneLabels(m map[string]string) map[string]string { return maps.Clone(m) }
