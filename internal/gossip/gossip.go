// Package gossip is the ring of hosts: who is there, who died, and what each host announces.
//
// The ring is hashicorp/memberlist. What all nodes know of a node, its meta, is small: host id, role, incarnation and
// the digest of its announcement. The announcement itself goes over a stream to control nodes alone, which ask for the
// digests that they lack. A change thus costs a ring of any size one meta, and a control node that was away fetches
// only what differs.
//
// Detection is tuned for death seen within 3 s at up to 50 hosts: a probe each 300 ms, answered within 150 ms, then
// suspected for 2 × max(1, log10(hosts)) × 300 ms.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

const (
	probeInterval  = 300 * time.Millisecond
	probeTimeout   = 150 * time.Millisecond
	suspicion      = 2
	gossipInterval = 200 * time.Millisecond
	// pushPullInterval is how often a node compares all it knows with another one, in a small ring: what gossip missed is
	// mended then, such as the death of a host that nobody told it of after a partition. Large rings do it less often.
	pushPullInterval = 10 * time.Second
	streamTimeout    = 5 * time.Second

	tellLeaving  = 300 * time.Millisecond // for telling that we leave, in each of two ways
	leaveTimeout = 500 * time.Millisecond

	// label keeps rings of other programs apart, whatever port they are pointed at.
	label = "hostmesh"
)

// Options says who a node is and how it takes part.
type Options struct {
	Config
	HostID string // a DNS name, unique in the ring
	Role   Role
	// Incarnation tells the lives of a host apart: the higher one is later. 0 takes the clock's nanoseconds.
	Incarnation uint64
	Log         *slog.Logger
}

// Node is this process's part in the ring. Its methods are safe for concurrent use.
type Node struct {
	config  Config
	host    string
	role    Role
	name    string // within memberlist
	log     *slog.Logger
	udptcp  *transport
	wire    memberlist.NodeAwareTransport // udptcp, as memberlist sees it
	told    netip.AddrPort
	keys    *memberlist.Keyring
	table   *table
	wanted  chan asker // bodies that we are asked for
	abandon chan struct{}
	once    sync.Once // closes abandon

	announcing sync.Mutex // held over a whole change of what we announce
	mu         sync.Mutex
	self       meta                   // guarded by mu
	body       []byte                 // guarded by mu
	ring       *memberlist.Memberlist // guarded by mu; nil before Run
	problem    string                 // guarded by mu; why seeds cannot be joined
}

// asker is a control node that asked for our body.
type asker struct {
	name   string
	digest digest
}

// Listen binds the node's addresses; Run makes it take part. A node that is not run must be closed.
func Listen(o Options) (*Node, error) {
	n, err := newNode(o)
	if err != nil {
		return nil, fmt.Errorf("start gossip: %w", err)
	}
	var mistake error
	o.Check(func(path, got, want string) {
		if mistake == nil {
			mistake = fmt.Errorf("start gossip: %s: got %s, want %s", path, got, want)
		}
	})
	if mistake != nil {
		return nil, mistake
	}
	if n.udptcp, err = listen(o.Bind); err != nil {
		return nil, fmt.Errorf("start gossip: %w", err)
	}
	n.wire = n.udptcp
	if n.told, err = advertised(o.Config, n.udptcp.addr()); err != nil {
		_ = n.udptcp.Shutdown()
		return nil, fmt.Errorf("start gossip: %w", err)
	}
	return n, nil
}

