package registry_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/file"
)

// A file that was broken while it was followed keeps its last good entries. They must not be gone because the process
// was restarted meanwhile.
func TestAFileThatIsBrokenOverARestartKeepsItsEntries(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		temporary := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temporary, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(work func(c *registry.Catalog, await func(what string, is func(registry.SourceStatus) bool))) {
		t.Helper()
		files := file.New(file.Config{Path: dir}, slog.New(slog.DiscardHandler))
		c := newCatalog(t, registry.Options{StateDir: state}, registry.Source{
			Name: "static", Kind: "file", Registry: files, Guard: registry.Guard{Window: 500 * time.Millisecond, Time: time.Second},
		})
		defer start(t, c)()
		work(c, func(what string, is func(registry.SourceStatus) bool) {
			t.Helper()
			for deadline := time.Now().Add(20 * time.Second); !is(c.Sources()[0]); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%s: got %+v", what, c.Sources()[0])
				}
			}
		})
	}
	synced := func(endpoints, problems, doubted int) func(registry.SourceStatus) bool {
		return func(s registry.SourceStatus) bool {
			return s.State == registry.Synced && s.Endpoints == endpoints && len(s.Problems) == problems && s.Doubted == doubted
		}
	}
	web := "service: web\nport: 80\nendpoints:\n- {address: 10.0.0.1, port: 8080}\n"
	for _, name := range []string{"api", "blog", "cart", "dir"} {
		write(name+".yaml", "service: "+name+"\nport: 80\nendpoints:\n- {address: 10.0.1.1, port: 8080}\n")
	}
	write("web.yaml", web)
	run(func(c *registry.Catalog, await func(string, func(registry.SourceStatus) bool)) {
		await("all is well", synced(5, 0, 0))
		write("web.yaml", "service: [web\n")
		await("one is broken", synced(5, 1, 0))
	})
	run(func(c *registry.Catalog, await func(string, func(registry.SourceStatus) bool)) {
		await("it is still broken after the restart", synced(5, 1, 1))
		await("the merge has it", func(registry.SourceStatus) bool {
			s := current(c).Service(registry.Name{Namespace: "default", Name: "web"})
			return s != nil && len(s.Endpoints) == 1 && s.Endpoints[0].Doubt != nil
		})
		time.Sleep(1500 * time.Millisecond)
		await("it stays for as long as it is broken", synced(5, 1, 1))
		write("web.yaml", web)
		await("it is mended", synced(5, 0, 0))
		write("web.yaml", "service: [web\n")
		await("it is broken again", synced(5, 1, 0))
	})
	run(func(_ *registry.Catalog, await func(string, func(registry.SourceStatus) bool)) {
		await("it is still broken after another restart", synced(5, 1, 1))
		if err := os.Remove(filepath.Join(dir, "web.yaml")); err != nil {
			t.Fatal(err)
		}
		await("it is removed", synced(4, 0, 0))
	})
}
