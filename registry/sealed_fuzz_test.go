package registry

import (
	"encoding/json"
	"testing"
	"time"
)

// FuzzDecodeView reads any bytes as the payload of a sealed view: what is taken must be valid, merge, and come out
// the same when it is sealed again.
func FuzzDecodeView(f *testing.F) {
	whole, err := json.Marshal(sealedView{Source: "a", Kind: "file", Time: time.Unix(1, 0).UTC(), Services: numbered(2, 2), Problems: []Problem{{Object: "o", Reason: "r"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"time":"2026-01-01T00:00:00Z","services":[null]}`))
	f.Add([]byte(`{"time":"2026-01-01T00:00:00Z","services":[{"name":{"namespace":"default","name":"web"},"ports":[{"name":""}],"endpoints":[{"id":"w","addr":"fe80::1%eth0","ports":[{"name":"","number":1}],"weight":1,"health":"draining"}]}]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		v, err := decodeView(payload)
		if err != nil {
			return
		}
		m := newMerger([]string{"a", "b"}, Rules{})
		m.set(0, v.Services)
		m.set(1, v.Services)
		services, _ := m.merge()
		if err := (View{Services: services}).Validate(); err != nil {
			t.Fatalf("a sealed view was taken that merges to nonsense: %v", err)
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatalf("a view that was decoded does not encode: %v", err)
		}
		w, err := decodeView(again)
		if err != nil {
			t.Fatalf("a view that was sealed again is refused: %v", err)
		}
		if len(w.Services) != len(v.Services) {
			t.Fatalf("%d services, want %d", len(w.Services), len(v.Services))
		}
		for i := range w.Services {
			if !w.Services[i].equal(v.Services[i]) {
				t.Fatalf("service %s changed by sealing", v.Services[i].Name)
			}
		}
	})
}
