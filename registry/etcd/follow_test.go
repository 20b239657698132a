package etcd

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// listed returns a follower that has listed a real server, and watches nothing.
func listed(t *testing.T, server *testbed.Etcd) *follower {
	t.Helper()
	r, err := New(Config{Endpoints: []string{server.Address}, KeepAliveTime: 100 * time.Millisecond}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	f := &follower{session: s, entries: r.entries, publish: func(registry.View) {}, log: slog.New(slog.DiscardHandler)}
	if err := f.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestCheckFindsWhatAWatchHides has nobody take the changes of a watch, as on a stream that is stuck, and a server whose
// revision goes back, as after a restore.
func TestCheckFindsWhatAWatchHides(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	for name, test := range map[string]struct {
		seen int64 // 0: as listed
		want string
	}{
		"stuck": {0, "the watch has not got from revision"},
		"back":  {1 << 40, "etcd went back from revision 1099511627776"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := listed(t, server)
			if test.seen != 0 {
				f.seen.Store(test.seen)
			}
			if _, err := f.client.Put(t.Context(), "/elsewhere", ""); err != nil {
				t.Fatal(err)
			}
			if err := f.checkOften(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestIdleWatchKeepsUp writes where the watch does not look, for longer than a watch may lag: only progress tells it.
func TestIdleWatchKeepsUp(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	f := listed(t, server)
	failed := make(chan error, 1)
	go func() { failed <- f.follow(t.Context()) }()
	for end := time.Now().Add(lagging + 2*time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if _, err := f.client.Put(t.Context(), "/elsewhere", ""); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-failed:
		t.Errorf("the watch failed: %v", err)
	default:
	}
	if f.seen.Load() < 50 {
		t.Errorf("the watch has got to revision %d only", f.seen.Load())
	}
}
