// Package yamlpos decodes YAML strictly and says where every mistake is: all of them at once, each with file, line,
// path, what was got and what was wanted.
//
// Fields are named by the tag `yaml:"name,option…"`; without one by the Go name in lower case. Options:
//
//	required  the field must be there (and not null)
//	secret    no problem ever prints what the field, or anything below it, holds
//	inline    a struct whose fields are taken as the outer struct's own (the default for an untagged embedded struct)
//	line      an int that receives the line on which the value that holds it begins; it is no field of the document
//
// and `yaml:"-"` leaves a field out. Decoded are strings (of any scalar, by its literal text: a version 1.10 stays
// "1.10"), bools (true, false), integers, floats, time.Duration ("2s", never negative), encoding.TextUnmarshaler, slices,
// maps with string keys, pointers, structs and any (string, bool, int64, uint64, float64, []any, map[string]any, nil).
// A struct with fields that is a TextUnmarshaler too is taken from a scalar by that, and from a mapping by its fields.
// A null leaves the default in place. Merge keys (<<) are refused; anchors and aliases are taken within bounds.
//
// Defaults are what the value holds already. Values that the decoder makes itself (behind a pointer, in a list or a map,
// one of several documents) get theirs from a method SetDefaults(), when their pointer has one.
//
// When the structure is sound every decoded value that has the method
//
//	Check(report func(path, got, want string))
//
// is asked for mistakes; the paths that it reports are relative to it ("endpoints[1].port", "" for itself).
package yamlpos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds of what is decoded. A file beyond one of them is refused with a Problem.
const (
	maxBytes        = 1 << 20
	maxDepth        = 64
	maxAliasedNodes = 10_000 // values reached through aliases, over the whole file
	maxProblems     = 100    // of one file; looking for more stops there
)

// Problem is one mistake in a file.
type Problem struct {
	File string
	Line int    // from 1; 0 when no line can be named
	Path string // "registries[0].consul.address"; "" for the whole document
	Got  string
	Want string
}

// String returns "file:line: path: got X, want Y", without the parts that are not known.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	fmt.Fprintf(&b, "got %s, want %s", p.Got, p.Want)
	return b.String()
}

// Problems are all mistakes of a file, sorted by line. It is the error that Decode and DecodeAll return.
type Problems []Problem

// Error returns the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// Decode decodes the one document of data into the value that into points to, whose content are the defaults. A file
// without a document is an empty one. file is only named in problems. The error is nil or Problems; after an error
// the value holds an unspecified part of the document. Decode panics when into is not a non-nil pointer or its type
// holds something that cannot be decoded: that is a mistake of the program.
func Decode(file string, data []byte, into any) error {
	v := reflect.ValueOf(into)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic(fmt.Sprintf("yamlpos: decode into %T, want a non-nil pointer", into))
	}
	d := newDecoder(file)
	docs := d.parse(data)
	if len(docs) > 1 {
		d.report(docs[1].Line, "", "a second document", "a single one")
	}
	root := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1}
	if len(docs) > 0 {
		root = docs[0]
	}
	if len(d.problems) == 0 {
		d.document(root, v.Elem())
	}
	return d.err()
}

// DecodeAll decodes the documents of data, separated by "---" lines, each into a T. Documents without content are
// skipped, so an empty file yields none. The error is nil or Problems, and then no document is returned.
func DecodeAll[T any](file string, data []byte) ([]T, error) {
	d := newDecoder(file)
	docs := d.parse(data)
	out := make([]T, len(docs))
	for i, doc := range docs {
		v := reflect.ValueOf(&out[i])
		setDefaults(v)
		d.document(doc, v.Elem())
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return out, nil
}

// document decodes one document and, if its structure is sound, asks its values for further mistakes.
func (d *decoder) document(root *yaml.Node, v reflect.Value) {
	before := len(d.problems)
	d.lines = map[string]int{"": root.Line}
	d.secrets = map[string]bool{}
	d.value(root, v, place{line: root.Line})
	if len(d.problems) == before {
		d.check(v, "")
	}
}

var (
	syntaxLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)
	quoted     = regexp.MustCompile(` '.*'`)
)

// parse returns the roots of the documents that have content.
func (d *decoder) parse(data []byte) (roots []*yaml.Node) {
	if len(data) > maxBytes {
		d.report(0, "", fmt.Sprintf("%d bytes", len(data)), fmt.Sprintf("at most %d", maxBytes))
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return roots
		}
		if err != nil {
			m := syntaxLine.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
			line, _ := strconv.Atoi(m[1])
			// An anchor's name may be a secret that begins with an asterisk and has no quotes.
			d.report(line, "", "YAML that cannot be parsed ("+quoted.ReplaceAllString(m[2], "")+")", "valid YAML")
			return nil
		}
		root := &doc
		if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
			root = root.Content[0]
		}
		if root.Kind != 0 && !isNull(root) {
			roots = append(roots, root)
		}
	}
}

func (d *decoder) report(line int, path, got, want string) {
	p := Problem{File: d.file, Line: line, Path: path, Got: got, Want: want}
	if !slices.Contains(d.problems, p) {
		d.problems = append(d.problems, p)
	}
}

// full reports whether so much is wrong that there is no use in looking further.
func (d *decoder) full() bool { return d.stopped || len(d.problems) >= maxProblems }

func (d *decoder) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int { return a.Line - b.Line })
	return d.problems
}
