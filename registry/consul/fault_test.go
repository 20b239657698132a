package consul_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

// faults are what a Consul suffers. What happens on the link leaves the driver its way to the server.
func (s *suite) faults(t *testing.T, link *testbed.Link) map[registrytest.Fault]registrytest.Injection {
	server := s.cluster[0]
	heal := func(*testing.T) { link.Heal() }
	all := map[registrytest.Fault]registrytest.Injection{
		registrytest.ServerKilled: {
			Begin: func(*testing.T) { server.Kill() },
			End:   func(t *testing.T) { server.Start(); s.ready(t) },
		},
		// A pause of a few seconds may pass unnoticed: the questions are answered when it is over.
		registrytest.ServerPaused: {
			Begin:     func(*testing.T) { server.Pause() },
			End:       func(t *testing.T) { server.Continue(); s.ready(t) },
			Blameless: true,
		},
		registrytest.Partition:   {Begin: func(*testing.T) { link.Hold() }, End: heal, Writable: true, Blameless: true},
		registrytest.SlowAnswers: {Begin: func(*testing.T) { link.Slow(3 * time.Second) }, End: heal, Writable: true, Blameless: true},
		registrytest.Truncated:   {Begin: func(*testing.T) { link.Truncate(1000) }, End: heal, Writable: true},
		registrytest.Garbage:     {Begin: func(*testing.T) { link.Garble() }, End: heal, Writable: true},
		registrytest.HistoryLost: {Begin: s.goBack, End: func(*testing.T) {}, Blameless: true},
	}
	if len(s.cluster) > 1 {
		var killed *testbed.Consul
		all[registrytest.LeaderKilled] = registrytest.Injection{
			Begin: func(t *testing.T) {
				killed = nil
				killed = s.killLeader(t)
				s.ready(t)
			},
			End: func(t *testing.T) {
				if killed != nil { // else Begin has failed
					killed.Start()
					killed.AwaitLeader()
					s.ready(t)
				}
			},
			Writable: true, Blameless: true,
		}
	}
	return all
}

// killLeader kills the leader, after it handed over to another if it is the server that is read. The others must be able
// to go on without it.
func (s *suite) killLeader(t *testing.T) *testbed.Consul {
	t.Helper()
	s.whole(t)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		for _, server := range s.cluster[1:] {
			if server.IsLeader() {
				server.Kill()
				return server
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the leader does not hand over")
		}
		if s.cluster[0].IsLeader() {
			_, _ = s.cluster[0].Client().Operator().RaftLeaderTransfer("", nil) // tried again
		}
	}
}

// whole waits until every server has a vote. Consul takes it from one that is away for more than some seconds, as in a
// long fault, and gives it back only when that has been well for ten: until then there is no majority without the leader.
func (s *suite) whole(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		raft, err := s.cluster[0].Client().Operator().RaftGetConfiguration(nil)
		voters := 0
		if err == nil {
			for _, server := range raft.Servers {
				if server.Voter {
					voters++
				}
			}
		}
		if voters == len(s.cluster) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d servers have a vote; %v", voters, len(s.cluster), err)
		}
	}
}

// goBack restores a snapshot of what there is, after others have moved the index: it goes backwards, and whoever waits
// for something newer than the old index would wait in vain.
func (s *suite) goBack(t *testing.T) {
	t.Helper()
	client := s.cluster[0].Client()
	stream, _, err := client.Snapshot().Save(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	snapshot, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	_, before, err := client.Catalog().Services(nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := client.Catalog().Register(&api.CatalogRegistration{
			Node: "noise", Address: "127.0.0.1", Service: &api.AgentService{ID: "noise", Service: "noise", Port: 1},
		}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Catalog().Deregister(&api.CatalogDeregistration{Node: "noise"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Snapshot().Restore(nil, bytes.NewReader(snapshot)); err != nil {
		t.Fatal(err)
	}
	s.ready(t)
	if _, after, err := client.Catalog().Services(nil); err != nil || after.LastIndex > before.LastIndex {
		t.Fatalf("the index went from %d to %d, want it to go back; %v", before.LastIndex, after.LastIndex, err)
	}
}
