package zookeeper

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// place says what a node of the tree is.
type place uint8

const (
	ignored   place = iota // not read, nor what is below it
	directory              // its children are read
	instance               // its data is read
	named                  // its name says all: it is not read
)

// layout is how services are written into the tree. Both functions are given the names on the way from the root to a
// node, and are pure.
type layout interface {
	// place says what a node is.
	place(at []string) place
	// decode reads an instance. An entry with an error is good, and the error says which part of it is not used.
	decode(at []string, data []byte) (*registry.Entry, error)
}

// layoutNamed returns the layout of that name, nil if there is none.
func layoutNamed(name string) layout {
	switch name {
	case layoutCurator:
		return curator{}
	case layoutNerve:
		return nerve{}
	case layoutServerset:
		return serverset{}
	case layoutDubbo:
		return dubbo{}
	}
	return nil
}

// sequence ends the name of a node that Nerve or a ServerSet made: ZooKeeper's number, or none where Nerve is told to
// make plain nodes.
var sequence = regexp.MustCompile(`_(-?[0-9]{10,11})?$`)

const maxDepth = 10 // of a tree whose layout does not bound it

// nested is the place of a node in a layout where services are at paths of any depth.
func nested(at []string) place {
	switch {
	case len(at) > maxDepth:
		return ignored
	case len(at) > 1 && sequence.MatchString(at[len(at)-1]):
		return instance
	}
	return directory
}

// looksLike guesses which layout wrote a node, from its name and data; "" when there is nothing to guess from.
func looksLike(at []string, data []byte) string {
	last := at[len(at)-1]
	dubbos := len(at) == 2 && slices.Contains([]string{"providers", "consumers", "configurators", "routers"}, last) // <root>/<interface>/providers
	if dubbos || strings.Contains(last, "%3A%2F%2F") {
		return layoutDubbo
	}
	if strings.HasPrefix(last, encodedPrefix) {
		return layoutNerve
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return ""
	}
	has := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(n string) bool { _, ok := fields[n]; return !ok })
	}
	switch {
	case has("serviceEndpoint"):
		return layoutServerset
	case has("address", "id", "name"):
		return layoutCurator
	case has("host", "port"):
		return layoutNerve
	}
	return ""
}

// serviceAt makes a service's name of the path to its instances. What is of the form type:value says where they are
// (Nerve's "region:eu-1") and becomes a label; a last "services" is SmartStack's habit, not a name.
func serviceAt(at []string) (name string, labels map[string]string, err error) {
	labels = make(map[string]string)
	var parts []string
	for i, part := range at {
		kind, value, found := strings.Cut(part, ":")
		switch {
		case found && kind != "" && value != "":
			labels[kind] = value
		case i == len(at)-1 && i > 0 && part == "services":
		default:
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return "", nil, wrong(kindName, "no service's name on the way to it: choose a root above it")
	}
	return strings.Join(parts, "/"), labels, nil
}

// decodeObject decodes a JSON object strictly enough to tell it from anything else.
func decodeObject(data []byte, into any) error {
	switch data = bytes.TrimSpace(data); {
	case len(data) == 0:
		return fmt.Errorf("got no data, want a JSON object")
	case data[0] != '{':
		return fmt.Errorf("got %.40q, want a JSON object", data)
	}
	return json.Unmarshal(data, into)
}
