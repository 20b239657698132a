package zookeeper

import (
	"errors"
	"fmt"
	"strings"
)

// The kinds of problems, by which they are counted.
const (
	kindSyntax   = "syntax" // of a node's data or name; all that has no kind of its own
	kindAddress  = "address"
	kindPort     = "port"
	kindName     = "name"  // of a service, or of a node
	kindValue    = "value" // of another field
	kindProtocol = "protocol"
	kindSize     = "size"
	kindLayout   = "layout" // a node of another one
)

// mistake is what is wrong with an instance, and of which kind that is.
type mistake struct {
	kind, text string
}

func wrong(kind, format string, args ...any) error {
	return &mistake{kind, fmt.Sprintf(format, args...)}
}

// Error implements error.
func (m *mistake) Error() string { return m.text }

func kindOf(err error) string {
	var m *mistake
	if errors.As(err, &m) {
		return m.kind
	}
	return kindSyntax
}

// decode takes an instance's data in.
func (t *tree) decode(n *node, data []byte) {
	at := t.at(n)
	if len(data) > maxData {
		t.reject(n, nil, wrong(kindSize, "got %d bytes, want %d at most", len(data), maxData))
		return
	}
	e, err := t.layout.decode(at, data)
	if e == nil {
		t.reject(n, data, err)
		return
	}
	e.Namespace = t.cfg.Namespace
	t.read++
	t.assembly.Set(n.path, *e)
	if err != nil {
		t.assembly.RejectAs(n.path, kindOf(err), oneLine(err))
	}
	t.touch()
}

// reject tells why a node cannot be read, and which layout it looks like.
func (t *tree) reject(n *node, data []byte, err error) {
	kind, reason := kindOf(err), oneLine(err)
	if other := looksLike(t.at(n), data); other != "" && other != t.cfg.Layout {
		kind, reason = kindLayout, reason+"; it looks like layout "+other
	}
	t.assembly.RejectAs(n.path, kind, reason)
	t.touch()
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