// newNode makes a node that has no addresses yet.
func newNode(o Options) (*Node, error) {
	if !ValidHostID(o.HostID) {
		return nil, fmt.Errorf("host id %q is not a DNS name", o.HostID)
	}
	if o.Role != Proxy && o.Role != Control {
		return nil, fmt.Errorf("unknown %v", o.Role)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Incarnation == 0 {
		o.Incarnation = uint64(time.Now().UnixNano())
	}
	keys, err := o.keyring()
	if err != nil {
		return nil, err
	}
	self := meta{Host: o.HostID, Role: o.Role, Incarnation: o.Incarnation}
	return &Node{
		config: o.Config, host: o.HostID, role: o.Role, name: self.name(), log: o.Log,
		keys: keys, self: self, table: newTable(self),
		wanted: make(chan asker, 64), abandon: make(chan struct{}),
	}, nil
}

// Addr returns the address that the others are told.
func (n *Node) Addr() netip.AddrPort { return n.told }

// Close gives the addresses back, for a Node that is not run.
func (n *Node) Close() error { return n.udptcp.Shutdown() }

// Abandon makes Run return without leaving the ring, as when the next process of an upgrade takes this host over. The
// others find the node dead if no later life of the host appears.
func (n *Node) Abandon() { n.once.Do(func() { close(n.abandon) }) }

// Run takes part in the ring until ctx ends or Abandon is called. At the end of ctx it tells the others that it leaves,
// which takes about a second at most. Seeds that cannot be reached are no error: they are tried for ever.
func (n *Node) Run(ctx context.Context) error {
	n.udptcp.start()
	ring, err := n.create()
	if err != nil {
		_ = n.udptcp.Shutdown()
		return fmt.Errorf("start gossip: %w", err)
	}

	work, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error { n.keepJoined(work, ring); return nil })
	if n.role == Control {
		g.Go(func() error { n.fetch(work, ring); return nil })
	} else {
		g.Go(func() error { n.reply(work, ring); return nil })
	}
	select {
	case <-ctx.Done():
		n.leave(ring)
	case <-n.abandon:
	}
	stop()
	n.mu.Lock()
	n.ring = nil
	n.mu.Unlock()
	err = ring.Shutdown() // closes all connections, so that nobody waits for one
	_ = g.Wait()
	if err != nil {
		return fmt.Errorf("stop gossip: %w", err)
	}
	return nil
}

// create starts the ring with what is announced so far. An announcement waits meanwhile: one that came between the
// reading of our meta and the ring's being there would be told to nobody.
func (n *Node) create() (*memberlist.Memberlist, error) {
	n.announcing.Lock()
	defer n.announcing.Unlock()
	ring, err := memberlist.Create(n.memberlistConfig())
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ring = ring
	return ring, nil
}

func (n *Node) memberlistConfig() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = n.name
	c.Transport = n.wire
	c.Label = label
	c.BindPort = int(n.told.Port()) // only what a seed without a port would mean
	c.AdvertiseAddr, c.AdvertisePort = n.told.Addr().String(), int(n.told.Port())
	c.ProtocolVersion = memberlist.ProtocolVersionMax
	c.TCPTimeout = streamTimeout
	c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = probeInterval, probeTimeout, suspicion
	c.AwarenessMaxMultiplier = 4 // a node in doubt of itself probes at least every 1.2 s
	c.GossipInterval, c.PushPullInterval = gossipInterval, pushPullInterval
	c.EnableCompression = false // metas are digests; the LZW tables would cost each packet more than it saves
	c.Keyring = n.keys
	c.Delegate, c.Events, c.Alive = (*delegate)(n), (*delegate)(n), (*delegate)(n)
	c.Logger = log.New(newBridge(n.log), "", 0)
	return c
}

// Announce tells the ring what runs on this host, before Run or during it. Announcing the same again costs nothing.
func (n *Node) Announce(a Announcement) error {
	n.announcing.Lock()
	defer n.announcing.Unlock()
	body, d, err := encodeAnnouncement(a, n.host)
	if err != nil {
		return err
	}
	n.mu.Lock()
	if d == n.self.Digest {
		n.mu.Unlock()
		return nil
	}
	n.body, n.self.Digest = body, d
	n.self.Sequence++
	now, ring := n.self, n.ring
	n.mu.Unlock()
	if ring != nil {
		n.tell(ring, now)
	}
	return nil
}

