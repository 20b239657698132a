package yamlpos

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

type decoder struct {
	file     string
	problems Problems
	stopped  bool // a bound of the whole file was passed
	structs  map[reflect.Type]*structFields
	aliased  int // nodes decoded through aliases so far

	// Of the document at hand:
	lines   map[string]int  // path → line of every decoded node
	secrets map[string]bool // paths of secret fields
}

// place is where in the document the decoder stands.
type place struct {
	path   string
	line   int
	depth  int
	alias  string // the alias through which the node was reached, "" for none
	secret bool
}

func newDecoder(file string) *decoder {
	return &decoder{file: file, structs: map[reflect.Type]*structFields{}}
}

func (at place) field(name string, line int) place {
	at.depth++
	at.line = line
	if at.path != "" {
		at.path += "."
	}
	at.path += name
	return at
}

func (at place) key(key string, line int) place {
	at.depth++
	at.line = line
	at.path = Key(at.path, key)
	return at
}

// Key returns the path of a map's entry, for a Check that reports it: `labels.zone`, or `labels["a.b"]`.
func Key(path, key string) string {
	if plainKey(key) {
		return join(path, key)
	}
	return path + "[" + strconv.Quote(key) + "]"
}

func (at place) index(i, line int) place {
	at.depth++
	at.line = line
	at.path += "[" + strconv.Itoa(i) + "]"
	return at
}

// plainKey reports whether a map key needs no quotes in a path.
func plainKey(key string) bool {
	return key != "" && !strings.ContainsFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '/'
	})
}

// wrong reports that the node does not fit.
func (d *decoder) wrong(n *yaml.Node, at place, want string) {
	d.report(at.line, at.path, d.got(n, at), want)
}

// got describes a node without ever giving a secret away.
func (d *decoder) got(n *yaml.Node, at place) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case at.secret:
		return "a secret that is not shown"
	case at.alias != "":
		return "*" + at.alias // the anchor may stand at a secret
	case isNull(n):
		return "nothing"
	case n.ShortTag() == "!!str" || n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		return quote(n.Value)
	}
	return clip(n.Value)
}

func clip(s string) string {
	const most = 64
	if r := []rune(s); len(r) > most {
		return string(r[:most]) + "…"
	}
	return s
}

func quote(s string) string { return strconv.Quote(clip(s)) }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// value decodes n into v, which is settable.
func (d *decoder) value(n *yaml.Node, v reflect.Value, at place) {
	if d.full() {
		return
	}
	n, at, ok := d.enter(n, at)
	if !ok {
		return
	}
	d.lines[at.path] = at.line
	if at.secret {
		d.secrets[at.path] = true
	}
	if isNull(n) {
		return
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			made := reflect.New(v.Type().Elem())
			setDefaults(made)
			v.Set(made)
		}
		d.set(n, v.Elem(), at)
		return
	}
	d.set(n, v, at)
}

// enter follows an alias and keeps the bounds.
func (d *decoder) enter(n *yaml.Node, at place) (*yaml.Node, place, bool) {
	for n.Kind == yaml.AliasNode {
		at.alias = n.Value
		n = n.Alias
	}
	if at.alias != "" {
		if d.aliased++; d.aliased > maxAliasedNodes {
			d.stopped = true
			d.report(at.line, at.path, fmt.Sprintf("more than %d values through aliases", maxAliasedNodes), "them written out")
			return n, at, false
		}
	}
	if at.depth > maxDepth {
		d.stopped = true
		d.report(at.line, "", fmt.Sprintf("more than %d levels of nesting", maxDepth), "fewer")
		return n, at, false
	}
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!int", "!!bool", "!!float", "!!null", "!!timestamp", "!!map", "!!seq":
	case "!!merge":
		d.report(at.line, at.path, "a merge key", "the fields written out")
		return n, at, false
	default:
		if at.secret {
			tag = "that is not shown"
		}
		d.report(at.line, at.path, "the tag "+clip(tag), "no tag")
		return n, at, false
	}
	return n, at, true
}

// set decodes a node that is neither alias nor null into a value that is no pointer.
func (d *decoder) set(n *yaml.Node, v reflect.Value, at place) {
	u, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	if ok && !(n.Kind == yaml.MappingNode && v.Kind() == reflect.Struct && len(d.fieldsOf(v.Type()).names) > 0) {
		d.text(n, u, at)
		return
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d.duration(n, v, at)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.fields(n, v, at)
	case reflect.Map:
		d.mapping(n, v, at)
	case reflect.Slice:
		d.list(n, v, at)
	case reflect.Interface:
		if got := d.generic(n, at); got != nil {
			v.Set(reflect.ValueOf(got))
		}
	default:
		d.scalar(n, v, at)
	}
}

