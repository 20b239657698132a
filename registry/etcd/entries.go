package etcd

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hostmesh/hostmesh/registry"
)

// Bounds of what one key may hold.
const (
	maxKey   = 1 << 10
	maxValue = 64 << 10
)

// entries are the keys that begin with the root, and what they say. It belongs to one goroutine.
type entries struct {
	root     string
	layout   layout
	assembly *registry.Assembly
	keys     map[string]uint64 // by key: the number of the last list that had it, or after which it was put
	bad      map[string]string // by key that cannot be read: the layout that its value looks like
	lists    uint64            // their number so far
	direct   *direct           // nil unless the layout is skydns
}

// layout is one way to write services into etcd.
type layout interface {
	name() string
	// read returns what a key, without the root, and its value say; nil for what is not about an endpoint of a service.
	read(key string, value []byte) (*registry.Entry, error)
}

func newEntries(cfg Config) *entries {
	e := &entries{
		root: cfg.root(), assembly: registry.NewAssembly(), keys: make(map[string]uint64), bad: make(map[string]string),
	}
	switch cfg.Layout {
	case layoutGRPC:
		e.layout = grpcLayout{cfg.Namespace}
	case layoutSkyDNS:
		e.layout = skydnsLayout{cfg.Namespace}
		e.direct = &direct{below: make(map[string]int), values: make(map[string][]byte)}
	default:
		e.layout = hostmeshLayout{cfg.Namespace}
	}
	return e
}

func (e *entries) view() registry.View { return e.assembly.View() }

// beginList says that what is put from now on is all there is; endList deletes what was not put since.
func (e *entries) beginList() { e.lists++ }

func (e *entries) endList() {
	for key, list := range e.keys {
		if list != e.lists {
			e.delete(key)
		}
	}
}

// put takes the value of a key. One that cannot be read becomes a problem, and what it said before stays.
func (e *entries) put(key string, value []byte) {
	size := len(key)
	key = held(key)
	_, known := e.keys[key]
	e.keys[key] = e.lists
	if size > maxKey {
		e.bad[key] = ""
		e.assembly.RejectAs(key, "size", fmt.Sprintf("got a key of %d bytes, want at most %d", size, maxKey))
		return
	}
	if e.direct != nil && e.hidden(key, value, known) {
		return
	}
	e.read(key, value)
}

func (e *entries) read(key string, value []byte) {
	entry, err := e.decode(key, value)
	delete(e.bad, key)
	switch {
	case err != nil:
		looks := looksLike(value)
		e.bad[key] = looks
		e.assembly.RejectAs(object(key), kindOf(err), reason(err, looks, e.layout))
	case entry == nil:
		e.assembly.Delete(object(key))
	default:
		e.assembly.Set(object(key), *entry)
	}
}

func (e *entries) decode(key string, value []byte) (*registry.Entry, error) {
	switch {
	case !printable(key):
		return nil, wrong("name", "got key %.200q, want printable UTF-8", key)
	case len(value) > maxValue:
		return nil, wrong("size", "got a larger value, want at most %d bytes", maxValue)
	}
	return e.layout.read(strings.TrimPrefix(key, e.root), value)
}

func (e *entries) delete(key string) {
	key = held(key)
	if _, known := e.keys[key]; !known {
		return
	}
	delete(e.keys, key)
	delete(e.bad, key)
	e.assembly.Delete(object(key))
	if e.direct != nil && strings.HasPrefix(key, e.root) { // not of one that is too long
		e.uncover(key)
	}
}

// held is what is kept of a key: of one that is too long, only what names it in problems.
func held(key string) string {
	if len(key) > maxKey {
		return object(key)
	}
	return key
}

// object names a key in problems, where it must be text of a bearable length.
func object(key string) string {
	if len(key) <= maxKey && printable(key) {
		return key
	}
	return fmt.Sprintf("%.200q… (SHA-256 %x)", key[:min(len(key), 200)], sha256.Sum256([]byte(key)))
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// wrongLayout returns an error when there are keys, none of them can be read, and all look like those of one other
// layout.
func (e *entries) wrongLayout() error {
	if len(e.keys) == 0 || len(e.bad) < len(e.keys) {
		return nil
	}
	other := ""
	for _, looks := range e.bad {
		if looks == "" || looks == e.layout.name() || other != "" && other != looks {
			return nil
		}
		other = looks
	}
	return fmt.Errorf("none of the %d keys that begin with %s is of layout %s, all look like layout %s: set layout: %[4]s",
		len(e.keys), e.root, e.layout.name(), other)
}

// reason says why a value cannot be read, and of which other layout it may be.
func reason(err error, looks string, want layout) string {
	text := bounded(err, "").Error()
	if looks != "" && looks != want.name() {
		text += "; it looks like layout " + looks
	}
	return text
}
