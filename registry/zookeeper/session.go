package zookeeper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/hostmesh/hostmesh/registry"
)

// session is one session of ZooKeeper's on one connection. It ends with the connection: to resume it elsewhere would
// spare a reading of the tree, but asks of the library to set all watches again, which it does without telling when
// that fails.
type session struct {
	*zk.Conn
	wire   *wire
	events <-chan zk.Event // closed when the library has ended; what it holds is also given to the callback
	wake   chan struct{}   // holds one element while changed is not empty
	old    atomic.Bool     // the server does not know what is in bulk.go

	mu      sync.Mutex
	changed []zk.Event // guarded by mu: what a watch told of, once each
}

// open makes a session with one of the servers.
func open(ctx context.Context, cfg *Config, secure *tls.Config, log *slog.Logger) (*session, error) {
	d := dialer{servers: cfg.Servers, secure: secure, sessionTimeout: cfg.SessionTimeout}
	w, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	return openOn(w, cfg.SessionTimeout, log)
}

// openOn takes w over.
func openOn(w *wire, timeout time.Duration, log *slog.Logger) (*session, error) {
	s := &session{wire: w, wake: make(chan struct{}, 1)}
	var err error
	s.Conn, s.events, err = zk.Connect([]string{w.server}, timeout,
		zk.WithHostProvider(oneServer(w.server)),
		zk.WithDialer(func(string, string, time.Duration) (net.Conn, error) { return w, nil }),
		zk.WithEventCallback(s.note),
		zk.WithMaxBufferSize(maxFrame),
		zk.WithLogger(quiet{log}), zk.WithLogInfo(false))
	if err != nil {
		_ = w.Close()
		return nil, err
	}
	return s, nil
}

// note is called by the library for all that it learns, and must not block it. Watches come here too, so nobody waits
// at the channel of each.
func (s *session) note(e zk.Event) {
	switch e.Type {
	case zk.EventNodeCreated, zk.EventNodeDeleted, zk.EventNodeDataChanged, zk.EventNodeChildrenChanged:
	default:
		return
	}
	s.mu.Lock()
	s.changed = append(s.changed, e)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns what watches told of since it was called last.
func (s *session) take() []zk.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.changed
	s.changed = nil
	return events
}

// begin gives the credentials, sets the watch on all, and brings the server to where its leader is: a follower may lag behind what the
// session before this one has seen.
func (s *session) begin(credentials []byte, root string) error {
	if credentials != nil {
		if err := s.AddAuth("digest", credentials); err != nil {
			if errors.Is(err, zk.ErrAuthFailed) {
				err = fmt.Errorf("%w: the server refuses the digest of username and passwordFile", registry.ErrPermission)
			}
			return s.explain("authenticate", err)
		}
	}
	if _, err := s.Sync(root); err != nil {
		return s.explain("sync", err)
	}
	if s.old.Load() {
		return nil // each node gets a watch when it is read
	}
	return s.watchAll(root)
}

// explain names what failed; when the session has ended that is why.
func (s *session) explain(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ended(err) || err == s.wire.cause():
		if cause := s.wire.cause(); cause != nil {
			return cause
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// ended tells whether a request failed because its session ended under it.
func ended(err error) bool {
	return errors.Is(err, zk.ErrConnectionClosed) || errors.Is(err, zk.ErrClosing) || errors.Is(err, zk.ErrSessionExpired)
}

// run returns when the session has ended, which it does with ctx or with its connection, with the cause. Nothing of
// it is left then.
func (s *session) run(ctx context.Context) error {
	var err error
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-s.wire.failed:
		err = s.wire.cause()
	}
	s.Conn.Close()
	_ = s.wire.Close()
	for range s.events {
	}
	return err
}

// oneServer is a zk.HostProvider of the server that we are connected to.
type oneServer string

// Init implements zk.HostProvider.
func (s oneServer) Init([]string) error { return nil }

// Len implements zk.HostProvider.
func (s oneServer) Len() int { return 1 }

// Next implements zk.HostProvider.
func (s oneServer) Next() (server string, retryStart bool) { return string(s), false }

// Connected implements zk.HostProvider.
func (s oneServer) Connected() {}

// quiet is a zk.Logger: what it says is told by our errors as well.
type quiet struct{ log *slog.Logger }

// Printf implements zk.Logger.
func (q quiet) Printf(format string, args ...any) {
	q.log.Debug("zookeeper client", "text", fmt.Sprintf(format, args...))
}
