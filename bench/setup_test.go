package main

import (
	"os"
	"strings"
	"testing"
)

// The script installs the Envoy that is looked for.
func TestSetupInstallsTheEnvoyOfTheBenchmarks(t *testing.T) {
	b, err := os.ReadFile("../e2e/install.sh")
	if err != nil {
		t.Fatal(err)
	}
	if want := "version=" + envoyVersion + " "; !strings.Contains(string(b), want) {
		t.Errorf("e2e/install.sh has no %q", want)
	}
}
