package xds

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	statuspb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/hostmesh/hostmesh/controlplane/compile"
)

// ClientStatus is one stream as an operator sees it.
type ClientStatus struct {
	NodeID       string     `json:"nodeID"`
	Cluster      string     `json:"cluster,omitempty"`
	Kind         string     `json:"kind"` // "proxy" or "grpc"
	Variant      string     `json:"variant"`
	Address      string     `json:"address"`
	Connected    time.Time  `json:"connected"`
	Disconnected *time.Time `json:"disconnected,omitempty"` // nil while it is connected
	// Types has an element for each type that the client asked for, in the order CDS, EDS, LDS, RDS.
	Types []TypeStatus `json:"types"`
}

// TypeStatus is how far a client is with one type of resource. The numbers are those of snapshots.
type TypeStatus struct {
	Type       string `json:"type"` // as in "CDS"
	Wildcard   bool   `json:"wildcard,omitempty"`
	Subscribed int    `json:"subscribed"`     // names
	Sent       uint64 `json:"sent"`           // 0: nothing yet
	Acked      uint64 `json:"acked"`          // 0: nothing yet
	Nack       *Nack  `json:"nack,omitempty"` // the last response it refused, unless it has accepted a later one

	lastNonce uint64
}

// Nack is why a client refused a response.
type Nack struct {
	Reason string    `json:"reason"`
	Time   time.Time `json:"time"`
	Number uint64    `json:"number"`
}

// maxReason is how many bytes of a NACK's reason are kept.
const maxReason = 4096

// receipt notes how the client took a response.
func (s *session) receipt(in *interest, nonce string, refused *statuspb.Status) {
	n, err := strconv.ParseUint(nonce, 10, 64)
	if err != nil {
		return
	}
	i := slices.IndexFunc(in.sent, func(r receipt) bool { return r.nonce == n })
	if i < 0 {
		return // of another type, forgotten or never sent
	}
	number := in.sent[i].number
	in.sent = slices.Delete(in.sent, 0, i+1)
	if refused == nil {
		in.status.Acked = number
		in.status.Nack = nil
		return
	}
	reason := refused.GetMessage()
	if len(reason) > maxReason {
		reason = reason[:maxReason] + "…"
	}
	if reason == "" {
		reason = fmt.Sprintf("code %d, no reason given", refused.GetCode())
	}
	in.status.Nack = &Nack{Reason: reason, Time: s.now(), Number: number}
}

// status returns what s knows of its client; ok is false before the first request.
func (s *session) status() (c ClientStatus, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node == nil {
		return c, false
	}
	c = ClientStatus{NodeID: s.node.ID, Cluster: s.node.Cluster, Kind: s.node.Kind.String(), Variant: "state of the world"}
	if s.delta {
		c.Variant = "delta"
	}
	for t := range s.interests {
		if in := &s.interests[t]; in.asked {
			in.status.Type = compile.Type(t).String()
			c.Types = append(c.Types, in.status)
		}
	}
	return c, true
}

func sortStatus(all []ClientStatus) {
	slices.SortFunc(all, func(a, b ClientStatus) int {
		return cmp.Or(cmp.Compare(a.NodeID, b.NodeID), a.Connected.Compare(b.Connected))
	})
}
