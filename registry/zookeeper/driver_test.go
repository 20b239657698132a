package zookeeper_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/hostmesh/hostmesh/registry"
)

// writer writes instances as a layout does. The nodes are no ephemerals, so that they outlive the driver's session
// when the server is away.
type writer interface {
	layout() string
	// directory returns the names below the root on the way to a service's instances.
	directory(service string) []string
	// node returns the name and the data of an instance's node. A name that ends with _ gets a sequence.
	node(s *registry.Service, e *registry.Endpoint) (name string, data []byte)
}

type curatorWriter struct{}

func (curatorWriter) layout() string                    { return "curator" }
func (curatorWriter) directory(service string) []string { return []string{service} }
func (curatorWriter) node(s *registry.Service, e *registry.Endpoint) (string, []byte) {
	payload := map[string]any{"@class": "com.acme.Details", "weight": e.Weight, "protocol": s.Ports[0].Protocol}
	for k, v := range e.Labels {
		payload[k] = v
	}
	return e.ID, object(map[string]any{
		"name": s.Name.Name, "id": e.ID, "address": e.Addr.String(), "port": e.Ports[0].Number, "sslPort": nil, "payload": payload,
		"registrationTimeUTC": 1700000000000, "serviceType": "DYNAMIC", "uriSpec": nil, "enabled": true,
	})
}

type nerveWriter struct{ encoded bool }

func (nerveWriter) layout() string                    { return "nerve" }
func (nerveWriter) directory(service string) []string { return []string{service, "services"} }
func (w nerveWriter) node(s *registry.Service, e *registry.Endpoint) (string, []byte) {
	labels := map[string]any{"protocol": s.Ports[0].Protocol}
	for k, v := range e.Labels {
		labels[k] = v
	}
	data := object(map[string]any{
		"host": e.Addr.String(), "port": e.Ports[0].Number, "name": e.ID, "weight": e.Weight, "labels": labels, "haproxy_server_options": "backup",
	})
	if w.encoded {
		text := base64.URLEncoding.EncodeToString(data)
		return fmt.Sprintf("base64_%d_%s_", len(text), text), data
	}
	return e.ID + "_", data
}

type serversetWriter struct{}

func (serversetWriter) layout() string                    { return "serverset" }
func (serversetWriter) directory(service string) []string { return []string{service} }
func (serversetWriter) node(s *registry.Service, e *registry.Endpoint) (string, []byte) {
	return "member_", object(map[string]any{
		"serviceEndpoint":     map[string]any{"host": e.Addr.String(), "port": e.Ports[0].Number},
		"additionalEndpoints": map[string]any{}, "status": "ALIVE", "shard": 3,
	})
}

type dubboWriter struct{}

func (dubboWriter) layout() string                    { return "dubbo" }
func (dubboWriter) directory(service string) []string { return []string{service, "providers"} }
func (dubboWriter) node(s *registry.Service, e *registry.Endpoint) (string, []byte) {
	params := url.Values{"application": {"demo"}, "weight": {fmt.Sprint(e.Weight)}}
	for k, v := range e.Labels {
		params.Set(k, v)
	}
	u := url.URL{
		Scheme: string(s.Ports[0].Protocol), Host: fmt.Sprintf("%s:%d", e.Addr, e.Ports[0].Number),
		Path: "/" + s.Name.Name, RawQuery: params.Encode(),
	}
	return url.QueryEscape(u.String()), []byte("127.0.0.1")
}

