package yamlpos

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// structFields is what a struct type's tags say.
type structFields struct {
	byName map[string]field
	names  []string // sorted
	line   [][]int  // fields that take the line
}

type field struct {
	name     string
	index    []int // for reflect.Value.FieldByIndex
	typ      reflect.Type
	required bool
	secret   bool
}

// fieldsOf reads a struct type's tags. It panics on a tag that cannot be meant.
func (d *decoder) fieldsOf(t reflect.Type) *structFields {
	if s, ok := d.structs[t]; ok {
		return s
	}
	s := &structFields{byName: map[string]field{}}
	s.add(t, nil)
	for name := range s.byName {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	d.structs[t] = s
	return s
}

func (s *structFields) add(t reflect.Type, outer []int) {
	for i := range t.NumField() {
		sf := t.Field(i)
		f, inline, line := parseTag(sf)
		f.index = append(slices.Clone(outer), i)
		switch {
		case f.name == "-" || !sf.IsExported() && !inline:
		case line:
			s.line = append(s.line, f.index)
		case inline:
			s.add(sf.Type, f.index)
		default:
			if _, ok := s.byName[f.name]; ok {
				panic(fmt.Sprintf("yamlpos: %v has two fields named %q", t, f.name))
			}
			s.byName[f.name] = f
		}
	}
}

func parseTag(sf reflect.StructField) (f field, inline, line bool) {
	tag, tagged := sf.Tag.Lookup("yaml")
	name, options, _ := strings.Cut(tag, ",")
	f = field{name: name, typ: sf.Type}
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "required":
			f.required = true
		case "secret":
			f.secret = true
		case "inline":
			inline = true
		case "line":
			line = true
		case "", "omitempty", "flow":
		default:
			panic(fmt.Sprintf("yamlpos: field %s has the unknown tag option %q", sf.Name, option))
		}
	}
	if sf.Anonymous && !tagged && sf.Type.Kind() == reflect.Struct {
		inline = true
	}
	if f.name == "" {
		f.name = strings.ToLower(sf.Name)
	}
	return f, inline, line
}

// fields decodes a mapping into a struct.
func (d *decoder) fields(n *yaml.Node, v reflect.Value, at place) {
	s := d.fieldsOf(v.Type())
	for _, index := range s.line {
		v.FieldByIndex(index).SetInt(int64(at.line))
	}
	if n.Kind != yaml.MappingNode {
		d.wrong(n, at, describe(v.Type()))
		return
	}
	seen := map[string]bool{}
	d.pairs(n, at, func(key string, value *yaml.Node, line int) {
		f, ok := s.byName[key]
		if !ok {
			d.report(line, at.key(clip(key), line).path, "an unknown field", s.suggest(key))
			return
		}
		here := at.field(f.name, line)
		here.secret = here.secret || f.secret
		seen[key] = !isNull(value)
		d.value(value, v.FieldByIndex(f.index), here)
	})
	for _, name := range s.names {
		if f := s.byName[name]; f.required && !seen[name] && !d.full() {
			here := at.field(name, at.line)
			if line, ok := d.lines[here.path]; ok {
				here.line = line
			}
			d.report(here.line, here.path, "nothing", describe(f.typ))
		}
	}
}

// suggest says which field may have been meant.
func (s *structFields) suggest(key string) string {
	if len(s.names) == 0 {
		return "no field"
	}
	best, bestDistance := "", max(2, len(key)/3)+1
	for _, name := range s.names {
		if n := distance(strings.ToLower(key), strings.ToLower(name)); n < bestDistance && n < len(name) {
			best, bestDistance = name, n
		}
	}
	if best != "" {
		return fmt.Sprintf("%q", best)
	}
	if len(s.names) == 1 {
		return fmt.Sprintf("%q", s.names[0])
	}
	return "one of " + strings.Join(s.names, ", ")
}

// distance is Levenshtein's, for names of a sane length.
func distance(a, b string) int {
	const most = 64
	if len(a) > most || len(b) > most {
		return most
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// describe says what a type wants to read.
func describe(t reflect.Type) string {
	switch t.String() {
	case "netip.Addr":
		return "an IP address"
	case "netip.AddrPort":
		return "an IP address and port such as 127.0.0.1:8500"
	case "netip.Prefix":
		return "an IP prefix such as 10.0.0.0/8"
	case "time.Duration":
		return "a duration such as 500ms, 2s or 1m"
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return "a valid " + strings.ToLower(t.Name())
	}
	switch t.Kind() {
	case reflect.Pointer:
		return describe(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		most := int64(math.MaxInt64) >> (64 - t.Bits())
		return fmt.Sprintf("an integer from %d to %d", -most-1, most)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("an integer from 0 to %d", uint64(math.MaxUint64)>>(64-t.Bits()))
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a mapping"
	case reflect.Interface:
		return "a value"
	}
	panic(fmt.Sprintf("yamlpos: cannot decode into %v", t))
}
