// Package e2e tests the whole system from outside: real binaries, real registries, real clients. The tests of this
// file hold the shape of the house instead: who may import whom.
package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hostmesh/hostmesh"

// mayImport is the import table: a package (or, ending in "/…", every package below it) and what of ours it may
// import. A package that is not listed may import nothing of ours. A new edge is a changed line here.
var mayImport = map[string][]string{
	"internal/watch":    nil,
	"internal/yamlpos":  nil,
	"internal/seal":     nil,
	"internal/tlsfile":  nil,
	"internal/dnsask":   nil,
	"internal/hostfile": {"internal/yamlpos"},
	"internal/gossip":   {"internal/hostfile"},

	"systemd":      nil,
	"dnsserver":    {"dnsserver/dnssec", "dnsserver/tsig"},
	"proxy/config": nil,
	"proxy/loop":   nil,

	"proxy/message": nil,
	"proxy/http1":   {"proxy/message"},
	"proxy/http2":   {"proxy/message"},

	"dnsserver/dnssec":   {"internal/seal"},
	"dnsserver/dnstap":   {"dnsserver"},
	"dnsserver/forward":  {"dnsserver", "internal/dnsask"},
	"dnsserver/tsig":     nil,
	"dnsserver/transfer": {"dnsserver", "dnsserver/dnssec", "dnsserver/tsig", "internal/watch"},

	"proxy/preamble": nil,
	"proxy/takeover": nil,
	"proxy/probe":    nil,

	"proxy/accesslog": {"proxy/config", "proxy/message"},
	"proxy/chain":     {"proxy/config"},

	"registry":              {"internal/watch", "internal/seal"},
	"registry/registrytest": {"registry"},
	"registry/consul":       {"registry", "internal/tlsfile"},
	"registry/file":         {"registry", "internal/hostfile"},
	"registry/gossip":       {"registry", "internal/hostfile", "internal/gossip"},
	"registry/etcd":         {"registry", "internal/tlsfile"},
	"registry/zookeeper":    {"registry", "internal/tlsfile"},
	"registry/kubernetes":   {"registry"},
	"registry/dns":          {"registry", "internal/dnsask"},

	"host": {"internal/hostfile", "internal/gossip", "internal/watch"},

	"controlplane/compile": {"registry"},
	"controlplane/zone":    {"registry", "dnsserver", "dnsserver/dnssec"},
	"controlplane/xds":     {"controlplane/compile", "internal/watch"},
	"controlplane/hds":     {"registry"},
	"controlplane":         {"controlplane/…", "registry", "dnsserver", "dnsserver/…", "internal/…"},

	"proxy/retry":            {"proxy/config"},
	"proxy/router":           {"proxy/config"},
	"proxy/overload":         {"proxy/config"},
	"proxy/resolve":          {"proxy/config", "internal/watch", "internal/dnsask"},
	"proxy/mux":              {"proxy/loop", "proxy/http2", "proxy/message"},
	"proxy/upstream":         {"proxy/config", "proxy/loop", "proxy/http1", "proxy/http2", "proxy/message", "proxy/mux", "proxy/preamble", "proxy/upstream/balance"},
	"proxy/upstream/balance": {"proxy/config"},
	"proxy/xds":              {"proxy/config", "proxy/accesslog", "proxy/chain", "proxy/health", "internal/watch", "internal/seal"},
	"proxy/loopback":         {"proxy/config", "internal/watch", "internal/seal"},
	"proxy/steer":            {"proxy/loopback"},
	"proxy/hostdns":          {"proxy/config", "internal/watch", "dnsserver"},
	"proxy/health":           {"proxy/config", "proxy/preamble"},
	"proxy/certificate":      {"proxy/config"},
	"proxy":                  {"proxy/…", "host", "dnsserver", "internal/…"},

	"cmd/…":   {"…"},
	"e2e/…":   {"e2e/…"},
	"bench/…": {"…"},
}

// pure packages compute: they reach no network, no disk, no lock and no clock owner.
var (
	pure       = []string{"controlplane/compile", "controlplane/zone", "proxy/config", "proxy/retry", "proxy/router", "proxy/upstream/balance", "proxy/http1", "proxy/message", "proxy/http2", "proxy/preamble", "proxy/accesslog", "proxy/chain"}
	notForPure = []string{"net", "os", "context", "sync", "google.golang.org/grpc"}
)

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

// goList asks the go command for packages, with the files of overlay (path in the repository → text) planted.
func goList(t *testing.T, overlay map[string]string, patterns ...string) []listed {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"list", "-e", "-json=ImportPath,Imports,Deps"}
	if len(overlay) > 0 {
		dir, replace := t.TempDir(), map[string]string{}
		for path, text := range overlay {
			file := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			replace[filepath.Join(root, path)] = file
		}
		data, err := json.Marshal(map[string]any{"Replace": replace})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "-overlay", file)
	}
	cmd := exec.Command("go", append(args, patterns...)...)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p listed
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	return packages
}

