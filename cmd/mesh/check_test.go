package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func runMesh(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, problems bytes.Buffer
	cmd := root()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&problems)
	err = cmd.ExecuteContext(t.Context())
	return out.String(), problems.String(), err
}

func TestCheckTellsKindsApart(t *testing.T) {
	for _, c := range []struct{ path, text, want string }{
		{"control.yaml", "registries: []\n", "ok (control)"},
		{"anything.yaml", "registries:\n  - name: a\n    file: {path: /etc/static.d}\n", "ok (control)"},
		{"empty/control.yaml", "", "ok (control)"},
		{"p.yaml", "upstreams: [web]\n", "ok (proxy)"},
		{"services.d/web.yaml", "service: web\nport: 80\n", "ok (service)"},
		{"web.yaml", "service: web\nport: 80\n", "ok (service)"},
		{"static.yaml", "service: web\nport: 80\nendpoints: [{address: 192.0.2.1}]\n", "ok (static)"},
		{"envoy.yaml", "node: {id: a}\nstatic_resources: {}\n", "ok (bootstrap)"},
	} {
		t.Run(c.path, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), c.path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			stdout, stderr, err := runMesh(t, "check", path)
			if err != nil || stdout != path+": "+c.want+"\n" {
				t.Errorf("got %q, %q, %v, want %q", stdout, stderr, err, c.want)
			}
		})
	}
}

func TestCheckTellsAllMistakesOfAllFiles(t *testing.T) {
	dir := t.TempDir()
	control, other := filepath.Join(dir, "control.yaml"), filepath.Join(dir, "other.yaml")
	text := "domain: .Mesh\nregistries:\n  - name: a\n    file: {path: /x}\n    gossip: {}\n  - name: a\n    file: {path: /x}\n"
	for path, text := range map[string]string{control: text, other: "what: is this\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, stderr, err := runMesh(t, "check", control, other, filepath.Join(dir, "missing.yaml"))
	if err == nil || !strings.Contains(err.Error(), "3 of 3") {
		t.Errorf("got %v, want an error that counts 3 of 3", err)
	}
	for _, want := range []string{
		control + `:1: domain: got ".Mesh", want a domain name in lower case`,
		control + ":3: registries[0]: got 2 kinds of registry, want exactly one",
		control + `:6: registries[1].name: got "a", want a name of its own`,
		other + ": not a file of hostmesh",
		"missing.yaml: no such file",
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in:\n%s", want, stderr)
		}
	}
}

func TestRegistryFlags(t *testing.T) {
	for _, c := range []struct{ flag, want string }{
		{"consul", "want KIND=PLACE"},
		{"consul=", "want KIND=PLACE"},
		{"eureka=127.0.0.1:8761", `unknown kind "eureka"`},
	} {
		if _, _, err := registryLine(c.flag); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("registryLine(%q): %v, want %q", c.flag, err, c.want)
		}
	}
	config, err := controlConfig("/does/not/exist", []string{"consul=127.0.0.1:8500", "file=" + t.TempDir()}, false)
	if err != nil || len(config.Registries) != 2 || config.Registries[0].Consul.Address != "127.0.0.1:8500" {
		t.Errorf("controlConfig: %+v, %v", config, err)
	}
	if _, err := controlConfig("/does/not/exist", nil, false); err == nil {
		t.Error("no file and no registry: no error")
	}
}

func TestCheckTellsTheLineOfARule(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.yaml")
	text := `registries:
  - name: a
    file: {path: /x}
    mapping:
      namespace: Bad_NS
      rename:
        com.acme.Api: A/B/c
      ports:
        "team-*":
          protocol: quic
    guard:
      share: 0
      time: 0s
  - name: b
    file: {path: /y}
    mapping: {namespace: x, namespaces: {"*": y}}
merge:
  services:
    orders: union
    default/orders: {prefer: [a]}
    shop/x:
      prefer:
        - a
        - b
        - a
    shop/y:
      weights:
        nobody: 1
guard:
  proofs: 0
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := runMesh(t, "check", path)
	if err == nil {
		t.Error("there is no error")
	}
	for _, want := range []string{
		`:5: registries[0].mapping.namespace: got "Bad_NS", want a namespace`,
		`:7: registries[0].mapping.rename["com.acme.Api"]: got "A/B/c", want name or namespace/name`,
		`:10: registries[0].mapping.ports["team-*"].protocol: got "quic", want tcp`,
		`:12: registries[0].guard.share: got 0, want a share above 0`,
		`:13: registries[0].guard.time: got 0s, want more than 0`,
		`:16: registries[1].mapping.namespace: got "x", want it or namespaces["*"], not both`,
		`:19: merge.services.orders: got a second rule for default/orders, want one; default/orders is the same`,
		`:25: merge.services.shop/x.prefer[2]: got "a", want each source once`,
		`:28: merge.services.shop/y.weights.nobody: got "nobody", want one of a, b`,
		`:30: guard.proofs: got 0, want the number of proxies`,
	} {
		if !strings.Contains(stderr, path+want) {
			t.Errorf("%q is not in\n%s", want, stderr)
		}
	}
}

func TestRulesMayNameTheHostsThatAreTheOnlyRegistry(t *testing.T) {
	if _, err := decodeControlFile("control.yaml", []byte("merge: {default: {prefer: [hosts]}}\n")); err != nil {
		t.Error(err)
	}
	if _, err := decodeControlFile("control.yaml", []byte("merge: {default: {prefer: [dc1]}}\n")); err == nil {
		t.Error("a rule names a registry that there is not, and that is taken")
	}
}

func TestRulesMayNameTheRegistriesOfFlags(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.yaml")
	text := "registries: [{name: static, file: {path: /etc/static.d}}]\nmerge: {default: {prefer: [consul, static]}}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := controlConfig(path, []string{"consul=127.0.0.1:8500"}, true)
	if err != nil {
		t.Fatal(err)
	}
	sources := config.sources(slog.New(slog.DiscardHandler))
	if len(sources) != 2 || sources[0].Name != "static" || sources[1].Name != "consul" {
		t.Errorf("got %d sources, want the file's, then the flag's, each once: %+v", len(sources), sources)
	}
	if _, err := controlConfig(path, nil, true); err == nil || !strings.Contains(err.Error(), `merge.default.prefer[0]: got "consul", want one of static`) {
		t.Errorf("without the flag: %v, want the rule refused", err)
	}
}

func TestMistakesInARuleSayWhichRulesThereAre(t *testing.T) {
	_, err := decodeControlFile("control.yaml", []byte("merge: {default: unoin}\n"))
	if want := `merge.default: got "unoin", want a valid rule (union, prefer: [A], failover: [A] or weights: {A: 9, B: 1})`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A domain that no zone can have is a mistake of the file, and no crash of who serves it.
func TestCheckRefusesDomainsThatCannotBe(t *testing.T) {
	for name, domain := range map[string]string{
		"empty label": "mesh..internal", "long label": strings.Repeat("a", 64) + ".internal", "long name": strings.Repeat("a.", 122) + "internal",
	} {
		t.Run(name, func(t *testing.T) {
			control := filepath.Join(t.TempDir(), "control.yaml")
			if err := os.WriteFile(control, []byte("domain: "+domain+"\nregistries: [{name: a, gossip: {}}]\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			_, stderr, err := runMesh(t, "check", control)
			if want := control + `:1: domain: got "` + domain + `", want a domain name of labels`; err == nil || !strings.Contains(stderr, want) {
				t.Errorf("got %v, no %q in:\n%s", err, want, stderr)
			}
		})
	}
}
