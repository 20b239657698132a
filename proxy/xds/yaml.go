package xds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

const (
	maxFileNodes = 1 << 18 // aliases may not blow a file up beyond this
	maxFileDepth = 64
)

// document is a YAML or JSON file on its way to a message. Its JSON form has every value on the line that it has in
// the file, so that protojson's positions are the file's.
type document struct {
	file     string
	json     bytes.Buffer
	line     int            // of the end of json
	lines    map[string]int // of every field by its path in proto names
	problems []lined
	nodes    int
	over     bool // the bounds were passed: no more is read
}

// lined is a problem with its line; printed it is "file:line: path: got X, want Y".
type lined struct {
	line int
	problem
}

// unmarshalFile decodes a YAML or JSON file's text into m, strictly. The lines of all fields are returned for the
// complaints of whoever reads m.
func unmarshalFile(file string, data []byte, m proto.Message) (*document, error) {
	d := &document{file: file, line: 1, lines: map[string]int{}}
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' {
		data = bytes.ReplaceAll(data, []byte("\t"), []byte(" ")) // JSON may be indented by tabs, YAML not
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := dec.Decode(&root); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s:1: got an empty file, want a bootstrap", file)
		}
		return nil, yamlError(file, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: got more than one document, want one", file)
	}
	d.message(nil, root.Content[0], m.ProtoReflect().Descriptor(), 0)
	if err := d.err(); err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(d.json.Bytes(), m); err != nil {
		return nil, d.protoError(err)
	}
	return d, nil
}

// err returns all problems as one error, in the file's order, a line each.
func (d *document) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b lined) int { return a.line - b.line })
	texts := make([]string, len(d.problems))
	for i, p := range d.problems {
		texts[i] = fmt.Sprintf("%s:%d: %s", d.file, p.line, p.problem)
	}
	return errors.New(strings.Join(texts, "\n"))
}

func (d *document) wrong(n *yaml.Node, at *path, got, want string) {
	where := at.String()
	if where == "" {
		where = "bootstrap"
	}
	d.problems = append(d.problems, lined{n.Line, problem{where, "got " + got + ", want " + want}})
}

// add takes over problems that were found in the message.
func (d *document) add(problems []problem) {
	for _, p := range problems {
		line, at := 1, p.path
		for at != "" {
			if l, ok := d.lines[at]; ok {
				line = l
				break
			}
			at = at[:max(strings.LastIndexAny(at, ".["), 0)]
		}
		d.problems = append(d.problems, lined{line, p})
	}
}

// emit writes text at the line where it stands in the file.
func (d *document) emit(n *yaml.Node, text string) {
	for d.line < n.Line {
		d.json.WriteByte('\n')
		d.line++
	}
	d.json.WriteString(text)
}

// resolve follows an alias and keeps the bounds. It reports whether there is something to go on with.
func (d *document) resolve(at *path, n *yaml.Node, depth int) (*yaml.Node, bool) {
	if d.nodes++; !d.over && (d.nodes > maxFileNodes || depth > maxFileDepth) {
		d.over = true
		d.wrong(n, at, "too much or too deep a nesting", "a smaller file")
	}
	if d.over {
		return nil, false
	}
	if n.Kind != yaml.AliasNode {
		return n, true
	}
	target := *n.Alias
	target.Line = n.Line
	return &target, true
}

// message writes a mapping that stands for a message and notes unknown and doubled keys.
func (d *document) message(at *path, n *yaml.Node, md protoreflect.MessageDescriptor, depth int) {
	n, ok := d.resolve(at, n, depth)
	if !ok {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.wrong(n, at, describe(n), "a mapping ("+string(md.FullName())+")")
		return
	}
	isAny := md.FullName() == "google.protobuf.Any"
	if isAny {
		if md = d.anyType(at, n); md == nil {
			return
		}
	}
	d.emit(n, "{")
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if i > 0 {
			d.json.WriteByte(',')
		}
		fd := md.Fields().ByJSONName(key.Value)
		if fd == nil {
			fd = md.Fields().ByTextName(key.Value)
		}
		switch {
		case isAny && key.Value == "@type":
			d.emit(key, quote("@type")+":"+quote(value.Value))
			continue
		case fd == nil:
			d.wrong(key, at.field(key.Value), "an unknown field", "a field of "+string(md.FullName()))
			continue
		case seen[string(fd.Name())]:
			d.wrong(key, at.field(key.Value), "it twice", "it once")
		}
		seen[string(fd.Name())] = true
		d.emit(key, quote(key.Value)+":")
		d.value(at.field(string(fd.Name())), key, value, fd, depth+1)
	}
	d.json.WriteByte('}')
}

// anyType finds what an Any holds. Only what is linked into this program can be understood.
func (d *document) anyType(at *path, n *yaml.Node) protoreflect.MessageDescriptor {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "@type" {
			continue
		}
		if t, err := protoregistry.GlobalTypes.FindMessageByURL(n.Content[i+1].Value); err == nil {
			return t.Descriptor()
		}
		d.wrong(n.Content[i+1], at, clip(n.Content[i+1].Value), "a type that is supported")
		return nil
	}
	d.wrong(n, at, "no @type", "one")
	return nil
}