func (d *decoder) text(n *yaml.Node, u encoding.TextUnmarshaler, at place) {
	want := describe(reflect.TypeOf(u).Elem())
	if n.Kind != yaml.ScalarNode {
		d.wrong(n, at, want)
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		// The package netip's own errors add nothing to what is wanted; others may say which values there are.
		if reflect.TypeOf(u).Elem().PkgPath() != "net/netip" && !at.secret && at.alias == "" {
			want += " (" + clip(err.Error()) + ")"
		}
		d.wrong(n, at, want)
	}
}

func (d *decoder) duration(n *yaml.Node, v reflect.Value, at place) {
	t, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || t < 0 {
		d.wrong(n, at, describe(v.Type()))
		return
	}
	v.SetInt(int64(t))
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, at place) {
	want := describe(v.Type())
	if n.Kind != yaml.ScalarNode {
		d.wrong(n, at, want)
		return
	}
	tag := n.ShortTag()
	switch kind := v.Kind(); {
	case kind == reflect.String:
		v.SetString(n.Value)
		return
	case kind == reflect.Bool && tag == "!!bool":
		v.SetBool(strings.EqualFold(n.Value, "true"))
		return
	case v.CanInt() && tag == "!!int" && !leadingZero(n.Value):
		var i int64
		if n.Decode(&i) == nil && !v.OverflowInt(i) {
			v.SetInt(i)
			return
		}
	case v.CanUint() && tag == "!!int" && !leadingZero(n.Value):
		var u uint64
		if n.Decode(&u) == nil && !v.OverflowUint(u) {
			v.SetUint(u)
			return
		}
	case v.CanFloat() && (tag == "!!float" || tag == "!!int"):
		var f float64
		if n.Decode(&f) == nil && !math.IsNaN(f) && !math.IsInf(f, 0) && !v.OverflowFloat(f) {
			v.SetFloat(f)
			return
		}
	}
	d.wrong(n, at, want)
}

// leadingZero finds 0644: an octal number to some readers and a decimal one to others.
func leadingZero(s string) bool {
	s = strings.TrimLeft(s, "+-")
	return len(s) > 1 && s[0] == '0' && s[1] >= '0' && s[1] <= '9'
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, at place) {
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, at, describe(v.Type()))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		here := at.index(i, item.Line)
		d.element(item, out.Index(i), here)
	}
	v.Set(out)
}

// element decodes a member of a list or map, which null cannot be.
func (d *decoder) element(n *yaml.Node, v reflect.Value, at place) {
	if isNull(n) && v.Kind() != reflect.Interface {
		d.wrong(n, at, describe(v.Type()))
		return
	}
	setDefaults(v.Addr())
	d.value(n, v, at)
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, at place) {
	if v.Type().Key().Kind() != reflect.String {
		panic(fmt.Sprintf("yamlpos: cannot decode into %v: the keys must be strings", v.Type()))
	}
	if n.Kind != yaml.MappingNode {
		d.wrong(n, at, describe(v.Type()))
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	d.pairs(n, at, func(key string, value *yaml.Node, line int) {
		elem := reflect.New(v.Type().Elem()).Elem()
		d.element(value, elem, at.key(key, line))
		out.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), elem)
	})
	v.Set(out)
}

// pairs calls each for every key of a mapping that is a scalar and stands there for the first time.
func (d *decoder) pairs(n *yaml.Node, at place, each func(key string, value *yaml.Node, line int)) {
	first := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content) && !d.full(); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.report(key.Line, at.path, "a key that is no plain value", "a name")
			continue
		}
		if key.ShortTag() == "!!merge" {
			d.report(key.Line, at.path, "a merge key", "the fields written out")
			continue
		}
		if line, ok := first[key.Value]; ok {
			d.report(key.Line, at.key(clip(key.Value), 0).path, "it a second time", fmt.Sprintf("it once (first at line %d)", line))
			continue
		}
		first[key.Value] = key.Line
		each(key.Value, value, key.Line)
	}
}

// generic decodes without a schema.
func (d *decoder) generic(n *yaml.Node, at place) any {
	switch {
	case n.Kind == yaml.SequenceNode:
		var list []any
		d.list(n, reflect.ValueOf(&list).Elem(), at)
		return list
	case n.Kind == yaml.MappingNode:
		var m map[string]any
		d.mapping(n, reflect.ValueOf(&m).Elem(), at)
		return m
	}
	var into reflect.Value
	switch n.ShortTag() {
	case "!!bool":
		into = reflect.ValueOf(new(bool))
	case "!!int":
		into = reflect.ValueOf(new(int64))
		if !strings.HasPrefix(n.Value, "-") {
			if _, err := strconv.ParseInt(n.Value, 0, 64); err != nil {
				into = reflect.ValueOf(new(uint64))
			}
		}
	case "!!float":
		into = reflect.ValueOf(new(float64))
	default:
		return n.Value
	}
	d.scalar(n, into.Elem(), at)
	return into.Elem().Interface()
}
