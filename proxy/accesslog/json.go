package accesslog

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
)

const maxDepth = 32 // of objects and lists in each other

// member is a value of a JSON format: an object, a list, a template or a constant.
type member struct {
	key      []byte // of the object that it is in: with quotes and colon
	object   bool
	list     bool
	members  []member // of an object, sorted by key, or a list
	template []op
	typed    bool   // the template is one operator: what it finds keeps its type
	constant []byte // JSON; nil: none of the above
}

// JSON compiles a format that is given as an object: its values are templates, numbers, booleans, null, lists and objects of
// those. A line is an object on one line, sorted by key.
func (c *Compiler) JSON(format map[string]any, omitEmpty bool) (*Program, error) {
	m, err := c.member(format, 0)
	if err != nil {
		return nil, err
	}
	return &Program{json: &m, omit: omitEmpty}, nil
}

func (c *Compiler) member(value any, depth int) (member, error) {
	if depth > maxDepth {
		return member{}, fmt.Errorf("got more than %d levels, want fewer", maxDepth)
	}
	switch v := value.(type) {
	case nil:
		return member{constant: []byte("null")}, nil
	case bool:
		return member{constant: strconv.AppendBool(nil, v)}, nil
	case float64:
		if v != v || v-v != 0 {
			return member{}, fmt.Errorf("got %v, want a finite number", v)
		}
		format := byte('g')
		if v > -1e15 && v < 1e15 && v == float64(int64(v)) {
			format = 'f'
		}
		return member{constant: strconv.AppendFloat(nil, v, format, -1, 64)}, nil
	case string:
		return c.templateMember(v)
	case []any:
		m := member{list: true}
		for i, e := range v {
			inner, err := c.member(e, depth+1)
			if err != nil {
				return member{}, fmt.Errorf("[%d]: %w", i, err)
			}
			m.members = append(m.members, inner)
		}
		return m, nil
	case map[string]any:
		m := member{object: true}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			inner, err := c.member(v[key], depth+1)
			if err != nil {
				return member{}, fmt.Errorf("%q: %w", clip(key), err)
			}
			inner.key = append(appendJSON([]byte{'"'}, []byte(key)), '"', ':')
			m.members = append(m.members, inner)
		}
		return m, nil
	}
	return member{}, fmt.Errorf("got a %T, want a JSON value", value)
}

func (c *Compiler) templateMember(format string) (member, error) {
	ops, err := c.template(format)
	if err != nil {
		return member{}, err
	}
	if len(ops) == 0 || len(ops) == 1 && ops[0].write == nil {
		var literal string
		if len(ops) == 1 {
			literal = ops[0].text
		}
		return member{constant: append(appendJSON([]byte{'"'}, []byte(literal)), '"')}, nil
	}
	for i := range ops {
		if ops[i].write == nil {
			ops[i].text = string(appendJSON(nil, []byte(ops[i].text)))
		}
	}
	return member{template: ops, typed: len(ops) == 1}, nil
}

// append writes the value; ok is false, and nothing written, when it is null and omit asks to leave that out.
func (m *member) append(dst []byte, r *Record, omit bool) (out []byte, ok bool) {
	switch {
	case m.object:
		return m.appendObject(dst, r, omit), true
	case m.list:
		dst = append(dst, '[')
		for i := range m.members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst, _ = m.members[i].append(dst, r, false)
		}
		return append(dst, ']'), true
	case m.constant != nil:
		if omit && string(m.constant) == "null" {
			return dst, false
		}
		return append(dst, m.constant...), true
	case m.typed:
		return m.appendTyped(dst, r, omit)
	}
	dst = append(dst, '"')
	for i := range m.template {
		o := &m.template[i]
		if o.write == nil {
			dst = append(dst, o.text...)
			continue
		}
		from := len(dst)
		var kind valueKind
		dst, kind = o.write(o, dst, r)
		switch {
		case kind == text:
			dst = escape(dst, from, appendJSON)
		case kind == missing && !omit:
			dst = append(dst, '-')
		}
	}
	return append(dst, '"'), true
}

func (m *member) appendTyped(dst []byte, r *Record, omit bool) (out []byte, ok bool) {
	from := len(dst)
	o := &m.template[0]
	dst, kind := o.write(o, append(dst, '"'), r)
	switch kind {
	case text:
		dst = escape(dst, from+1, appendJSON)
		return append(dst, '"'), true
	case number:
		n := copy(dst[from:], dst[from+1:])
		return dst[:from+n], true
	}
	if omit {
		return dst[:from], false
	}
	return append(dst[:from], "null"...), true
}

func (m *member) appendObject(dst []byte, r *Record, omit bool) []byte {
	dst = append(dst, '{')
	first := true
	for i := range m.members {
		inner := &m.members[i]
		from := len(dst)
		if !first {
			dst = append(dst, ',')
		}
		dst = append(dst, inner.key...)
		at := len(dst)
		out, ok := inner.append(dst, r, omit)
		dst = out
		if !ok || omit && inner.object && string(dst[at:]) == "{}" {
			dst = dst[:from]
			continue
		}
		first = false
	}
	return append(dst, '}')
}
