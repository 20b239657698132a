package registry

import (
	"cmp"
	"iter"
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

// report is what one source says of one endpoint.
type report struct {
	source     string
	precedence int // of the source under the rule
	at         int // index among all reports, which are in the sources' configured order
	group      int // at of the first report of the same endpoint
	endpoint   *Endpoint
}

// joined is an endpoint and the reports that it is made of, in the order of their precedence.
type joined struct {
	*Endpoint
	reports []report
}

// join returns all endpoints of all sources, sorted by ID. Reports that share an address and a port number are of one
// endpoint, also by way of a third; but what one source reports as two that share only some of their ports are two: such
// a port is no sign of either. The ID of an endpoint is that of the first source in configured order, so that it outlives a
// change of the rule; what else is said of it is taken by precedence.
func (u *union) join(claims []claim) []joined {
	reports := groupReports(claims)
	taken := make(map[string]bool, len(reports))
	groups := 0
	for _, r := range reports {
		if r.at == r.group {
			groups++
			taken[r.endpoint.ID] = false
		}
	}
	block := make([]Endpoint, groups)
	all := make([]joined, 0, groups)
	for len(reports) > 0 {
		n := 1
		for n < len(reports) && reports[n].group == reports[0].group {
			n++
		}
		group := reports[:n]
		reports = reports[n:]
		e := &block[len(all)]
		e.ID = uniqueID(group[0], taken)
		e.Sources = u.sourcesOf(group)
		slices.SortStableFunc(group, func(a, b report) int { return cmp.Compare(a.precedence, b.precedence) })
		u.fill(e, group)
		u.examine(e)
		all = append(all, joined{e, group})
	}
	slices.SortFunc(all, func(a, b joined) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// groupReports returns the reports of all endpoints; those of one endpoint stand together, in configured order.
func groupReports(claims []claim) []report {
	configured := make([]int, len(claims))
	n := 0
	for i, c := range claims {
		configured[i] = i
		n += len(c.service.Endpoints)
	}
	slices.SortFunc(configured, func(a, b int) int { return cmp.Compare(claims[a].order, claims[b].order) })
	reports, shared := gather(claims, configured, n, nil)
	if len(shared) > 0 {
		reports, _ = gather(claims, configured, n, shared)
		uniteShared(reports, shared)
	}
	sorted := true
	for i := range reports {
		reports[i].group = groupOf(reports, i)
		sorted = sorted && (i == 0 || reports[i-1].group <= reports[i].group)
	}
	if !sorted {
		slices.SortStableFunc(reports, func(a, b report) int { return cmp.Compare(a.group, b.group) })
	}
	return reports
}

// gather returns the reports of all endpoints, those of one place united, but for the places to pass over; and the places
// that some source reports of several endpoints.
func gather(claims []claim, configured []int, n int, over map[place]bool) (reports []report, shared map[place]bool) {
	reports = make([]report, 0, n)
	last := make(map[place]int, n) // the last report of a place
	for _, i := range configured {
		for _, e := range claims[i].service.Endpoints {
			at := len(reports)
			reports = append(reports, report{claims[i].source, i, at, at, e})
			for p := range places(e) {
				if over[p] {
					continue
				}
				if other, ok := last[p]; ok {
					if r := reports[other]; r.precedence == i && !sameEndpoint(r.endpoint, e) {
						if shared == nil {
							shared = make(map[place]bool)
						}
						shared[p] = true
					}
					unite(reports, other, at)
				}
				last[p] = at
			}
		}
	}
	return reports, shared
}

// sameEndpoint reports whether two endpoints of one source that share a place are one: one of them has no place of its own.
func sameEndpoint(a, b *Endpoint) bool { return a.within(b) || b.within(a) }

// within reports whether other is at all places of e.
func (e *Endpoint) within(other *Endpoint) bool {
	for p := range places(e) {
		if !other.isAt(p) {
			return false
		}
	}
	return true
}

// uniteShared has a report that has shared places only be of the first endpoint there that has others.
func uniteShared(reports []report, shared map[place]bool) {
	first := make(map[place]int)
	var without []int
	for i, r := range reports {
		own := false
		for p := range places(r.endpoint) {
			own = own || !shared[p]
		}
		if !own {
			without = append(without, i)
			continue
		}
		for p := range places(r.endpoint) {
			if _, ok := first[p]; !ok && shared[p] {
				first[p] = i
			}
		}
	}
	for _, i := range without {
		for p := range places(reports[i].endpoint) {
			if other, ok := first[p]; ok {
				unite(reports, other, i)
			} else {
				first[p] = i
			}
			break
		}
	}
}

func groupOf(reports []report, i int) int {
	for reports[i].group != i {
		reports[i].group = reports[reports[i].group].group // halve the way for the next
		i = reports[i].group
	}
	return i
}

// unite makes one group of two; its index is the lesser.
func unite(reports []report, a, b int) {
	a, b = groupOf(reports, a), groupOf(reports, b)
	reports[max(a, b)].group = min(a, b)
}

// uniqueID returns the ID of the endpoint that r is the first report of: its own, but if an earlier endpoint has that,
// one made of it and the source. taken has the ID of every first report, true once it is in use.
func uniqueID(r report, taken map[string]bool) string {
	id := r.endpoint.ID
	if !taken[id] {
		taken[id] = true
		return id
	}
	base := id + "@" + r.source
	id = base
	for n := 2; ; n++ {
		if _, ok := taken[id]; !ok {
			taken[id] = true
			return id
		}
		id = base + "." + strconv.Itoa(n)
	}
}

// sourcesOf names the sources of reports that stand in configured order.
func (u *union) sourcesOf(group []report) []string {
	u.scratch = u.scratch[:0]
	for i, r := range group {
		if i == 0 || r.source != group[i-1].source {
			u.scratch = append(u.scratch, r.source)
		}
	}
	if !slices.Equal(u.scratch, u.sources) {
		u.sources = slices.Clone(u.scratch)
	}
	return u.sources
}

// fill makes an endpoint, which has its ID and sources, of its reports.
func (u *union) fill(e *Endpoint, group []report) {
	id, sources := e.ID, e.Sources
	*e = *group[0].endpoint
	e.ID, e.Sources = id, sources
	if len(group) == 1 {
		return
	}
	var labels []labelling
	sure := slices.ContainsFunc(group, func(r report) bool { return r.endpoint.Doubt == nil })
	e.Health = Unknown
	for i, r := range group {
		if len(r.endpoint.Labels) > 0 {
			labels = append(labels, labelling{r.source, r.endpoint.Labels})
		}
		// Draining before unhealthy before healthy before unknown: whoever only knows the presence says unknown. What a
		// source said before it lost the endpoint is no word against those that have it.
		if r.endpoint.Doubt == nil || !sure {
			e.Health = max(e.Health, r.endpoint.Health)
		}
		e.Host = cmp.Or(e.Host, r.endpoint.Host)
		e.Locality = cmp.Or(e.Locality, r.endpoint.Locality)
		if sure {
			e.Doubt = nil
		}
		if i > 0 {
			u.addEndpointPorts(e, group, r.endpoint.Ports)
		}
	}
	e.Labels = u.mergeLabels(labels, id)
	u.tellReports(e, group)
}

// tellReports notes what the reports of one endpoint say differently.
func (u *union) tellReports(e *Endpoint, group []report) {
	for i, r := range group[1:] {
		if before := group[i]; before.source == r.source {
			u.notes.add(Conflict{
				What: "place", Sides: []Side{{r.source, before.endpoint.ID}, {r.source, r.endpoint.ID}},
				Text: r.source + " reports two endpoints at one place, " + before.endpoint.ID + " and " + r.endpoint.ID,
			}, e.ID)
		}
	}
	// With shares each source's own weights count.
	if len(u.rule.Weights) == 0 && slices.ContainsFunc(group, func(r report) bool { return r.endpoint.Weight != e.Weight }) {
		u.notes.differ("weight", "", sidesOf(group, func(e *Endpoint) string { return strconv.FormatUint(uint64(e.Weight), 10) }), e.ID)
	}
	if slices.ContainsFunc(group, func(r report) bool { return r.endpoint.Locality != e.Locality }) {
		u.notes.differ("locality", "", sidesOf(group, func(e *Endpoint) string { return e.Locality.path() }), e.ID)
	}
}

// addEndpointPorts adds the ports that one of the reports of e has over those before it.
func (u *union) addEndpointPorts(e *Endpoint, group []report, ports []EndpointPort) {
	for _, p := range ports {
		i, ok := slices.BinarySearchFunc(e.Ports, p.Name, func(p EndpointPort, name string) int { return strings.Compare(p.Name, name) })
		switch {
		case !ok:
			e.Ports = slices.Insert(slices.Clone(e.Ports), i, p)
		case e.Ports[i].Number != p.Number:
			u.notes.differ("endpoint port", p.Name, sidesOf(group, func(e *Endpoint) string {
				if n := e.Port(p.Name); n != 0 {
					return strconv.Itoa(int(n))
				}
				return ""
			}), e.ID)
		}
	}
}

// sidesOf returns what each report says, but for those that say nothing.
func sidesOf(group []report, says func(*Endpoint) string) []Side {
	sides := make([]Side, 0, len(group))
	for _, r := range group {
		if said := says(r.endpoint); said != "" {
			sides = append(sides, Side{r.source, said})
		}
	}
	return sides
}

// path returns "region/zone/subZone", or "" for nowhere.
func (l Locality) path() string {
	if l == (Locality{}) {
		return ""
	}
	return l.Region + "/" + l.Zone + "/" + l.SubZone
}
