package proxy

import (
	"net/netip"
	"time"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// visit is what the access logs of a listener know of a connection from its beginning: they have a line for each, whatever became of
// it, and whatever the logs of its chain say.
type visit struct {
	lines *lines
	w     *worker
	began int64
	addr  config.Address // that the client came in at
}

// newVisit notes a connection, if the listener has access logs; else it is nil, and writes nothing.
func (a *acceptor) newVisit(fd int) *visit {
	l := a.reception.lines
	if l == nil {
		return nil
	}
	v := &visit{lines: l, w: a.w, began: a.w.loop.Clock(), addr: a.addr}
	if v.addr.IP.IsValid() && v.addr.IP.Addr().IsUnspecified() && l.needs&accesslog.NeedsLocal != 0 {
		v.addr.IP = localAddr(fd)
	}
	return v
}

// wants reports whether the logs read what is costly to find out.
func (v *visit) wants(n accesslog.Needs) bool { return v != nil && v.lines.needs&n != 0 }

// over writes the lines of a connection that is over, of which tell knows more.
func (v *visit) over(peer netip.AddrPort, via *proxied, tell func(*accesslog.Record)) {
	if v == nil {
		return
	}
	k := v.w.takeKept()
	r := &k.record
	r.RequestDuration, r.RequestTX, r.ResponseDuration, r.ResponseTX = -1, -1, -1, -1
	r.Direct, r.Remote, r.FlagNames = peer, peer, flagNames[:]
	if tell != nil {
		tell(r)
	}
	v.write(k, via)
}

// write writes the lines of a record of which the connection's own addresses and times are missing.
func (v *visit) write(k *kept, via *proxied) {
	w, r := v.w, &k.record
	r.Listener, r.Local = true, v.addr
	if via != nil {
		r.Direct, r.Local = via.direct, config.Address{IP: via.local}
	}
	now := w.loop.Clock()
	r.Start, r.Duration = w.wall(v.began), time.Duration(now-v.began)
	r.Random = w.rand.Uint64()
	if v.lines.needs&accesslog.NeedsUnique != 0 && len(r.Unique) == 0 {
		k.id = w.appendUUID(k.id[:0])
		r.Unique = k.id
	}
	v.lines.write(w, r)
	w.giveKept(k)
}

// tellConn tells of a connection of HTTP.
func (d *downstream) tellConn(r *accesslog.Record) {
	r.Connection, r.Chain, r.TLS = d.id, d.a.served.cfg.Name, d.facts
	r.BytesReceived, r.BytesSent = d.owner.moved()
	switch d.version {
	case 1:
		r.Protocol = "HTTP/1.1"
	case 2:
		r.Protocol = http2Protocol
	}
}

// told is what access logs tell of the server name of a connection whose handshake failed.
func (in *arrival) told() *accesslog.TLS {
	if !in.inspect.tls {
		return nil
	}
	return &accesslog.TLS{ServerName: in.inspect.hello.ServerName}
}
