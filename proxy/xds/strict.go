package xds

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// path is where in a resource something stands; nil is the resource itself. It is only made text for a complaint.
type path struct {
	up    *path
	name  string
	index int // -1: not in a list
}

func (p *path) field(name string) *path     { return &path{p, name, -1} }
func (p *path) at(name string, i int) *path { return &path{p, name, i} }

func (p *path) String() string {
	if p == nil {
		return ""
	}
	text := p.name
	if p.index >= 0 {
		text += "[" + strconv.Itoa(p.index) + "]"
	}
	if p.up == nil {
		return text
	}
	return p.up.String() + "." + text
}

// problem is one thing that is wrong with a resource.
type problem struct{ path, text string }

func (p problem) String() string {
	if p.path == "" {
		return p.text
	}
	return p.path + ": " + p.text
}

// reader turns the protobuf of one resource into config values and collects everything that is wrong with it. What
// is made is only to be used when nothing was found.
type reader struct {
	rules
	problems []problem
}

// rules are what all readers of a proxy go by.
type rules struct {
	schema schema
	stdout string // takes the place of /dev/stdout in access logs, if set
}

// wrong notes that at p there is got where want was expected.
func (r *reader) wrong(p *path, got any, want string) {
	r.problems = append(r.problems, problem{p.String(), fmt.Sprintf("got %v, want %s", got, want)})
}

// err returns all that was found as one error of a resource, or nil.
func (r *reader) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	texts := make([]string, len(r.problems))
	for i, p := range r.problems {
		texts[i] = p.String()
	}
	return errors.New(strings.Join(texts, "; "))
}

// missing notes that something is not there, unless what is there instead was complained of already.
func (r *reader) missing(p *path, got, want string) {
	at := p.String()
	for _, known := range r.problems {
		if at == "" || strings.HasPrefix(known.path, at+".") {
			return
		}
	}
	r.problems = append(r.problems, problem{at, "got " + got + ", want " + want})
}

// unmarshal decodes raw into m and checks it: protobuf's form, the field rules of the API, and that nothing is set which
// this proxy does not do. It reports whether m is sound enough to read on and find more.
func (r *reader) unmarshal(at *path, raw []byte, m proto.Message) bool {
	if err := proto.Unmarshal(raw, m); err != nil {
		r.problems = append(r.problems, problem{at.String(), "got no " + string(m.ProtoReflect().Descriptor().FullName()) + ": " + err.Error()})
		return false
	}
	return r.check(at, m)
}

// check does all of unmarshal but the decoding.
func (r *reader) check(at *path, m proto.Message) bool {
	sound := r.validate(at, m)
	r.strict(at, m.ProtoReflect())
	return sound
}

// unpack decodes a typed_config. The caller has compared its type.
func (r *reader) unpack(at *path, typed *anypb.Any, m proto.Message) bool {
	return r.unmarshal(at, typed.GetValue(), m)
}

// validate applies the rules that the API's own proto files declare.
func (r *reader) validate(at *path, m proto.Message) bool {
	v, ok := m.(interface{ ValidateAll() error })
	if !ok {
		return true
	}
	err := v.ValidateAll()
	if err == nil {
		return true
	}
	all := []error{err}
	var several interface{ AllErrors() []error }
	if errors.As(err, &several) {
		all = several.AllErrors()
	}
	for _, err := range all {
		r.problems = append(r.problems, problem{at.String(), err.Error()})
	}
	return false
}

// strict notes every field that is set in m, or below it, and is not in the schema.
func (r *reader) strict(at *path, m protoreflect.Message) {
	r.strictAs(at, m, m.Descriptor().FullName())
}

// strictAs is strict with the fields that the schema has under another name than the message's.
func (r *reader) strictAs(at *path, m protoreflect.Message, name protoreflect.FullName) {
	known, listed := r.schema[name]
	if !listed {
		return // a value such as a duration, or an Any, which its own reader opens
	}
	if len(m.GetUnknown()) > 0 {
		r.wrong(at, "a field that this version does not know", "fields of "+string(name)+" only")
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		field := string(fd.Name())
		below, ok := known[field]
		switch {
		case !ok:
			r.wrong(at.field(field), brief(fd, v), "it unset: not supported")
		case !below, fd.IsMap(), fd.Message() == nil:
		case fd.IsList():
			for i, list := 0, v.List(); i < list.Len(); i++ {
				r.strict(at.at(field, i), list.Get(i).Message())
			}
		default:
			r.strict(at.field(field), v.Message())
		}
		return true
	})
}

// brief says what a field holds: a scalar's value, otherwise only that there is one.
func brief(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	if md := fd.Message(); md != nil && !fd.IsList() && !fd.IsMap() && md.ParentFile().Path() == "google/protobuf/wrappers.proto" {
		value := md.Fields().ByName("value")
		return brief(value, v.Message().Get(value))
	}
	switch {
	case fd.IsMap(), fd.IsList(), fd.Message() != nil, fd.Kind() == protoreflect.BytesKind:
		return "a value"
	case fd.Enum() != nil:
		if value := fd.Enum().Values().ByNumber(v.Enum()); value != nil {
			return string(value.Name())
		}
		return fmt.Sprint(v.Enum())
	default:
		return clip(fmt.Sprintf("%v", v.Interface()))
	}
}

// clip keeps a foreign text short enough for a log line.
func clip(text string) string {
	const most = 120
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}
