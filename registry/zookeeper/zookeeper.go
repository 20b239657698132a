// Package zookeeper reads services and their instances from Apache ZooKeeper, in the layouts that Curator (and Spring
// Cloud), Nerve, Twitter's ServerSets and Dubbo write.
//
// One Watch is one session on one connection. It sets a watch on a root and all below, reads that tree many nodes at a
// time, and reads again what the watch tells of. README.md tells what is read and how it becomes a registry.View.
package zookeeper

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/internal/tlsfile"
	"github.com/hostmesh/hostmesh/registry"
)

// Registry reads one ZooKeeper. From one Watch to the next it keeps nothing but its configuration.
type Registry struct {
	cfg    Config
	layout layout
	log    *slog.Logger
	warn   sync.Once // that the password can be read on its way
}

// New returns a Registry that reads the ZooKeeper of cfg. It opens no file and no connection; a nil log is silent. The
// error names the first mistake that Config.Check finds.
func New(cfg Config, log *slog.Logger) (*Registry, error) {
	var err error
	cfg.Check(func(path, got, want string) {
		if err == nil {
			err = fmt.Errorf("configure zookeeper: %s: got %s, want %s", path, got, want)
		}
	})
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cfg = cfg.withDefaults()
	return &Registry{cfg: cfg, layout: layoutNamed(cfg.Layout), log: log}, nil
}

// Watch implements registry.Registry.
func (r *Registry) Watch(ctx context.Context, publish func(registry.View)) error {
	r.warn.Do(r.warnOfPlaintext)
	if err := r.watch(ctx, publish); err != nil {
		return fmt.Errorf("watch zookeeper %s: %w", strings.Join(r.cfg.Servers, ","), err)
	}
	return nil
}

// warnOfPlaintext tells which servers get the password over a network as it is: digest hides it in ACLs only.
func (r *Registry) warnOfPlaintext() {
	if r.cfg.Username == "" || r.cfg.secure() {
		return
	}
	open := slices.DeleteFunc(slices.Clone(r.cfg.Servers), onLoopback)
	if len(open) > 0 {
		r.log.Warn("zookeeper gets the password over a connection that is not encrypted: whoever is on the way can read it; "+
			"set tls, and have servers name the ports of secureClientPort", "servers", open, "username", r.cfg.Username)
	}
}

// onLoopback tells whether host:port is on this host. It looks up no name.
func onLoopback(server string) bool {
	host, _, err := net.SplitHostPort(server)
	addr, notIP := netip.ParseAddr(host)
	return err == nil && (notIP == nil && addr.Unmap().IsLoopback() || strings.EqualFold(host, "localhost"))
}

// watch reads with one session. What it knows ends with the session: its server may have expired it, and with it all
// watches, without a word that reaches us, so the next session reads everything anew. A server that turns out to be old
// ends the session, and is asked node by node in the next one.
func (r *Registry) watch(ctx context.Context, publish func(registry.View)) error {
	var secure *tls.Config
	if r.cfg.secure() {
		var err error
		secure, err = tlsfile.Files{CA: r.cfg.CAFile, Cert: r.cfg.CertFile, Key: r.cfg.KeyFile, Server: r.cfg.ServerName}.Config()
		if err != nil {
			return err
		}
	}
	credentials, err := r.cfg.credentials()
	if err != nil {
		return err
	}
	for old := false; ; old = true {
		s, err := open(ctx, &r.cfg, secure, r.log)
		if err != nil {
			return err
		}
		s.old.Store(old)
		if err = follow(ctx, &r.cfg, r.layout, s, credentials, publish); old || !s.old.Load() || ctx.Err() != nil {
			return err
		}
	}
}

// follow reads the tree until the session ends, and ends the session.
func follow(ctx context.Context, cfg *Config, l layout, s *session, credentials []byte, publish func(registry.View)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.run(ctx) })
	group.Go(func() error {
		if err := s.begin(credentials, cfg.Root); err != nil {
			return err
		}
		return newTree(cfg, l, s).run(ctx, publish)
	})
	return group.Wait()
}