func object(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// driver keeps in the server what the suite puts.
type driver struct {
	conn   *zk.Conn
	root   string
	writer writer

	mu    sync.Mutex
	acl   []zk.ACL                   // guarded by mu: of new nodes
	nodes map[string]map[string]node // guarded by mu: by service and address; the inner maps are their service's Put's
}

// node is what was written.
type node struct {
	path string
	name string // as the writer gave it
	data []byte
}

func newDriver(t *testing.T, addresses []string, root string, w writer, acl []zk.ACL) *driver {
	t.Helper()
	conn := connect(t, addresses)
	if err := conn.AddAuth("digest", []byte("apps:apps-password")); err != nil {
		t.Fatal(err)
	}
	d := &driver{conn: conn, root: root, writer: w, acl: acl, nodes: make(map[string]map[string]node)}
	d.create(t, root, nil)
	return d
}

// connect returns a client of whichever of the servers answers.
func connect(t *testing.T, addresses []string) *zk.Conn {
	t.Helper()
	conn, events, err := zk.Connect(addresses, 10*time.Second, zk.WithLogger(silent{}))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range events {
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn
}

type silent struct{}

func (silent) Printf(string, ...any) {}

// try repeats what the connection broke under.
func (d *driver) try(t *testing.T, what string, do func() error, fine ...error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := do()
		if err == nil || slices.ContainsFunc(fine, func(f error) bool { return errors.Is(err, f) }) {
			return
		}
		again := errors.Is(err, zk.ErrConnectionClosed) || errors.Is(err, zk.ErrNoServer) || errors.Is(err, zk.ErrSessionExpired) || errors.Is(err, zk.ErrSessionMoved)
		if !again || time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *driver) create(t *testing.T, p string, data []byte) {
	t.Helper()
	d.try(t, "create "+p, func() error {
		_, err := d.conn.Create(p, data, 0, d.currentACL())
		return err
	}, zk.ErrNodeExists)
}

func (d *driver) currentACL() []zk.ACL {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.acl
}

// directory makes the nodes on the way to a service's instances.
func (d *driver) directory(t *testing.T, service string) string {
	t.Helper()
	p := d.root
	for _, name := range d.writer.directory(service) {
		p += "/" + name
		d.create(t, p, nil)
	}
	return p
}

func (d *driver) of(service string) map[string]node {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nodes[service] == nil {
		d.nodes[service] = make(map[string]node)
	}
	return d.nodes[service]
}

func (d *driver) put(t *testing.T, s *registry.Service) {
	t.Helper()
	have := d.of(s.Name.Name)
	dir := d.directory(t, s.Name.Name)
	wanted := make(map[string]bool)
	for _, e := range s.Endpoints {
		key := e.Addr.String()
		wanted[key] = true
		name, data := d.writer.node(s, e)
		before, there := have[key]
		if there && before.name == name {
			if string(before.data) != string(data) {
				d.try(t, "set "+before.path, func() error { _, err := d.conn.Set(before.path, data, -1); return err })
				have[key] = node{before.path, name, data}
			}
			continue
		}
		have[key] = node{d.createInstance(t, dir, name, data), name, data}
		if there {
			d.remove(t, before.path)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if !wanted[key] {
			d.remove(t, have[key].path)
			delete(have, key)
		}
	}
}

// createInstance returns the path of a new node. A sequential one that was made under a connection that broke is looked
// for, as it would be made twice.
func (d *driver) createInstance(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	if !strings.HasSuffix(name, "_") {
		d.create(t, dir+"/"+name, data)
		return dir + "/" + name
	}
	var known []string
	d.try(t, "list "+dir, func() (err error) { known, _, err = d.conn.Children(dir); return err })
	made := ""
	d.try(t, "create "+dir+"/"+name, func() error {
		children, _, err := d.conn.Children(dir)
		if err != nil {
			return err
		}
		for _, child := range children {
			if strings.HasPrefix(child, name) && !slices.Contains(known, child) {
				made = dir + "/" + child
				return nil
			}
		}
		made, err = d.conn.Create(dir+"/"+name, data, zk.FlagSequence, d.currentACL())
		return err
	})
	return made
}

func (d *driver) remove(t *testing.T, p string) {
	t.Helper()
	d.try(t, "delete "+p, func() error { return d.conn.Delete(p, -1) }, zk.ErrNoNode)
}

// delete removes the directories too, as who deregisters last may do.
func (d *driver) delete(t *testing.T, name registry.Name) {
	t.Helper()
	d.put(t, &registry.Service{Name: name})
	way := d.writer.directory(name.Name)
	for n := len(way); n > 0; n-- {
		d.remove(t, path.Join(append([]string{d.root}, way[:n]...)...))
	}
}

// putAll creates services that were not there, one transaction for each.
func (d *driver) putAll(t *testing.T, services []*registry.Service) {
	t.Helper()
	acl := d.currentACL()
	slots := make(chan struct{}, 32)
	var working sync.WaitGroup
	for _, s := range services {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			var ops []any
			p := d.root
			for _, name := range d.writer.directory(s.Name.Name) {
				p += "/" + name
				ops = append(ops, &zk.CreateRequest{Path: p, Acl: acl})
			}
			have := d.of(s.Name.Name)
			for _, e := range s.Endpoints {
				name, data := d.writer.node(s, e)
				ops = append(ops, &zk.CreateRequest{Path: p + "/" + name, Data: data, Acl: acl})
				have[e.Addr.String()] = node{p + "/" + name, name, data}
			}
			if _, err := d.conn.Multi(ops...); err != nil {
				t.Errorf("create %s: %v", p, err)
			}
		})
	}
	working.Wait()
}

// setACL changes the permissions of the whole tree, the root first.
func (d *driver) setACL(t *testing.T, acl []zk.ACL) {
	t.Helper()
	d.mu.Lock()
	d.acl = acl
	d.mu.Unlock()
	var set func(p string)
	set = func(p string) {
		d.try(t, "set ACL of "+p, func() error { _, err := d.conn.SetACL(p, acl, -1); return err }, zk.ErrNoNode)
		var children []string
		d.try(t, "list "+p, func() (err error) { children, _, err = d.conn.Children(p); return err }, zk.ErrNoNode)
		for _, child := range children {
			set(p + "/" + child)
		}
	}
	set(d.root)
}
