package etcd

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestHeldBytesAreBounded has writers put what is too large, and sees what is kept of it and that it goes.
func TestHeldBytesAreBounded(t *testing.T) {
	t.Parallel()
	for _, layout := range []string{layoutHostmesh, layoutGRPC, layoutSkyDNS} {
		for kind, long := range map[string]string{
			"key": strings.Repeat("x", 1<<20), "key below": "web/" + strings.Repeat("\xff", 1<<20), "wide": strings.Repeat("\U000e0001", 1<<10),
		} {
			e := newEntries(config(layout))
			e.beginList()
			for i := range 3 {
				e.put(fmt.Sprintf("%s%s%d", e.root, long, i), []byte("{}"))
			}
			e.endList()
			size := 0
			for key := range maps.Keys(e.keys) {
				size += len(key)
			}
			if view := e.view(); size > 3*maxKey || len(view.Problems) != 3 || !strings.Contains(view.Problems[0].Reason, "want at most 1024") {
				t.Errorf("%s, %s: %d bytes are kept, problems %v", layout, kind, size, view.Problems)
			}
			e.delete(e.root + long + "0")
			e.beginList()
			e.put(e.root+long+"1", []byte("{}"))
			e.endList()
			if view := e.view(); len(view.Problems) != 1 || len(e.keys) != 1 || len(e.bad) != 1 || e.direct != nil && len(e.direct.below)+len(e.direct.values) > 0 {
				t.Errorf("%s, %s: one is left, but %v, problems %v", layout, kind, e.keys, view.Problems)
			}
		}
	}
	e := newEntries(config(layoutSkyDNS))
	e.put(e.root+"web", make([]byte, 1<<20))
	if n := len(e.direct.values[e.root+"web"]); n > maxValue+1 {
		t.Errorf("%d bytes are kept of a value that is too large", n)
	}
	e.put(e.root+"web/1", []byte(`{"host":"10.0.0.1"}`))
	e.delete(e.root + "web/1")
	if view := e.view(); len(view.Problems) != 1 || view.Problems[0].Kind != "size" {
		t.Errorf("a value that is too large, alone again: problems %v", view.Problems)
	}
}

// TestSkyDNSTextIsCutBetweenCharacters has a text whose 255th byte is within a character: a label that is no UTF-8
// cannot be sent to a proxy.
func TestSkyDNSTextIsCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	view := filled(config(layoutSkyDNS), map[string]string{"web/1": `{"host":"10.0.0.1","text":"` + strings.Repeat("é", 200) + `"}`}).view()
	if len(view.Services) != 1 {
		t.Fatalf("problems %v", view.Problems)
	}
	if text := view.Services[0].Endpoints[0].Labels["text"]; text != strings.Repeat("é", maxLabelValue/2) || !utf8.ValidString(text) {
		t.Errorf("got %q", text)
	}
}

// TestListAfterAllKeysWereReplaced has more keys, of now and of before, than may be read at once: only those of now count.
func TestListAfterAllKeysWereReplaced(t *testing.T) {
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	f := listed(t, server)
	for i := range maxKeys {
		f.entries.keys[fmt.Sprintf("%sgone/%d", f.root, i)] = f.entries.lists
	}
	if _, err := f.client.Put(t.Context(), f.root+"web/1", `{"address":"10.0.0.1","port":1}`); err != nil {
		t.Fatal(err)
	}
	if err := f.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.entries.keys) != 1 {
		t.Errorf("%d keys are left, want 1", len(f.entries.keys))
	}
}
