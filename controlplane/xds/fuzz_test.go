package xds

import (
	"fmt"
	"slices"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/hostmesh/hostmesh/controlplane/compile"
)

// client is what a client of the incremental variant knows, by the book.
type client struct {
	t       *testing.T
	session *session
	types   [compile.Types]struct {
		asked, wildcard bool
		names           map[string]bool
		has             map[string]string // name → version
		again           map[string]bool   // names subscribed since they were sent; "*": all
		nonce           string
	}
}

func newClient(t *testing.T, w *world) *client {
	c := &client{t: t, session: newSession(w.fleet, true, func() {})}
	for i := range c.types {
		c.types[i].names, c.types[i].has, c.types[i].again = map[string]bool{}, map[string]string{}, map[string]bool{}
	}
	return c
}

func fuzzName(typ compile.Type, i int) string {
	name := worldName(i) + ".default.mesh.internal"
	switch typ {
	case compile.Cluster, compile.Endpoint:
		return clusterName(i)
	case compile.Route:
		return name + ":80"
	}
	return name
}

func (c *client) request(typ compile.Type, subscribe, unsubscribe []string, nack bool) {
	c.t.Helper()
	k := &c.types[typ]
	req := &discovery.DeltaDiscoveryRequest{
		Node: worldNode("s0", "s1", "s2"), TypeUrl: typ.URL(), ResponseNonce: k.nonce,
		ResourceNamesSubscribe: subscribe, ResourceNamesUnsubscribe: unsubscribe,
	}
	if nack {
		req.ErrorDetail = &statuspb.Status{Message: "no"}
	}
	if err := c.session.handleDelta(req); err != nil {
		c.t.Fatal(err)
	}
	if !k.asked && len(subscribe) == 0 && hasWildcard(typ) {
		subscribe = []string{wildcard}
	}
	k.asked = true
	for _, name := range subscribe {
		k.again[name] = true
		if name == wildcard && hasWildcard(typ) {
			k.wildcard = true
		} else {
			k.names[name] = true
		}
	}
	for _, name := range unsubscribe {
		if name == wildcard && hasWildcard(typ) {
			k.wildcard = false
			for had := range k.has {
				if !k.names[had] {
					delete(k.has, had)
				}
			}
			continue
		}
		if k.names[name] && k.wildcard {
			k.again[name] = true // it is told whether the wildcard covers it
		} else if k.names[name] {
			delete(k.has, name)
		}
		delete(k.names, name)
	}
}

// take receives at most n responses.
func (c *client) take(n int) {
	c.t.Helper()
	for ; n > 0; n-- {
		f := c.session.next()
		if f == nil {
			return
		}
		r := decode(c.t, f, &discovery.DeltaDiscoveryResponse{})
		typ, ok := compile.ParseType(r.TypeUrl)
		if !ok || r.Nonce == "" || r.SystemVersionInfo == "" {
			c.t.Fatalf("response %v", r)
		}
		k := &c.types[typ]
		k.nonce = r.Nonce
		seen := map[string]bool{}
		for _, res := range r.Resources {
			if seen[res.Name] {
				c.t.Fatalf("%s stands twice in a response", res.Name)
			}
			seen[res.Name] = true
			if k.has[res.Name] == res.Version && !k.again[res.Name] && !k.again[wildcard] {
				c.t.Fatalf("%s %s was sent twice", typ, res.Name)
			}
			k.has[res.Name] = res.Version
			delete(k.again, res.Name)
		}
		for _, name := range r.RemovedResources {
			if seen[name] {
				c.t.Fatalf("%s is both there and removed", name)
			}
			delete(k.has, name)
			delete(k.again, name)
		}
	}
}

// check compares what the client has with what there is.
func (c *client) check(w *world) {
	c.t.Helper()
	node, err := compile.ParseNode(worldNode("s0", "s1", "s2"))
	if err != nil {
		c.t.Fatal(err)
	}
	r := compile.ForClass(nil, w.common, node.Class())
	for typ := range compile.Type(compile.Types) {
		k := &c.types[typ]
		want := map[string]string{}
		if k.wildcard {
			for res := range r.Wildcard(typ) {
				want[res.Name] = res.Version
			}
		}
		for name := range k.names {
			if res := r.Get(typ, name); res != nil {
				want[name] = res.Version
			}
		}
		if fmt.Sprint(want) != fmt.Sprint(k.has) {
			c.t.Errorf("%s: client has %v, want %v", typ, k.has, want)
		}
		for name := range k.names {
			if k.again[name] && want[name] == "" {
				c.t.Errorf("%s: nobody said that %s does not exist", typ, name)
			}
		}
	}
}