// value writes what stands under a key.
func (d *document) value(at *path, key, n *yaml.Node, fd protoreflect.FieldDescriptor, depth int) {
	d.lines[at.String()] = key.Line
	switch {
	case fd.IsMap() && fd.MapValue().Message() != nil:
		d.mapping(at, n, fd.MapValue().Message(), depth)
	case fd.IsList():
		n, ok := d.resolve(at, n, depth)
		if !ok {
			return
		}
		if n.Kind != yaml.SequenceNode {
			d.wrong(n, at, describe(n), "a list")
			return
		}
		d.emit(n, "[")
		for i, item := range n.Content {
			if i > 0 {
				d.json.WriteByte(',')
			}
			p := at.up.at(at.name, i)
			d.lines[p.String()] = item.Line
			if nested(fd.Message()) {
				d.message(p, item, fd.Message(), depth+1)
			} else {
				d.plain(p, item, depth+1)
			}
		}
		d.json.WriteByte(']')
	case nested(fd.Message()):
		d.message(at, n, fd.Message(), depth)
	default:
		d.plain(at, n, depth)
	}
}

// mapping writes a map from names to messages.
func (d *document) mapping(at *path, n *yaml.Node, md protoreflect.MessageDescriptor, depth int) {
	n, ok := d.resolve(at, n, depth)
	if !ok {
		return
	}
	if n.Kind != yaml.MappingNode || !nested(md) {
		d.plain(at, n, depth)
		return
	}
	d.emit(n, "{")
	for i := 0; i+1 < len(n.Content); i += 2 {
		if i > 0 {
			d.json.WriteByte(',')
		}
		p := at.field(n.Content[i].Value)
		d.lines[p.String()] = n.Content[i].Line
		d.emit(n.Content[i], quote(n.Content[i].Value)+":")
		d.message(p, n.Content[i+1], md, depth+1)
	}
	d.json.WriteByte('}')
}

// nested reports whether a message is written as its fields. Durations, wrappers and the like have forms of their own.
func nested(md protoreflect.MessageDescriptor) bool {
	return md != nil && (md.ParentFile().Package() != "google.protobuf" || md.FullName() == "google.protobuf.Any")
}

// plain writes a value as JSON, whatever it is.
func (d *document) plain(at *path, n *yaml.Node, depth int) {
	n, ok := d.resolve(at, n, depth)
	if !ok {
		return
	}
	switch n.Kind {
	case yaml.MappingNode, yaml.SequenceNode:
		open, end, step := "[", "]", 1
		if n.Kind == yaml.MappingNode {
			open, end, step = "{", "}", 2
		}
		d.emit(n, open)
		for i := 0; i+step <= len(n.Content); i += step {
			if i > 0 {
				d.json.WriteByte(',')
			}
			if step == 2 {
				d.emit(n.Content[i], quote(n.Content[i].Value)+":")
			}
			d.plain(at, n.Content[i+step-1], depth+1)
		}
		d.json.WriteString(end)
	default:
		d.emit(n, d.scalar(at, n))
	}
}

func (d *document) scalar(at *path, n *yaml.Node) string {
	var v any
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool", "!!null":
		if err := n.Decode(&v); err != nil {
			d.wrong(n, at, describe(n), "a value")
			return "null"
		}
		if text, err := json.Marshal(v); err == nil {
			return string(text)
		}
	}
	return quote(n.Value)
}

// quote writes a JSON string.
func quote(text string) string {
	out, err := json.Marshal(text)
	if err != nil { // a string always has a JSON form
		return `""`
	}
	return string(out)
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return clip(strconv.Quote(n.Value))
}

// yamlError puts the file in front of a YAML error: "yaml: line 3: …" becomes "file:3: …".
func yamlError(file string, err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if m := regexp.MustCompile(`^line (\d+): (.*)`).FindStringSubmatch(text); m != nil {
		return fmt.Errorf("%s:%s: got %s, want YAML", file, m[1], m[2])
	}
	return fmt.Errorf("%s: got %s, want YAML", file, text)
}

// protoError turns a position in the JSON form into the file's.
func (d *document) protoError(err error) error {
	m := regexp.MustCompile(`(?s)^proto:.*?\(line (\d+):\d+\): (.*)$`).FindStringSubmatch(err.Error())
	if m == nil {
		return fmt.Errorf("%s: decode bootstrap: %w", d.file, err)
	}
	line, text := m[1], m[2]
	return fmt.Errorf("%s:%s: %s: got %s, want what the field takes", d.file, line, d.fieldAt(line), text)
}

// fieldAt names the innermost field that begins on a line.
func (d *document) fieldAt(line string) string {
	best := ""
	for at, l := range d.lines {
		if strconv.Itoa(l) == line && len(at) > len(best) {
			best = at
		}
	}
	if best == "" {
		return "bootstrap"
	}
	return best
}