// tell spreads our meta, and sends it to the control nodes straight away: gossip takes some rounds in a large ring.
func (n *Node) tell(ring *memberlist.Memberlist, self meta) {
	hint := hintMessage(self)
	for _, to := range n.table.live() {
		if err := ring.SendBestEffort(&to, hint); err != nil {
			n.log.Debug("gossip: hint a control node", "node", to.Name, "err", err)
		}
	}
	_ = ring.UpdateNode(time.Nanosecond) // it is queued in any case; there is no need to wait until it was sent
}

// leave tells the others that we go: the control nodes directly, all by gossip.
func (n *Node) leave(ring *memberlist.Memberlist) {
	n.announcing.Lock()
	defer n.announcing.Unlock()
	n.mu.Lock()
	n.self.Leaving = true
	n.self.Sequence++
	self := n.self
	n.mu.Unlock()
	if members, _ := n.table.size(); members == 0 {
		return
	}
	hint := hintMessage(self)
	told := make(chan struct{})
	var sending sync.WaitGroup
	for _, to := range n.table.live() {
		sending.Go(func() {
			if err := ring.SendReliable(&to, hint); err != nil {
				n.log.Debug("gossip: tell a control node that we leave", "node", to.Name, "err", err)
			}
		})
	}
	go func() { sending.Wait(); close(told) }() // ends with the transport at the latest
	_ = ring.UpdateNode(tellLeaving)
	select {
	case <-told:
	case <-time.After(tellLeaving):
	}
	if err := ring.Leave(leaveTimeout); err != nil {
		n.log.Debug("gossip: leave the ring", "err", err)
	}
}

// Hosts returns the hosts that were seen and not forgotten, sorted by ID. On a proxy there are none.
func (n *Node) Hosts() []Host { return n.table.list(time.Now()) }

// Changed receives when Hosts may return something new. It holds one token; there is one reader.
func (n *Node) Changed() <-chan struct{} { return n.table.changed }

// Forget drops a host that is dead or left.
func (n *Node) Forget(id string) { n.table.forget(id) }

// Status is how the node stands in the ring.
type Status struct {
	Address  netip.AddrPort `json:"address"`
	Members  int            `json:"members"`  // live nodes, this one not counted
	Controls int            `json:"controls"` // of them control nodes
	Problem  string         `json:"problem,omitempty"`
}

// Status returns how the node stands now.
func (n *Node) Status() Status {
	s := Status{Address: n.told}
	s.Members, s.Controls = n.table.size()
	n.mu.Lock()
	defer n.mu.Unlock()
	s.Problem = n.problem
	return s
}

// delegate is the side of a Node that memberlist calls.
type delegate Node

// NodeMeta returns our meta.
func (d *delegate) NodeMeta(limit int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.self.encode()
	if len(b) > limit {
		return nil // cannot be: metaMax is below memberlist's limit
	}
	return b
}

// NotifyMsg takes a message of another node.
func (d *delegate) NotifyMsg(b []byte) { (*Node)(d).receive(b) }

// GetBroadcasts, LocalState and MergeRemoteState carry nothing: all that everybody needs is in the meta.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState is empty.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState takes nothing.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// NotifyAlive refuses nodes that are none of ours.
func (d *delegate) NotifyAlive(peer *memberlist.Node) error {
	m, err := decodeMeta(peer.Meta)
	if err != nil {
		return err
	}
	if peer.Name != m.name() {
		return errors.New("its name is not that of its meta")
	}
	if d.table.full(peer.Name) {
		return fmt.Errorf("there are %d nodes already", maxNodes)
	}
	return nil
}

// NotifyJoin tells of a node that came or came back.
func (d *delegate) NotifyJoin(node *memberlist.Node) { d.table.joined(node, time.Now()) }

// NotifyUpdate tells of a node with a new meta.
func (d *delegate) NotifyUpdate(node *memberlist.Node) { d.table.joined(node, time.Now()) }

// NotifyLeave tells of a node that left or died.
func (d *delegate) NotifyLeave(node *memberlist.Node) { d.table.gone(node, time.Now()) }
