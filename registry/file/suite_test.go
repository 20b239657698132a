package file_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/file"
	"github.com/hostmesh/hostmesh/registry/registrytest"
)

func TestContract(t *testing.T) {
	registrytest.Run(t, registrytest.Harness{
		New: newDriver,
		Cannot: map[registrytest.Case]string{
			registrytest.PermissionLost: "the tests run as root too, from whom no directory can be kept; TestPermission shows the error",
			registrytest.LeaderKilled:   "a directory has no leader",
			registrytest.ServerPaused:   "a directory is the kernel's, nothing stands between that could stop",
			registrytest.Partition:      "a directory is local; that of a network file system fails as the kernel says, which DownAndUp has",
			registrytest.SlowAnswers:    "a directory is local",
		},
	})
}

func newDriver(t *testing.T) (registry.Registry, registrytest.Driver) {
	dir := filepath.Join(t.TempDir(), "static.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	services := map[registry.Name]*registry.Service{}
	path := func(name registry.Name) string { return filepath.Join(dir, name.Namespace+"-"+name.Name+".yaml") }
	put := func(t *testing.T, s *registry.Service) {
		t.Helper()
		services[s.Name] = s
		replace(t, path(s.Name), render(s))
	}
	return file.New(file.Config{Path: dir}, slog.New(slog.DiscardHandler)), registrytest.Driver{
		Put: put,
		PutAll: func(t *testing.T, all []*registry.Service) {
			for _, s := range all {
				put(t, s)
			}
		},
		Delete: func(t *testing.T, name registry.Name) {
			if err := os.Remove(path(name)); err != nil {
				t.Fatal(err)
			}
		},
		SetHealth: func(t *testing.T, name registry.Name, addr netip.Addr, health registry.Health) {
			s := services[name]
			for _, e := range s.Endpoints {
				if e.Addr == addr {
					e.Health = health
				}
			}
			put(t, s)
		},
		Down: func(t *testing.T) { rename(t, dir, dir+".away") },
		Up:   func(t *testing.T) { rename(t, dir+".away", dir) },
		Faults: map[registrytest.Fault]registrytest.Injection{
			// All files are removed with their directory, and written anew.
			registrytest.ServerKilled: {
				Begin: func(t *testing.T) { rename(t, dir, dir+".away") },
				End: func(t *testing.T) {
					mkdir(t, dir+".new")
					spoil(t, dir+".away", dir+".new", func(b []byte) []byte { return b })
					rename(t, dir+".new", dir)
					if err := os.RemoveAll(dir + ".away"); err != nil {
						t.Fatal(err)
					}
				},
			},
			// What was watched is not what stands there any more.
			registrytest.HistoryLost: {
				Begin: func(t *testing.T) {
					mkdir(t, dir+".new")
					spoil(t, dir, dir+".new", func(b []byte) []byte { return b })
					rename(t, dir, dir+".old")
					rename(t, dir+".new", dir)
				},
				End: func(t *testing.T) {
					if err := os.RemoveAll(dir + ".old"); err != nil {
						t.Fatal(err)
					}
				},
				Writable: true, Blameless: true,
			},
			registrytest.Truncated: spoiled(dir, func(b []byte) []byte { return b[:len(b)-4] }), // in the middle of the last endpoint
			registrytest.Garbage: spoiled(dir, func(b []byte) []byte {
				b = bytes.Clone(b)
				for i := 0; i < len(b); i += 16 {
					b[i] ^= 0x80
				}
				return b
			}),
		},
	}
}

// spoiled writes all files in place, damaged, as an editor or a full disk may leave them; and writes them again. A file
// that is broken is a problem, no failure of the registry.
func spoiled(dir string, damage func([]byte) []byte) registrytest.Injection {
	good := dir + ".good"
	return registrytest.Injection{
		Begin: func(t *testing.T) {
			mkdir(t, good)
			spoil(t, dir, good, func(b []byte) []byte { return b })
			spoil(t, good, dir, damage)
		},
		End: func(t *testing.T) {
			spoil(t, good, dir, func(b []byte) []byte { return b })
			if err := os.RemoveAll(good); err != nil {
				t.Fatal(err)
			}
		},
		Blameless: true,
	}
}

// spoil copies the files of a directory to another, changed.
func spoil(t *testing.T, from, to string, change func([]byte) []byte) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, e.Name()), string(change(data)))
	}
}

// render writes a service as an operator would.
func render(s *registry.Service) string {
	var b strings.Builder
	fmt.Fprintf(&b, "service: %s\nport: %d\nprotocol: %s\nendpoints:\n", s.Name, s.Endpoints[0].Ports[0].Number, s.Ports[0].Protocol)
	for _, e := range s.Endpoints {
		fmt.Fprintf(&b, "  - {address: %s, weight: %d, health: %s, labels: {", e.Addr, e.Weight, e.Health)
		for k, v := range e.Labels {
			fmt.Fprintf(&b, "%s: %s, ", k, v)
		}
		b.WriteString("}}\n")
	}
	return b.String()
}
