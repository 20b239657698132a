// Package etcd reads services from etcd: from keys as Hostmesh's users, gRPC's naming or SkyDNS write them.
//
// A Watch is one connection to one member of the cluster. It lists all keys at one revision and watches from the next,
// so nothing is lost in between; beside it, a small read every second shows that the member is there, has a leader and
// still lets us read, and that the watch keeps up with it. Whatever fails ends the Watch, and the next one begins anew
// with the first member that answers. README.md tells what is read and how it becomes a registry.View.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/hostmesh/hostmesh/registry"
)

// Registry is an etcd as a registry.Registry. What is kept from one Watch to the next is the last good word of entries
// that cannot be read any more.
type Registry struct {
	cfg Config
	log *slog.Logger

	running sync.Mutex // held by Watch; guards the others
	targets []target   // in the order in which they are tried
	entries *entries
	warned  bool // that the password can be read on its way
}

// New returns a Registry that reads the etcd of cfg. It opens no file and no connection; a nil log is silent. The error
// names the first mistake that Config.Check finds.
func New(cfg Config, log *slog.Logger) (*Registry, error) {
	var err error
	cfg.Check(func(path, got, want string) {
		if err == nil {
			err = fmt.Errorf("configure etcd: %s: got %s, want %s", path, got, want)
		}
	})
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{cfg: cfg.withDefaults(), log: log}
	for _, e := range cfg.Endpoints {
		t, err := cfg.parseEndpoint(e)
		if err != nil {
			return nil, fmt.Errorf("configure etcd: endpoint %s: %w", withoutUser(e), err)
		}
		r.targets = append(r.targets, t)
	}
	r.entries = newEntries(r.cfg)
	return r, nil
}

// Watch implements registry.Registry.
func (r *Registry) Watch(ctx context.Context, publish func(registry.View)) error {
	if !r.running.TryLock() {
		return errors.New("watch etcd: this registry is being watched already")
	}
	defer r.running.Unlock()
	r.warnOfPlaintext()
	where := strings.Join(r.cfg.Endpoints, ", ")
	session, err := r.connect(ctx)
	if err != nil {
		return fmt.Errorf("watch etcd %.300s: %w", where, err)
	}
	defer session.close()
	r.log.Debug("etcd connected", "endpoint", session.target.host)
	f := follower{session: session, entries: r.entries, publish: publish, log: r.log}
	if err := f.run(ctx); err != nil {
		r.demote(session.target)
		return fmt.Errorf("watch etcd %s: %w", session.target.host, r.explain(err, session.password))
	}
	return nil
}

// warnOfPlaintext tells once which endpoints get the password over a network as it is.
func (r *Registry) warnOfPlaintext() {
	if r.cfg.Username == "" || r.warned {
		return
	}
	r.warned = true
	var open []string
	for _, t := range r.targets {
		if !t.tls && !onLoopback(t.host) {
			open = append(open, t.host)
		}
	}
	if len(open) > 0 {
		r.log.Warn("etcd gets the password over a connection that is not encrypted: whoever is on the way can read it; "+
			"have etcd speak TLS, and write https:// in endpoints", "endpoints", open, "username", r.cfg.Username)
	}
}

// onLoopback tells whether host:port is on this host. It looks up no name.
func onLoopback(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	addr, notIP := netip.ParseAddr(host)
	return err == nil && (notIP == nil && addr.Unmap().IsLoopback() || strings.EqualFold(host, "localhost"))
}

// demote has an endpoint tried last the next time: what failed while it was watched may be of that member alone.
func (r *Registry) demote(t target) {
	i := slices.Index(r.targets, t)
	r.targets = append(slices.Delete(r.targets, i, i+1), t)
}
