package yamlpos

import (
	"cmp"
	"encoding"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// checker is implemented by values that know more than their structure. The function has no name of its own so that
// a package needs no import of this one.
type checker interface {
	Check(report func(path, got, want string))
}

type defaulter interface{ SetDefaults() }

// setDefaults lets a value that the decoder made put its defaults in. v is a pointer.
func setDefaults(v reflect.Value) {
	if s, ok := v.Interface().(defaulter); ok {
		s.SetDefaults()
	}
}

// check asks v and all below it for mistakes. v is addressable.
func (d *decoder) check(v reflect.Value, path string) {
	if d.full() {
		return
	}
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() || v.Kind() == reflect.Interface {
			return // what was decoded without a schema has no methods
		}
		v = v.Elem()
	}
	if c, ok := v.Addr().Interface().(checker); ok {
		c.Check(func(relative, got, want string) { d.checked(join(path, relative), got, want) })
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.checkFields(v, path)
	case reflect.Slice:
		for i := range v.Len() {
			d.check(v.Index(i), path+"["+strconv.Itoa(i)+"]")
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
		for _, key := range keys {
			elem := reflect.New(v.Type().Elem()).Elem()
			elem.Set(v.MapIndex(key))
			d.check(elem, place{path: path}.key(key.String(), 0).path)
		}
	}
}

func (d *decoder) checkFields(v reflect.Value, path string) {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		f, inline, line := parseTag(sf)
		switch {
		case f.name == "-" || line || !sf.IsExported():
		case inline:
			d.check(v.Field(i), path)
		default:
			d.check(v.Field(i), join(path, f.name))
		}
	}
}

func join(path, relative string) string {
	if path == "" || relative == "" || relative[0] == '[' {
		return path + relative
	}
	return path + "." + relative
}

// checked reports what a Check said, at the line of the nearest value that the document holds.
func (d *decoder) checked(path, got, want string) {
	line, found := 0, false
	for at := path; ; at = at[:max(strings.LastIndexAny(at, ".["), 0)] {
		if l, ok := d.lines[at]; ok && !found {
			line, found = l, true
		}
		if d.secrets[at] {
			got = "a secret that is not shown"
		}
		if at == "" {
			break
		}
	}
	d.report(line, path, got, want)
}