// FuzzDelta plays changes and requests in any order and speed: in the end a client that follows the book has exactly
// what it subscribed, was told at once what does not exist, and nothing was sent to it twice.
func FuzzDelta(f *testing.F) {
	f.Add([]byte{0, 0x00, 7, 1, 0, 0, 5, 9})
	f.Add([]byte{1, 0x10, 1, 1, 2, 0x13, 6, 0, 0, 0x10, 7, 0, 3, 0x11, 7, 0, 1, 0x20})
	f.Add([]byte{4, 0, 1, 0x21, 3, 0x20, 5, 3, 2, 0x21, 1, 0x01, 7, 0, 6, 0, 5, 9, 4, 2})
	f.Fuzz(func(t *testing.T, ops []byte) {
		w := newWorld()
		c := newClient(t, w)
		other := newClient(t, w)
		for i := 0; i+1 < len(ops) && i < 400; i += 2 {
			arg := int(ops[i+1])
			typ, n := compile.Type(arg>>4&3), arg&7
			switch ops[i] % 8 {
			case 0:
				c.request(typ, nil, nil, false)
			case 1:
				c.request(typ, []string{fuzzName(typ, n)}, nil, false)
			case 2:
				c.request(typ, nil, []string{fuzzName(typ, n)}, false)
			case 3:
				c.request(typ, []string{fuzzName(typ, n), fuzzName(typ, n+1), wildcard}[:1+(arg>>6)%3], nil, false)
			case 4:
				c.request(typ, nil, []string{wildcard}, arg&8 != 0)
			case 5:
				if w.set(n, arg>>3); arg&0x80 == 0 {
					w.publish()
				} else {
					w.compile()
				}
			case 6:
				other.request(typ, []string{fuzzName(typ, n), wildcard}[:1+arg>>7], nil, false)
				other.take(arg & 3)
			case 7:
				c.take(1 + arg&3)
			}
		}
		w.publish()
		for _, k := range []*client{c, other} {
			k.take(1000)
			if k.session.next() != nil {
				t.Fatal("the server does not end")
			}
			k.check(w)
			k.session.close()
		}
		if len(w.fleet.classes) != 0 {
			t.Error("something is kept for clients that are gone")
		}
	})
}

// FuzzState does the same for the state of the world, where only what exists can be said.
func FuzzState(f *testing.F) {
	f.Add([]byte{0, 0x01, 2, 0x13, 1, 0x07, 0, 0x11, 2, 0x1b, 3, 3})
	f.Fuzz(func(t *testing.T, ops []byte) {
		w := newWorld()
		s := newSession(w.fleet, false, func() {})
		var names [compile.Types][]string
		var nonce [compile.Types]string
		var has [compile.Types]map[string][]byte
		take := func() bool {
			next := s.next()
			if next == nil {
				return false
			}
			r := decode(t, next, &discovery.DiscoveryResponse{})
			typ, ok := compile.ParseType(r.TypeUrl)
			if !ok || r.VersionInfo == "" {
				t.Fatalf("response %v", r)
			}
			if has[typ] == nil || typ == compile.Cluster || typ == compile.Listener {
				has[typ] = map[string][]byte{}
			}
			for _, packed := range r.Resources {
				m, err := packed.UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				has[typ][resourceName(m)] = packed.Value
			}
			nonce[typ] = r.Nonce
			return true
		}
		request := func(typ compile.Type) {
			err := s.handleState(&discovery.DiscoveryRequest{Node: worldNode("s0"), TypeUrl: typ.URL(), ResponseNonce: nonce[typ], ResourceNames: names[typ]})
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := 0; i+1 < len(ops) && i < 400; i += 2 {
			arg := int(ops[i+1])
			typ, n := compile.Type(arg>>4&3), arg&7
			switch ops[i] % 4 {
			case 0:
				if name := fuzzName(typ, n); !slices.Contains(names[typ], name) {
					names[typ] = append(names[typ], name)
				}
				request(typ)
			case 1:
				w.set(n, arg>>3)
				w.publish()
			case 2:
				take()
			case 3:
				request(typ)
			}
		}
		for range 3 { // the last requests may have been stale
			for take() {
			}
			for typ := range names {
				if len(names[typ]) > 0 {
					request(compile.Type(typ))
				}
			}
		}
		if take() {
			t.Fatal("the server does not end")
		}
		if w.common == nil {
			return
		}
		node, err := compile.ParseNode(worldNode("s0"))
		if err != nil {
			t.Fatal(err)
		}
		r := compile.ForClass(nil, w.common, node.Class())
		for typ := range compile.Type(compile.Types) {
			for _, name := range names[typ] {
				if res := r.Get(typ, name); res != nil && string(has[typ][name]) != string(res.Body) {
					t.Errorf("%s %s: the client has not what there is", typ, name)
				}
			}
		}
	})
}

func resourceName(m proto.Message) string {
	switch m := m.(type) {
	case interface{ GetClusterName() string }:
		return m.GetClusterName()
	case interface{ GetName() string }:
		return m.GetName()
	}
	return ""
}

// FuzzRequest feeds bytes as requests: nothing panics and every response can be read.
func FuzzRequest(f *testing.F) {
	for _, req := range []*discovery.DeltaDiscoveryRequest{
		{Node: worldNode("s1"), TypeUrl: compile.Cluster.URL(), ResourceNamesSubscribe: []string{"*"}},
		{Node: worldNode(), TypeUrl: compile.Endpoint.URL(), ResourceNamesSubscribe: []string{clusterName(1), ""}, InitialResourceVersions: map[string]string{clusterName(1): "x"}},
	} {
		data, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, data)
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		w := newWorld()
		w.set(1, 80)
		w.publish()
		delta, state := newSession(w.fleet, true, func() {}), newSession(w.fleet, false, func() {})
		for _, data := range [][]byte{first, second} {
			var d discovery.DeltaDiscoveryRequest
			if proto.Unmarshal(data, &d) == nil && delta.handleDelta(&d) != nil {
				break
			}
			for f := delta.next(); f != nil; f = delta.next() {
				decode(t, f, &discovery.DeltaDiscoveryResponse{})
			}
			var r discovery.DiscoveryRequest
			if proto.Unmarshal(data, &r) == nil && state.handleState(&r) != nil {
				break
			}
			for f := state.next(); f != nil; f = state.next() {
				decode(t, f, &discovery.DiscoveryResponse{})
			}
			w.set(1, 81)
			w.publish()
		}
		delta.close()
		state.close()
	})
}
