// Package takeover has one process of a program take the place of another without losing a connection: listening
// sockets, and connections that are idle, are sent over a unix socket (SCM_RIGHTS).
//
// The running process ([Start]) starts the new one and is its predecessor; the new one ([Inherit]) prepares all it needs,
// says that it is ready, is told to go, and says that it serves. Only then the old one lets go of what the new one has
// taken; until then it serves as if nothing had happened, and a successor that fails or is late is killed before it
// has accepted anything. Messages are JSON in the records of a SOCK_SEQPACKET pair; both ends refuse another version
// of the protocol.
package takeover

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Version is that of the protocol. A process hands over only to one with the same.
const Version = 1

const (
	maxMessage = 64 << 10
	// MaxFDs is how many descriptors go with one message.
	MaxFDs = 64
)

// The kinds of messages, in the order in which they come.
const (
	kindHello   = "hello"   // both ways: who is there
	kindSockets = "sockets" // to the successor, any number of times
	kindPrepare = "prepare" // that was all
	kindReady   = "ready"   // from the successor
	kindGo      = "go"
	kindServing = "serving" // from the successor
	kindMain    = "main"    // the successor is the main process now
	kindMoved   = "moved"   // to the successor: connections, any number of times
	kindLeft    = "left"    // the ring of gossip was left to the successor
	kindDrain   = "drain"   // how far the predecessor is
)

// message is what both ends say to each other.
type message struct {
	Kind     string `json:"kind"`
	Protocol int    `json:"protocol,omitempty"`
	Program  string `json:"program,omitempty"` // its version, for logs
	PID      int    `json:"pid,omitempty"`
	State    *State `json:"state,omitempty"`
	// Sockets, and Moved, say what the descriptors are that came along, one each.
	Sockets   []socket     `json:"sockets,omitempty"`
	Moved     []Connection `json:"moved,omitempty"`
	Addresses []string     `json:"addresses,omitempty"`
	Remaining int          `json:"remaining,omitempty"`
}

// State is what goes over in figures.
type State struct {
	Epoch    uint64            `json:"epoch"` // how many processes there were before
	Started  time.Time         `json:"started"`
	Counters map[string]uint64 `json:"counters,omitempty"`
}

type socket struct {
	Unit bool `json:"unit,omitempty"`
}

// Socket is a listening socket that another process has opened.
type Socket struct {
	FD   int
	Unit bool // of a unit of the service manager, which keeps it open
}

// Connection is an idle client's, with what cannot be asked of its descriptor.
type Connection struct {
	FD       int            `json:"-"`
	Listener string         `json:"listener"`        // the address that it came to
	Peer     netip.AddrPort `json:"peer"`            // whose it is
	Fresh    bool           `json:"fresh,omitempty"` // nothing has come yet, so that it may speak any protocol that the listener allows
	// What stands in a PROXY header takes Peer's place; then these are the addresses of the connection itself.
	Direct netip.AddrPort `json:"direct,omitzero"`
	Local  netip.AddrPort `json:"local,omitzero"`
}

var errMismatch = errors.New("the number of descriptors is not that of the message")

// conn is one end of the pair.
type conn struct{ *net.UnixConn }

func newConn(fd int) (conn, error) {
	file := os.NewFile(uintptr(fd), "takeover")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return conn{}, fmt.Errorf("open hand-over socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return conn{}, fmt.Errorf("open hand-over socket: got one of %s, want a unix socket", c.LocalAddr().Network())
	}
	return conn{u}, nil
}

func (c conn) send(m *message, fds ...int) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	if len(data) > maxMessage || len(fds) > MaxFDs {
		return fmt.Errorf("send %s: got %d bytes and %d descriptors, want at most %d and %d", m.Kind, len(data), len(fds), maxMessage, MaxFDs)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := c.WriteMsgUnix(data, rights, nil); err != nil {
		return fmt.Errorf("send %s: %w", m.Kind, err)
	}
	return nil
}

// receive waits for a message; the descriptors are the caller's. The end of the other process is io.EOF, or a reset if it
// left something unread.
func (c conn) receive() (*message, []int, error) {
	data, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*MaxFDs))
	n, oobn, flags, _, err := c.ReadMsgUnix(data, oob)
	if err != nil {
		return nil, nil, fmt.Errorf("receive: %w", err)
	}
	fds, err := rights(oob[:oobn])
	var m *message
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		err = errors.New("a message that is too long")
	default:
		m, err = decode(data[:n], len(fds))
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, fmt.Errorf("receive: %w", err)
	}
	return m, fds, nil
}

// want receives a message of one of some kinds, without descriptors.
func (c conn) want(kinds ...string) (*message, error) {
	m, fds, err := c.receive()
	if err != nil {
		return nil, err
	}
	closeAll(fds)
	if !slices.Contains(kinds, m.Kind) {
		return nil, fmt.Errorf("receive: got message %q, want %q", m.Kind, kinds)
	}
	return m, nil
}

// decode reads a message that came with so many descriptors.
func decode(data []byte, fds int) (*message, error) {
	m := &message{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("a message that is no JSON: %w", err)
	}
	want := 0
	switch m.Kind {
	case kindSockets:
		want = len(m.Sockets)
	case kindMoved:
		want = len(m.Moved)
	}
	if fds != want {
		return nil, fmt.Errorf("%s: got %d descriptors, want %d: %w", m.Kind, fds, want, errMismatch)
	}
	return m, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var all []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return all, err
		}
		all = append(all, fds...)
	}
	return all, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// hello is how both ends begin.
func hello(program string) *message {
	return &message{Kind: kindHello, Protocol: Version, Program: program, PID: os.Getpid()}
}

// greet takes the other end's hello.
func (c conn) greet() (*message, error) {
	m, err := c.want(kindHello)
	if err != nil {
		return nil, err
	}
	if m.Protocol != Version {
		return nil, fmt.Errorf("the other process (%q) hands over by version %d of the protocol, want %d", m.Program, m.Protocol, Version)
	}
	return m, nil
}
