package registry

import (
	"slices"
	"strings"
)

// Conflict is one thing on which the registries, or the entries of one registry, do not agree. It never takes an
// endpoint away: one side is taken, the others are listed. It is immutable.
type Conflict struct {
	// What differs: "port number", "port protocol", "label", "weight", "locality", "name", "place", …
	What string `json:"what"`
	// Object is which of them: a port's name, a label's key; "" where there is only one.
	Object string `json:"object,omitempty"`
	// Sides are what is said, and by whom; the first is the one that is taken, unless Text says otherwise.
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
