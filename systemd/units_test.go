package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestUnitFilesAreRight has systemd itself read the unit files, in a tree where the programs are that they start.
func TestUnitFilesAreRight(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatal("systemd-analyze is not installed; run make setup")
	}
	units, err := filepath.Glob("mesh-*.*") // services and sockets
	if err != nil || len(units) == 0 {
		t.Fatalf("found %q, %v", units, err)
	}
	for _, unit := range units {
		root := t.TempDir()
		tree := map[string][]byte{
			"usr/bin/mesh-proxy": []byte("#!/bin/sh\n"), "usr/bin/mesh": []byte("#!/bin/sh\n"), "usr/bin/resolvectl": []byte("#!/bin/sh\n"), "usr/sbin/ip": []byte("#!/bin/sh\n"),
			"usr/lib/systemd/system/systemd-resolved.service": []byte("[Service]\nExecStart=/usr/bin/mesh\n"),
			// What every unit depends on.
			"usr/lib/systemd/system/sysinit.target": []byte("[Unit]\nDescription=x\n"), "usr/lib/systemd/system/basic.target": []byte("[Unit]\nDescription=x\n"),
			"usr/lib/systemd/system/shutdown.target": []byte("[Unit]\nDescription=x\n"), "usr/lib/systemd/system/network.target": []byte("[Unit]\nDescription=x\n"),
			"usr/lib/systemd/system/nss-lookup.target": []byte("[Unit]\nDescription=x\n"), "usr/lib/systemd/system/multi-user.target": []byte("[Unit]\nDescription=x\n"),
			"usr/lib/systemd/system/sockets.target": []byte("[Unit]\nDescription=x\n"),
		}
		for _, name := range units {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tree["etc/systemd/system/"+name] = data
		}
		for path, text := range tree {
			file := filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			mode := os.FileMode(0o644)
			if base := filepath.Base(filepath.Dir(path)); base == "bin" || base == "sbin" {
				mode = 0o755
			}
			if err := os.WriteFile(file, text, mode); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", "--root="+root, unit).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}
