package gossip

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
)

// Role is what a node of the ring is.
type Role uint8

// The roles. Proxies announce what their host runs; control nodes collect the announcements.
const (
	Proxy Role = iota + 1
	Control
)

// String returns the lower-case name.
func (r Role) String() string {
	switch r {
	case Proxy:
		return "proxy"
	case Control:
		return "control"
	}
	return "role " + strconv.Itoa(int(r))
}

// digest is the SHA-256 of an encoded Announcement. The zero digest means that there is none.
type digest [sha256.Size]byte

// maxHostID is the longest host id: that of a DNS name.
const maxHostID = 253

const (
	wireVersion = 1
	metaHead    = 1 + 1 + 1 + 8 + 4 + len(digest{}) // version, role, flags, incarnation, sequence, digest
	metaMax     = metaHead + maxHostID              // well below memberlist's 512
	flagLeaving = 1
)

// meta is what every node of the ring knows of a node. Of two metas of one incarnation the higher sequence is later.
type meta struct {
	Host        string
	Role        Role
	Leaving     bool
	Incarnation uint64
	Sequence    uint32
	Digest      digest
}

// name is the node's name within memberlist. It differs for each life of a host, so that a host that returns on another
// address is no conflict with its own past, which memberlist would hold against it until that is found dead.
func (m meta) name() string { return m.Host + "@" + strconv.FormatUint(m.Incarnation, 36) }

// encode returns the wire form: version, role, flags, incarnation, sequence, digest, host id.
func (m meta) encode() []byte {
	b := make([]byte, 0, metaHead+len(m.Host))
	flags := byte(0)
	if m.Leaving {
		flags = flagLeaving
	}
	b = append(b, wireVersion, byte(m.Role), flags)
	b = binary.BigEndian.AppendUint64(b, m.Incarnation)
	b = binary.BigEndian.AppendUint32(b, m.Sequence)
	b = append(b, m.Digest[:]...)
	return append(b, m.Host...)
}

func decodeMeta(b []byte) (meta, error) {
	if len(b) <= metaHead || len(b) > metaMax {
		return meta{}, fmt.Errorf("decode meta: %d bytes, want %d to %d", len(b), metaHead+1, metaMax)
	}
	if b[0] != wireVersion {
		return meta{}, fmt.Errorf("decode meta: version %d, want %d", b[0], wireVersion)
	}
	m := meta{
		Role:        Role(b[1]),
		Leaving:     b[2]&flagLeaving != 0, // flags of a later minor version are not ours to refuse
		Incarnation: binary.BigEndian.Uint64(b[3:]),
		Sequence:    binary.BigEndian.Uint32(b[11:]),
		Host:        string(b[metaHead:]),
	}
	copy(m.Digest[:], b[15:])
	if m.Role != Proxy && m.Role != Control {
		return meta{}, fmt.Errorf("decode meta: unknown %v", m.Role)
	}
	if !ValidHostID(m.Host) {
		return meta{}, fmt.Errorf("decode meta: host id %q is not a DNS name", m.Host)
	}
	return m, nil
}

// ValidHostID reports whether id may name a host: a DNS name, in either case, underscores allowed as host names have them.
func ValidHostID(id string) bool {
	if id == "" || len(id) > maxHostID {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case (c == '-' || c == '.' || c == '_') && i > 0 && i < len(id)-1:
		default:
			return false
		}
	}
	return true
}

// The messages between nodes, each one memberlist user message: version, kind, payload.
const (
	kindWant byte = iota + 1 // to a proxy: digest, then the asker's node name. "Send me the body of that digest"
	kindBody                 // to a control node: digest, then the encoded announcement
	kindHint                 // to a control node: a meta, ahead of gossip
)

const messageHead = 2

// maxMessage bounds a message: a body is the longest.
const maxMessage = messageHead + len(digest{}) + maxBody

func wantMessage(d digest, from string) []byte {
	b := append([]byte{wireVersion, kindWant}, d[:]...)
	return append(b, from...)
}

func bodyMessage(d digest, body []byte) []byte {
	b := make([]byte, 0, messageHead+len(d)+len(body))
	b = append(b, wireVersion, kindBody)
	b = append(b, d[:]...)
	return append(b, body...)
}

func hintMessage(m meta) []byte { return append([]byte{wireVersion, kindHint}, m.encode()...) }

// message is a decoded message; the fields that its kind has are set. Rest shares the memory of the input.
type message struct {
	Kind   byte
	Digest digest
	From   string // want: the node that asks
	Meta   meta   // hint
	Rest   []byte // body: the encoded announcement, not checked yet
}

func decodeMessage(b []byte) (message, error) {
	if len(b) < messageHead || len(b) > maxMessage {
		return message{}, fmt.Errorf("decode message: %d bytes, want %d to %d", len(b), messageHead, maxMessage)
	}
	if b[0] != wireVersion {
		return message{}, fmt.Errorf("decode message: version %d, want %d", b[0], wireVersion)
	}
	m := message{Kind: b[1]}
	b = b[messageHead:]
	if m.Kind == kindHint {
		var err error
		m.Meta, err = decodeMeta(b)
		return m, err
	}
	if m.Kind != kindWant && m.Kind != kindBody {
		return message{}, fmt.Errorf("decode message: unknown kind %d", m.Kind)
	}
	if len(b) < len(m.Digest) {
		return message{}, fmt.Errorf("decode message: %d bytes of a digest", len(b))
	}
	copy(m.Digest[:], b)
	b = b[len(m.Digest):]
	if m.Kind == kindBody {
		m.Rest = b
		return m, nil
	}
	if len(b) == 0 || len(b) > maxHostID+16 {
		return message{}, fmt.Errorf("decode message: a node name of %d bytes", len(b))
	}
	m.From = string(b)
	return m, nil
}
