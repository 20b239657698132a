package upstream

import (
	"net/netip"

	"github.com/hostmesh/hostmesh/proxy/preamble"
)

// Ended is a User, or a Receiver, on behalf of a client. Ends are those of the client's connection; a cluster with a ProxyHeader tells them to
// the host.
type Ended interface {
	Ends() (client, proxy netip.AddrPort)
}

// told is what a connection's PROXY header says. Requests of another client's connection must not come over it.
type told struct{ client, proxy netip.AddrPort }

func endsOf(user waiting) told {
	var t told
	if e, ok := user.(Ended); ok {
		t.client, t.proxy = e.Ends()
	}
	return t
}

// tells is what a connection for the user is to begin with, nil for nothing.
func (c *Cluster) tells(user waiting) *told {
	if c.cfg.ProxyHeader == nil {
		return nil
	}
	t := endsOf(user)
	return &t
}

// idleFor returns the idle connection that was used last and may be used for the user; nil without.
func (h *Host) idleFor(user waiting) *Conn {
	if h.idle == nil || h.idle.told == nil && h.cluster.cfg.ProxyHeader == nil {
		return h.idle
	}
	want := h.cluster.tells(user)
	for conn := h.idle; conn != nil; conn = conn.next {
		if conn.tellsOf(want) {
			return conn
		}
	}
	return nil
}

// tellsOf reports whether the connection may be used for that client; want is nil where none is told.
func (conn *Conn) tellsOf(want *told) bool {
	return conn.told == want || conn.told != nil && want != nil && *conn.told == *want
}

// announce sends the PROXY header on a connection that was just made. The kernel takes it whole, or the connection is no good.
func (conn *Conn) announce() bool {
	rules := conn.Host.cluster.cfg.ProxyHeader
	if rules == nil { // it was asked for when the connection began to open
		return false
	}
	extensions := make([]preamble.Extension, len(rules.TLVs))
	for i, tlv := range rules.TLVs {
		extensions[i] = preamble.Extension(tlv)
	}
	header := preamble.Append(nil, preamble.Header{Version: rules.Version, Source: conn.told.client, Destination: conn.told.proxy}, extensions...)
	n, err := conn.Write(header)
	conn.Host.cluster.Stats.Count[ConnTxBytes] += uint64(n)
	return err == nil
}
