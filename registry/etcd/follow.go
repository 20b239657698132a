package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/hostmesh/hostmesh/registry"
)

const (
	// pageKeys is how many keys one answer of a list has at most. Fewer would have etcd count the rest more often.
	pageKeys = 5000
	// maxKeys bounds what is read at all, so that a wrong prefix does not eat the host's memory.
	maxKeys = 2_000_000
	// pace is the time from one view to the next while changes stream in.
	pace = 15 * time.Millisecond
	// lagging is how long the watch may stay behind a revision that a check has told before it counts as stuck.
	lagging = 5 * time.Second
	// listTimeout bounds one page of a list.
	listTimeout = 5 * time.Second
)

// follower keeps the entries as they are in etcd and publishes them. It belongs to one Watch.
type follower struct {
	*session
	entries *entries
	publish func(registry.View)
	log     *slog.Logger
	seen    atomic.Int64 // the revision up to which the entries are etcd's
}

// run lists and watches until something fails. When what was to be watched is compacted away, it lists again.
func (f *follower) run(ctx context.Context) error {
	for {
		if err := f.list(ctx); err != nil {
			return fmt.Errorf("list %s: %w", f.root, err)
		}
		if err := f.entries.wrongLayout(); err != nil {
			return err
		}
		if len(f.entries.keys) == 0 { // it may be a new site, or a slip of the pen that nothing else shows
			f.log.Warn("etcd has no key that begins so: if there should be services, set prefix to where they are", "prefix", f.root)
		}
		f.publish(f.entries.view())
		if err := f.follow(ctx); !errors.Is(err, rpctypes.ErrCompacted) {
			return err
		}
	}
}

// list reads all keys as they are at one revision. When that is compacted away meanwhile, it begins anew.
func (f *follower) list(ctx context.Context) error {
	const attempts = 3
	var err error
	for range attempts {
		var revision int64
		if revision, err = f.listOnce(ctx); err == nil {
			f.seen.Store(revision)
			return nil
		}
		if !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	return err
}

// listOnce returns the revision that it has read. The pages are taken into the entries as they come; nothing of that
// is published before the last.
func (f *follower) listOnce(ctx context.Context) (revision int64, err error) {
	f.entries.beginList()
	end := clientv3.GetPrefixRangeEnd(f.root)
	limit := int64(pageKeys)
	for from, read := f.root, 0; ; {
		resp, err := f.page(ctx, from, end, revision, limit)
		if status.Code(err) == codes.ResourceExhausted && limit > 1 {
			limit /= 2 // the values are large
			continue
		}
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = resp.Header.Revision
			if resp.Count > maxKeys {
				return 0, tooMany(resp.Count)
			}
		}
		if len(resp.Kvs) > 0 && string(resp.Kvs[0].Key) < from {
			return 0, fmt.Errorf("got key %.100q again, want those from %.100q on", resp.Kvs[0].Key, from)
		}
		for _, kv := range resp.Kvs {
			f.entries.put(string(kv.Key), kv.Value)
		}
		if read += len(resp.Kvs); read > maxKeys { // whatever the server has said to be the number
			return 0, tooMany(int64(read))
		}
		if !resp.More || len(resp.Kvs) == 0 {
			f.entries.endList()
			return revision, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func tooMany(keys int64) error {
	return fmt.Errorf("got %d keys, want at most %d: set prefix to where the services are", keys, maxKeys)
}

func (f *follower) page(ctx context.Context, from, end string, revision, limit int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeoutCause(clientv3.WithRequireLeader(ctx), listTimeout, noAnswer(listTimeout))
	defer cancel()
	resp, err := f.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(limit))
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return resp, err
}

// follow takes changes from the revision after the one seen, until something fails.
func (f *follower) follow(ctx context.Context) error {
	group, ctx := errgroup.WithContext(clientv3.WithRequireLeader(ctx))
	group.Go(func() error { return f.take(ctx) })
	group.Go(func() error { return f.checkOften(ctx) })
	group.Go(func() error { return f.connected(ctx) })
	return group.Wait()
}

// take takes changes into the entries and publishes: the first after quiet at once, then at most one view each pace.
func (f *follower) take(ctx context.Context) error {
	changes := f.client.Watch(ctx, f.root, clientv3.WithPrefix(), clientv3.WithRev(f.seen.Load()+1),
		clientv3.WithProgressNotify(), clientv3.WithCreatedNotify(), clientv3.WithFragment())
	timer := time.NewTimer(0)
	defer timer.Stop()
	changed, resting := false, true // resting: until timer ends
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case resp, ok := <-changes:
			if !ok {
				return fmt.Errorf("watch %s: etcd's client ended it", f.root)
			}
			if err := resp.Err(); err != nil {
				return fmt.Errorf("watch %s: %w", f.root, err)
			}
			changed = f.apply(resp) || changed
			if n := len(f.entries.keys); n > maxKeys {
				return tooMany(int64(n))
			}
		case <-timer.C:
			resting = false
		}
		if changed && !resting && ctx.Err() == nil {
			f.publish(f.entries.view())
			timer.Reset(pace)
			changed, resting = false, true
		}
	}
}

// apply tells whether resp changed anything.
func (f *follower) apply(resp clientv3.WatchResponse) bool {
	for _, e := range resp.Events {
		if e.Type == clientv3.EventTypeDelete {
			f.entries.delete(string(e.Kv.Key))
		} else {
			f.entries.put(string(e.Kv.Key), e.Kv.Value)
		}
	}
	switch {
	case len(resp.Events) > 0:
		f.seen.Store(resp.Events[len(resp.Events)-1].Kv.ModRevision)
	case resp.IsProgressNotify():
		f.seen.Store(max(f.seen.Load(), resp.Header.Revision))
	}
	return len(resp.Events) > 0
}

// checkOften asks the member again and again, because etcd does not end a watch whose user may not read any more, and
// because a connection may hang without being closed. It also sees to it that the watch gets as far as the member is.
func (f *follower) checkOften(ctx context.Context) error {
	ticker := time.NewTicker(f.cfg.KeepAliveTime)
	defer ticker.Stop()
	owed, since := int64(0), time.Now() // the watch is to reach revision owed, told at since
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		seen := f.seen.Load()
		revision, err := f.check(ctx, f.cfg.KeepAliveTimeout)
		switch {
		case err != nil:
			return err
		case revision < seen:
			return fmt.Errorf("etcd went back from revision %d to %d, as after a restore: reading all again", seen, revision)
		case seen >= owed:
			owed, since = revision, time.Now()
		case time.Since(since) > lagging:
			return fmt.Errorf("the watch has not got from revision %d to %d in %v: it is stuck, or etcd is one of 3.5.8 to 3.5.12 or "+
				"3.4.25 to 3.4.30, which do not tell the progress of a new watch", seen, owed, lagging)
		}
		asked, cancel := context.WithTimeout(ctx, f.cfg.KeepAliveTimeout)
		err = f.client.RequestProgress(asked)
		cancel()
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("ask for the watch's progress: %w", err)
		}
	}
}

// connected returns when the connection is lost. etcd's client would make another without a word and go on; to begin
// anew is the same for what is seen, and tells that the view may be stale meanwhile.
func (f *follower) connected(ctx context.Context) error {
	conn := f.client.ActiveConnection()
	// gRPC lets requests pass a moment before it calls a new connection ready.
	for connecting := true; ; {
		state := conn.GetState()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case state == connectivity.Ready:
			connecting = false
		case !connecting || state != connectivity.Connecting:
			return fmt.Errorf("connection lost: it is %s", state)
		}
		conn.WaitForStateChange(ctx, state)
	}
}
