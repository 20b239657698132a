package zookeeper

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-zookeeper/zk"
)

// What ZooKeeper has since 3.6 and the client library has not: one watch for a whole tree, and many reads in one
// request. With them a tree of 110,000 nodes costs the server and us a small part of what 110,000 requests do, each
// with a watch of its own. The wire carries them beside the library's requests.

const (
	opGetChildrenOnly = 8 // getChildren, which comes without a Stat; the only one that multiRead takes
	opMultiRead       = 22
	opAddWatch        = 106
	opNone            = -1 // ends a multi; with it also come errors of its parts

	recursive = 1 // the mode of a watch for a node and all below it, that stays

	codeUnimplemented = -6
	codeNoNode        = -101
	codeNoAuth        = -102
)

// errOld means that the server is older than 3.6: it closes the session of who asks for what it does not know.
var errOld = errors.New("the server is older than ZooKeeper 3.6")

// answerError is what the code of an answer says, of which we know some.
func answerError(code int32) error {
	switch code {
	case 0:
		return nil
	case codeUnimplemented:
		return errOld
	case codeNoNode:
		return zk.ErrNoNode
	case codeNoAuth:
		return zk.ErrNoAuth
	}
	return fmt.Errorf("the server answers with error %d", code)
}

// watchAll has the server tell of all that happens to root and below, from now on until the session ends. There need
// be no such node.
func (s *session) watchAll(root string) error {
	_, err := s.wire.ask(opAddWatch, binary.BigEndian.AppendUint32(appendString(nil, root), recursive))
	if errors.Is(err, errOld) {
		s.old.Store(true)
	}
	return s.explain("watch "+root, err)
}

// readMany asks the server for several nodes in one request. Where the answer is too large it asks for fewer at once.
func (s *session) readMany(nodes []*node) []answer {
	var request []byte
	for _, n := range nodes {
		if n.place == directory {
			request = appendPart(request, opGetChildrenOnly, n.path)
		}
		request = appendPart(request, opGetData, n.path)
	}
	request = appendMultiHeader(request, opNone, true, -1)
	body, err := s.wire.ask(opMultiRead, request)
	if errors.Is(err, errTooLarge) && len(nodes) > 1 {
		half := len(nodes) / 2
		return append(s.readMany(nodes[:half]), s.readMany(nodes[half:])...)
	}
	answers := make([]answer, len(nodes))
	p := parts{rest: body}
	for i, n := range nodes {
		a := &answers[i]
		a.node, a.err = n, err
		if err == nil {
			p.read(a)
		}
	}
	if err == nil && !p.ended() {
		err = s.wire.fail(fmt.Errorf("a damaged answer of %d bytes to %d reads", len(body), len(nodes)))
		for i := range answers {
			answers[i].err = err
		}
	}
	return answers
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendMultiHeader(b []byte, op int32, done bool, code int32) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(op))
	b = append(b, 0)
	if done {
		b[len(b)-1] = 1
	}
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

// appendPart appends a read of one node, without a watch.
func appendPart(b []byte, op int32, path string) []byte {
	return append(appendString(appendMultiHeader(b, op, false, -1), path), 0)
}

// parts reads the answer to a multiRead. After anything that is not as it has to be it is bad, and gives zeros.
type parts struct {
	rest []byte
	bad  bool
}

// read takes the parts of one node.
func (p *parts) read(a *answer) {
	if a.node.place == directory {
		if a.err = p.header(opGetChildrenOnly); a.err == nil {
			a.children = p.strings()
		}
	}
	err := p.header(opGetData)
	if err == nil {
		if n := p.int(); n != -1 {
			a.data = p.take(n)
		}
		a.stat = p.stat()
	}
	if a.err == nil {
		a.err = err
	}
	if a.node.place == named && errors.Is(a.err, zk.ErrNoAuth) {
		a.err = nil // it is there, and its name says all
	}
}

// header takes what is before each part, and all of the part if it is an error.
func (p *parts) header(want int32) error {
	op, done, code := p.int(), p.take(1), p.int()
	switch {
	case p.bad || done[0] != 0:
		p.bad = true
	case op == int(want) && code == 0:
	case op == opNone && code != 0 && p.int() == code:
		return answerError(int32(code))
	default:
		p.bad = true
	}
	return nil
}

// ended tells whether all is read and was as it has to be.
func (p *parts) ended() bool {
	op, done, _ := p.int(), p.take(1), p.int()
	return !p.bad && op == opNone && done[0] == 1 && len(p.rest) == 0
}

// take returns the next n bytes, which may be shared with other answers.
func (p *parts) take(n int) []byte {
	if p.bad || n < 0 || n > len(p.rest) {
		p.bad = true
		return nil
	}
	b := p.rest[:n:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parts) int() int {
	if b := p.take(4); b != nil {
		return int(int32(binary.BigEndian.Uint32(b)))
	}
	return 0
}

func (p *parts) strings() []string {
	count := p.int()
	if count < 0 || count > len(p.rest)/4 {
		p.bad = true
	}
	if p.bad || count == 0 {
		return nil
	}
	list := make([]string, count)
	for i := range list {
		list[i] = string(p.take(p.int()))
	}
	return list
}

// stat takes a Stat, of which we need little.
func (p *parts) stat() *zk.Stat {
	b := p.take(statSize)
	if b == nil {
		return &zk.Stat{}
	}
	return &zk.Stat{
		Czxid:          int64(binary.BigEndian.Uint64(b)),
		Mzxid:          int64(binary.BigEndian.Uint64(b[8:])),
		EphemeralOwner: int64(binary.BigEndian.Uint64(b[44:])),
		DataLength:     int32(binary.BigEndian.Uint32(b[52:])),
		NumChildren:    int32(binary.BigEndian.Uint32(b[56:])),
	}
}
