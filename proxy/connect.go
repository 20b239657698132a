package proxy

import (
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// connects reports whether the request is CONNECT as such: not the one by which HTTP/2 asks for another protocol.
func (x *exchange) connects() bool {
	return x.method == message.MethodConnect && x.req.Protocol.End == x.req.Protocol.Start
}

// allowsUpgrade reports whether a route, or else the listener, lets a client have its tunnel: all protocols that it names must
// be allowed. CONNECT goes by its name among upgrades, and is never what a client names as a protocol.
func (x *exchange) allowsUpgrade(r *config.Route) bool {
	http := x.served.http()
	if x.connects() {
		return allowed(http, r, config.ConnectUpgrade)
	}
	for name := range strings.SplitSeq(string(x.req.Bytes(x.req.Protocol)), ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		if name == config.ConnectUpgrade || !allowed(http, r, name) {
			return false
		}
	}
	return true
}

func allowed(http *config.HTTP, r *config.Route, name string) bool {
	for i := range r.Upgrades {
		if r.Upgrades[i].Name == name {
			return r.Upgrades[i].Allowed
		}
	}
	return slices.Contains(http.Upgrades, name)
}

// open gets a stream to a host: for a CONNECT that ends here one of bytes.
func (x *exchange) open(h *upstream.Host, want upstream.Want) (upstream.Stream, error) {
	if x.route.Terminate && x.connects() {
		return nil, x.cluster.OpenPipe(h, x, &x.waiter)
	}
	return x.cluster.Open(h, x, &x.waiter, want, x.spoken())
}

// opens reports whether the head of a response opens the tunnel that the client asked for. Hosts of HTTP/1 open one for another
// protocol by 101 only, and then the connection is no one's but the tunnel's.
func (x *exchange) opens(h *message.Head) bool {
	return x.upgrade && (h.Status == 101 || h.Status/100 == 2 && (x.connects() || x.up.Protocol() == http2Protocol))
}

// misleads reports whether a client would take the head of a response for the tunnel that the host has not opened: one of
// HTTP/2 that asked for another protocol knows its consent by 2xx, and what a host of HTTP/1 means by that is something else.
func (x *exchange) misleads(h *message.Head) bool {
	return x.upgrade && x.method == message.MethodConnect && h.Status/100 == 2
}

// beginTunnel answers a client whose wish for a tunnel was granted. end tells that the host has nothing to say in it.
func (x *exchange) beginTunnel(h *message.Head, end bool) {
	x.becomeTunnel(h)
	if end && x.tunnel {
		x.Content(loop.Piece{}, true)
	}
}

// tunnelOver ends a tunnel whose directions have both ended, when the host was given all of it.
func (x *exchange) tunnelOver() {
	if x.tunnel && x.ended && x.answered && !x.up.Congested() {
		x.finish()
	}
}
