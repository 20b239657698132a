package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// The keys of Rename are names, not patterns, and globs mean what they mean for the whole name and at little cost,
// whatever a registry calls its services (CVE-2026-39350, ISTIO-SECURITY-2026-006).
func TestCVEClass04_MappingTakesNamesAsTheyAre(t *testing.T) {
	const hard = 50 // stars: a matcher that goes back would take longer than anybody waits
	a := make(script)
	catalog := newCatalog(t, registry.Options{}, registry.Source{Name: "a", Kind: "test", Registry: a, Mapping: registry.Mapping{
		Rename:  map[string]string{"*": "all", "web.*": "evil", "w[e]b": "evil"},
		Exclude: []string{strings.Repeat("*a", hard) + "*b", "we", "?"},
	}})
	defer start(t, catalog)()
	began := time.Now()
	a.publish(view(1, strings.Repeat("a", 63), "web", "webb"))
	for deadline := time.Now().Add(20 * time.Second); len(current(catalog).Services) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no snapshot after %v", time.Since(began))
		}
	}
	var got []string
	for _, s := range current(catalog).Services {
		got = append(got, s.Name.Name)
	}
	if text := strings.Join(got, " "); text != strings.Repeat("a", 63)+" web webb" {
		t.Errorf("got %s", text)
	}
}
