package zookeeper

import (
	"testing"

	"github.com/go-zookeeper/zk"
)

// A node that is deleted and made again while it is being read stays, whichever comes to us first: that it was not
// there, or that it is there again.
func TestNodeMadeAgainWhileItIsRead(t *testing.T) {
	for _, eventFirst := range []bool{false, true} {
		cfg := Config{}.withDefaults()
		tr := newTree(&cfg, curator{}, &session{})
		root := &node{path: cfg.Root, place: directory}
		tr.add(root)
		tr.batch()
		if err := tr.apply(answer{node: root, children: []string{"web"}, stat: &zk.Stat{NumChildren: 1}}); err != nil {
			t.Fatal(err)
		}
		web := tr.batch()[0]
		if err := tr.apply(answer{node: web, children: []string{"1"}, stat: &zk.Stat{NumChildren: 1}}); err != nil {
			t.Fatal(err)
		}
		read := func(mzxid int64) {
			t.Helper()
			batch := tr.batch()
			if len(batch) != 1 || batch[0].path != cfg.Root+"/web/1" {
				t.Fatalf("event first %t: %v is to be read, want the instance", eventFirst, batch)
			}
			data := []byte(`{"address":"10.0.0.1","port":80}`)
			if err := tr.apply(answer{node: batch[0], data: data, stat: &zk.Stat{Mzxid: mzxid, DataLength: int32(len(data))}}); err != nil {
				t.Fatal(err)
			}
		}
		read(1)

		path := cfg.Root + "/web/1"
		tr.told(zk.Event{Type: zk.EventNodeDeleted, Path: path})
		reading := tr.batch()[0]
		again := func() { tr.told(zk.Event{Type: zk.EventNodeCreated, Path: path}) }
		if eventFirst {
			again()
		}
		if err := tr.apply(answer{node: reading, err: zk.ErrNoNode}); err != nil {
			t.Fatal(err)
		}
		if !eventFirst {
			again()
		}
		read(2)
		if v := tr.assembly.View(); len(v.Services) != 1 || len(v.Services[0].Endpoints) != 1 {
			t.Errorf("event first %t: got %v, want the endpoint", eventFirst, v.Services)
		}
		if tr.busy != 0 || tr.opening != 0 {
			t.Errorf("event first %t: busy %d, opening %d, want none", eventFirst, tr.busy, tr.opening)
		}
	}
}