func ours(importPath string) (string, bool) {
	return strings.CutPrefix(importPath, module+"/")
}

func matches(pattern, path string) bool {
	prefix, below := strings.CutSuffix(pattern, "…")
	if !below {
		return pattern == path
	}
	return strings.HasPrefix(path+"/", prefix)
}

// allowed returns what the package at path may import: its own line, or the line of the longest "/…" above it.
func allowed(path string) []string {
	if line, ok := mayImport[path]; ok {
		return line
	}
	for _, pattern := range slices.SortedFunc(maps.Keys(mayImport), func(a, b string) int { return len(b) - len(a) }) {
		if matches(pattern, path) {
			return mayImport[pattern]
		}
	}
	return nil
}

// violations names every import that the table, the pure-package rule or one of the two facts forbids.
func violations(packages []listed) []string {
	var found []string
	for _, p := range packages {
		path, _ := ours(p.ImportPath)
		for _, imported := range p.Imports {
			target, isOurs := ours(imported)
			if isOurs && !slices.ContainsFunc(allowed(path), func(pattern string) bool { return matches(pattern, target) }) {
				found = append(found, fmt.Sprintf("%s imports %s, which its line of the import table does not allow", path, target))
			}
			if isOurs && strings.HasPrefix(target, "cmd/") && !strings.HasPrefix(path, "cmd/") {
				found = append(found, fmt.Sprintf("%s imports %s: nothing imports cmd", path, target))
			}
			if slices.Contains(pure, path) && (slices.Contains(notForPure, imported) || strings.HasPrefix(imported, "google.golang.org/grpc/")) {
				found = append(found, fmt.Sprintf("%s imports %s, but it is pure", path, imported))
			}
		}
		if path == "cmd/mesh-proxy" || path == "proxy" {
			for _, dep := range p.Deps {
				if target, _ := ours(dep); target == "proxy/steer" {
					found = append(found, fmt.Sprintf("%s links proxy/steer: mesh-proxy needs no loader of programs for the kernel", path))
				}
				if target, isOurs := ours(dep); isOurs && (matches("registry/…", target) || matches("controlplane/…", target)) {
					found = append(found, fmt.Sprintf("%s links %s: the data plane knows no registry and no control plane", path, target))
				}
			}
		}
	}
	return found
}

func TestArchitectureImportTableHolds(t *testing.T) {
	packages := goList(t, nil, "./...")
	if len(packages) < 15 {
		t.Fatalf("go list found only %d packages", len(packages))
	}
	for _, v := range violations(packages) {
		t.Error(v)
	}
	for path := range mayImport {
		if !slices.ContainsFunc(packages, func(p listed) bool { found, _ := ours(p.ImportPath); return matches(path, found) }) {
			t.Errorf("the import table has a line for %s, which does not exist", path)
		}
	}
}

func TestArchitectureBites(t *testing.T) {
	for _, c := range []struct{ name, file, text, want string }{
		{"adapter to adapter", "registry/file/planted.go", "package file\n\nimport _ \"" + module + "/registry/consul\"\n", "registry/file imports registry/consul"},
		{"proxy to registry", "proxy/router/planted.go", "package router\n\nimport _ \"" + module + "/registry\"\n", "proxy/router imports registry"},
		{"data plane links the control plane by a detour", "host/planted.go", "package host\n\nimport _ \"" + module + "/controlplane\"\n", "proxy links controlplane"},
		{"data plane links the loader of kernel programs", "host/planted.go", "package host\n\nimport _ \"" + module + "/proxy/steer\"\n", "proxy links proxy/steer"},
		{"cmd imported", "controlplane/planted.go", "package controlplane\n\nimport _ \"" + module + "/cmd/mesh/cli\"\n", "nothing imports cmd"},
		{"pure package with a lock", "controlplane/compile/planted.go", "package compile\n\nimport _ \"sync\"\n", "controlplane/compile imports sync, but it is pure"},
		{"pure package with gRPC", "proxy/http1/planted.go", "package http1\n\nimport _ \"google.golang.org/grpc/codes\"\n", "proxy/http1 imports google.golang.org/grpc/codes, but it is pure"},
		{"new package without a line", "common/planted.go", "package common\n\nimport _ \"" + module + "/registry\"\n", "common imports registry"},
	} {
		t.Run(c.name, func(t *testing.T) {
			packages := goList(t, map[string]string{c.file: c.text}, "./...")
			if found := violations(packages); !slices.ContainsFunc(found, func(v string) bool { return strings.Contains(v, c.want) }) {
				t.Errorf("the planted import was not found; got %q, want one with %q", found, c.want)
			}
		})
	}
}
