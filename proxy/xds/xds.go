// Package xds is where a proxy's configuration comes from: a bootstrap file, and the xDS v3 server that it names.
//
// It is the only place of the proxy that knows configuration protobuf. What it hands on is a complete, immutable
// [config.Config] at a time. It is strict both ways: a field, filter or policy that this proxy does not do is refused
// by name, in a file as an error, from a server as a NACK that keeps the old value.
//
// The client speaks the delta variant of ADS. Accepted resources are kept in their wire form, sealed on disk and
// served again after a restart until the server has answered, so that no outage of the server stops a proxy.
package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// NoAccessLog as Options.AccessLog drops access logs to /dev/stdout.
const NoAccessLog = "off"

// Options say what a Client works with.
type Options struct {
	Bootstrap *Bootstrap
	// StateDir is an existing directory for the sealed configuration; empty: none is kept.
	StateDir string
	// AccessLog takes the place of /dev/stdout in access logs, where it is set; NoAccessLog leaves them out.
	AccessLog string
	// Version is this program's, for the server's records.
	Version string
	Log     *slog.Logger // nil: slog.Default()
}

// Client follows an xDS server and publishes what it says. All methods are safe for concurrent use.
type Client struct {
	options Options
	log     *slog.Logger
	value   *watch.Value[*config.Config]
	dirty   chan struct{} // one slot: there is something to seal
	wants   chan struct{} // one slot: names were added
	started time.Time

	mu     sync.Mutex
	store  *store   // guarded by mu
	status standing // guarded by mu
}

// New returns a Client that already holds the static configuration and, if there is any, the sealed one. It fails if
// the bootstrap cannot be used; sealed state that cannot be used is reported by Status and the log.
func New(o Options) (*Client, error) {
	if o.Bootstrap == nil {
		return nil, errors.New("start xds client: got no bootstrap, want one")
	}
	if o.Bootstrap.Control != "" {
		if _, _, wrong := ParseControl(o.Bootstrap.Control); wrong != nil {
			return nil, fmt.Errorf("start xds client: control: %w", wrong)
		}
	}
	if _, err := o.Bootstrap.Node.proto(o.Version); err != nil {
		return nil, fmt.Errorf("start xds client: %w", err)
	}
	now := time.Now()
	c := &Client{
		options: o, log: o.Log, dirty: make(chan struct{}, 1), wants: make(chan struct{}, 1), started: now,
		store:  newStore(rules{newSchema(), o.AccessLog}, o.Bootstrap, now),
		status: newStanding(o.Bootstrap.Control, now),
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	if o.StateDir != "" && o.Bootstrap.Control != "" {
		c.load(now)
	}
	c.value = watch.New(c.store.current)
	return c, nil
}

// Config is the configuration to serve: never nil, complete at every moment, parts that did not change keep their
// pointers.
func (c *Client) Config() *watch.Value[*config.Config] { return c.value }

// Run follows the server until ctx ends, and seals what it says. It returns nil when ctx ended; losing the server is
// no error: it is dialled again and the configuration stays. Without a server it only waits.
func (c *Client) Run(ctx context.Context) error {
	if c.options.Bootstrap.Control == "" {
		<-ctx.Done()
		return nil
	}
	conn, err := dial(c.options.Bootstrap.Control)
	if err != nil {
		return err
	}
	defer conn.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { c.follow(ctx, conn); return nil })
	if c.options.StateDir != "" {
		g.Go(func() error { return c.keepSealed(ctx) })
	}
	return g.Wait()
}

// follow opens one stream after the other until ctx ends.
func (c *Client) follow(ctx context.Context, conn *grpc.ClientConn) {
	wait := firstRetry
	for {
		conn.ResetConnectBackoff()
		useful, err := c.session(ctx, conn)
		if ctx.Err() != nil {
			c.setDisconnected("stopped")
			return
		}
		if err == nil || errors.Is(err, io.EOF) {
			err = errors.New("the server ended the stream")
		}
		if c.setDisconnected(err.Error()) {
			c.log.Warn("control plane is away, the configuration stays", "server", c.options.Bootstrap.Control, "err", err)
		}
		if useful {
			wait = firstRetry
		}
		// Jitter keeps the proxies of a mesh apart when their server comes back.
		pause := time.NewTimer(wait/2 + rand.N(wait/2))
		wait = min(2*wait, lastRetry)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}
