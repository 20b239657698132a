package main

import (
	"os"
	"strings"
	"testing"
)

// Both scripts install the same Envoy into the same place.
func TestSetupScriptsAgree(t *testing.T) {
	for _, file := range []string{"setup.sh", "../e2e/setup.sh"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"envoy=" + envoyVersion + "\n", `"$cache/envoy-$envoy/envoy/_bin/envoy"`, "cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostmesh\n"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s has no %q", file, want)
			}
		}
	}
}
