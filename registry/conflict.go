package registry

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Conflict is one thing on which the registries, or the entries of one registry, do not agree. It never takes an
// endpoint away: one side is taken, the others are listed. It is immutable.
type Conflict struct {
	// What differs: "port number", "port protocol", "label", "weight", "locality", "name", "original name", "external name", "place" (two
	// endpoints at one), "endpoint port", "endpoint ID", "unnamed port", "shared number", "no number", "host"; "more"
	// stands for those that are not listed.
	What string `json:"what"`
	// Object is which of them: a port's name, a label's key; "" where there is only one.
	Object string `json:"object,omitempty"`
	// Sides are what is said, and by whom; the first is the one that is taken, unless Text says otherwise. Where the
	// conflict is about several endpoints it is what is said of the first of them.
	Sides []Side `json:"sides"`
	// Endpoints are the IDs of the endpoints that it is about, up to a few; More counts the others.
	Endpoints []string `json:"endpoints,omitempty"`
	More      int      `json:"more,omitempty"`
	// Text says the whole in one line.
	Text string `json:"text"`
}

// Side is one side of a Conflict.
type Side struct {
	Source string `json:"source"` // the registry's configured name; within one registry, the entry
	Says   string `json:"says"`
}

// String returns the conflict as one line.
func (c Conflict) String() string { return c.Text }

// equal reports whether c and o say the same.
func (c Conflict) equal(o Conflict) bool {
	return c.What == o.What && c.Object == o.Object && c.Text == o.Text && c.More == o.More &&
		slices.Equal(c.Sides, o.Sides) && slices.Equal(c.Endpoints, o.Endpoints)
}

// from returns the conflict as the report of a source: entries of one registry are told apart by its name.
func (c Conflict) from(source string) Conflict {
	c.Sides = slices.Clone(c.Sides)
	for i := range c.Sides {
		c.Sides[i].Source = strings.TrimSuffix(source+"/"+c.Sides[i].Source, "/")
	}
	c.Text = source + ": " + c.Text
	return c
}

// mostConflicts bounds the conflicts of a service that are listed, mostIDs the endpoints that one of them lists, and
// mostSaid the bytes of what a side says: all of that is what registries hold.
const (
	mostConflicts = 64
	mostIDs       = 8
	mostSaid      = 200
)

// notes are the conflicts of one service in the making: one for each thing and set of sources, however many endpoints
// it hits.
type notes struct {
	list  []*Conflict
	index map[string]*Conflict
}

// differ notes what is said of a thing, in the order of precedence, unless all say the same.
func (n *notes) differ(what, object string, sides []Side, endpoint string) {
	if !slices.ContainsFunc(sides, func(s Side) bool { return s.Says != sides[0].Says }) {
		return
	}
	var distinct []Side
	text := what
	if object != "" {
		text += " " + quote(object)
	}
	separator := ": "
	for _, s := range sides {
		if slices.Contains(distinct, s) {
			continue
		}
		distinct = append(distinct, s)
		text += separator + s.Source + " says " + quote(s.Says)
		separator = ", "
	}
	n.add(Conflict{What: what, Object: object, Sides: distinct, Text: text + "; taken from " + sides[0].Source}, endpoint)
}

// add notes a conflict, or one more endpoint that it is about.
func (n *notes) add(c Conflict, endpoint string) {
	key := c.What + "\x00" + c.Object
	for i, s := range c.Sides {
		key += "\x00" + s.Source
		c.Sides[i].Says = brief(s.Says)
	}
	have := n.index[key]
	if have == nil {
		if n.index == nil {
			n.index = make(map[string]*Conflict)
		}
		have = &c
		n.index[key] = have
		n.list = append(n.list, have)
	}
	switch {
	case endpoint == "" || slices.Contains(have.Endpoints, endpoint):
	case len(have.Endpoints) < mostIDs:
		have.Endpoints = append(have.Endpoints, endpoint)
	default:
		have.More++
	}
}

// conflicts returns what was noted, then what the sources report of their own, up to mostConflicts.
func (n *notes) conflicts(claims []claim) []Conflict {
	var all []Conflict
	for _, c := range n.list[:min(len(n.list), mostConflicts)] {
		if count := len(c.Endpoints) + c.More; count > 0 {
			c.Text += " (" + brief(c.Endpoints[0])
			if count > 1 {
				c.Text += fmt.Sprintf(" and %d more", count-1)
			}
			c.Text += ")"
		}
		all = append(all, *c)
	}
	count := len(n.list)
	for _, c := range claims {
		for _, own := range c.service.Conflicts {
			if count++; count <= mostConflicts {
				all = append(all, own.from(c.source))
			}
		}
	}
	return withMore(all, count)
}

// withMore appends what stands for the conflicts that are not among the listed.
func withMore(listed []Conflict, count int) []Conflict {
	if more := count - len(listed); more > 0 {
		listed = append(listed, Conflict{What: "more", More: more, Text: fmt.Sprintf("and %d more conflicts", more)})
	}
	return listed
}

// brief cuts a string that a registry holds to what a line can show.
func brief(s string) string {
	if len(s) <= mostSaid {
		return s
	}
	cut := mostSaid
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

func quote(s string) string { return strconv.Quote(brief(s)) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
