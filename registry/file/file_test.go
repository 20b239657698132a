package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/file"
)

// replace writes a file as careful editors do: beside its place, and renamed over it.
func replace(t *testing.T, path, content string) {
	t.Helper()
	write(t, path+".tmp", content)
	rename(t, path+".tmp", path)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// watching is a Watch that runs, and the latest it said.
type watching struct {
	t     *testing.T
	mu    sync.Mutex
	view  registry.View
	views int
}

func watch(t *testing.T, path string) *watching {
	t.Helper()
	w := &watching{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	r := file.New(file.Config{Path: path}, slog.New(slog.DiscardHandler))
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = r.Watch(ctx, func(v registry.View) {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.view = v
				w.views++
				if err := v.Validate(); err != nil {
					t.Errorf("a view that does not validate: %v", err)
				}
			})
			time.Sleep(20 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// await waits for a view that reads as want: "ns/name=id,id" of every service.
func (w *watching) await(what, want string) registry.View {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		w.mu.Lock()
		view, views := w.view, w.views
		w.mu.Unlock()
		if views > 0 && read(view) == want {
			return view
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: the view is %q, want %q (problems %v)", what, read(view), want, view.Problems)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func read(v registry.View) string {
	var services []string
	for _, s := range v.Services {
		var ids []string
		for _, e := range s.Endpoints {
			ids = append(ids, e.ID)
		}
		services = append(services, s.Name.String()+"="+strings.Join(ids, ","))
	}
	return strings.Join(services, " ")
}

func one(service, address string) string {
	return fmt.Sprintf("service: %s\nport: 80\nendpoints: [{address: %s}]\n", service, address)
}

// first reads a directory once.
func first(t *testing.T, files map[string]string) registry.View {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var view registry.View
	err := file.New(file.Config{Path: dir}, slog.New(slog.DiscardHandler)).Watch(ctx, func(v registry.View) { view = v; cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for i := range view.Problems {
		view.Problems[i].Object = strings.TrimPrefix(view.Problems[i].Object, dir+"/")
		view.Problems[i].Reason = strings.ReplaceAll(view.Problems[i].Reason, dir+"/", "")
	}
	return view
}

// TestREADME runs the README's example.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(readme, []byte("```yaml\n# static.d/db.yaml\n"))
	example, _, ok := bytes.Cut(rest, []byte("```\n"))
	if !ok {
		t.Fatal("the README has no example")
	}
	got := first(t, map[string]string{"db.yaml": string(example)})
	want := registry.View{Services: []*registry.Service{
		{
			Name:  registry.Name{Namespace: "data", Name: "db"},
			Ports: []registry.Port{{Number: 5432}},
			Endpoints: []*registry.Endpoint{
				{ID: "192.0.2.1:5432", Addr: netip.MustParseAddr("192.0.2.1"), Ports: []registry.EndpointPort{{Number: 5432}}, Labels: map[string]string{"tier": "a"}, Weight: 1},
				{ID: "192.0.2.3:5432", Addr: netip.MustParseAddr("192.0.2.3"), Ports: []registry.EndpointPort{{Number: 5432}}, Labels: map[string]string{"tier": "a"}, Weight: 1, Health: registry.Draining},
				{ID: "[2001:db8::1]:5433", Addr: netip.MustParseAddr("2001:db8::1"), Ports: []registry.EndpointPort{{Number: 5433}}, Labels: map[string]string{"tier": "b"}, Weight: 2, Locality: registry.Locality{Region: "eu", Zone: "eu-1"}},
			},
		},
		{
			Name:  registry.Name{Namespace: "default", Name: "web"},
			Ports: []registry.Port{{Name: "admin", Number: 9000}, {Name: "http", Number: 80, Protocol: registry.HTTP}},
			Endpoints: []*registry.Endpoint{
				{ID: "192.0.2.10:9000,8080", Addr: netip.MustParseAddr("192.0.2.10"), Ports: []registry.EndpointPort{{Name: "admin", Number: 9000}, {Name: "http", Number: 8080}}, Weight: 1},
				{ID: "192.0.2.11:9000,8081", Addr: netip.MustParseAddr("192.0.2.11"), Ports: []registry.EndpointPort{{Name: "admin", Number: 9000}, {Name: "http", Number: 8081}}, Weight: 1},
			},
		},
	}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestServiceInSeveralFiles(t *testing.T) {
	got := first(t, map[string]string{
		"a.yaml":      "service: web\nport: 80\nendpoints: [{address: 192.0.2.1}, {address: 192.0.2.3, port: 81}]\n",
		"b.yml":       "# b\nservice: web\nport: 90\nprotocol: http\nendpoints:\n  - address: 192.0.2.2\n  - {address: 192.0.2.1, port: 80, weight: 5}\n",
		"c.yaml":      "service: web\nprotocol: http\nendpoints: [{address: 192.0.2.9, port: 80}]\n",
		".d.yaml":     "broken: [",
		"e.yaml.orig": "broken: [",
	})
	if want := "default/web=192.0.2.1:80,192.0.2.2:90,192.0.2.3:81,192.0.2.9:80"; read(got) != want {
		t.Errorf("got  %s\nwant %s", read(got), want)
	}
	if diff := cmp.Diff([]registry.Port{{Number: 80, Protocol: registry.HTTP}}, got.Services[0].Ports); diff != "" {
		t.Error(diff)
	}
	want := []registry.Problem{
		{Object: "b.yml:2", Kind: "port", Reason: "service default/web: got port 90 http, want 80 as in a.yaml:1"},
		{Object: "b.yml:7", Kind: "duplicate", Reason: "service default/web: got endpoint 192.0.2.1:80 a second time, want it once (first at a.yaml:3)"},
	}
	if diff := cmp.Diff(want, got.Problems); diff != "" {
		t.Error(diff)
	}
}

func TestBrokenFileKeepsItsLastGoodEntries(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, one("a", "192.0.2.1"))
	write(t, filepath.Join(dir, "b.yaml"), one("b", "192.0.2.1"))
	w := watch(t, dir)
	w.await("start", "default/a=192.0.2.1:80 default/b=192.0.2.1:80")
	for _, c := range []struct{ name, content, object, reason string }{
		{"unknown field", one("a", "192.0.2.2") + "prot: 1\n", path + ":4", `prot: got an unknown field, want "port"`},
		{"cut off", "", path, "got an empty file"},
		{"no YAML", "a: [", path, "cannot be parsed"},
	} {
		write(t, path, c.content)
		// The other file's change shows that the broken one was read.
		write(t, filepath.Join(dir, "b.yaml"), one("b", "192.0.2.7")+"# "+c.name+"\n")
		w.await(c.name, "default/a=192.0.2.1:80 default/b=192.0.2.7:80")
		deadline := time.Now().Add(5 * time.Second)
		for {
			w.mu.Lock()
			problems := w.view.Problems
			w.mu.Unlock()
			if len(problems) == 1 && problems[0].Stale && strings.HasPrefix(problems[0].Object, c.object) && strings.Contains(problems[0].Reason, c.reason) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: problems are %v, want a stale one at %s with %q", c.name, problems, c.object, c.reason)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	write(t, path, one("a", "192.0.2.3"))
	if v := w.await("mended", "default/a=192.0.2.3:80 default/b=192.0.2.7:80"); len(v.Problems) != 0 {
		t.Errorf("problems after mending: %v", v.Problems)
	}
	write(t, path, "# nothing runs here\n")
	w.await("emptied on purpose", "default/b=192.0.2.7:80")
}

func TestWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "dir.yaml"))
	symlink(t, "nowhere", filepath.Join(dir, "dangling.yaml"))
	write(t, filepath.Join(dir, "web.yaml"), one("web", "192.0.2.1"))
	v := watch(t, dir).await("start", "default/web=192.0.2.1:80")
	if len(v.Problems) != 2 || !strings.HasSuffix(v.Problems[0].Object, "dangling.yaml") || !strings.Contains(v.Problems[1].Reason, "want a regular file") {
		t.Errorf("problems are %v, want the link that leads nowhere and the directory", v.Problems)
	}
}

func TestMissingDirectoryIsAnError(t *testing.T) {
	err := file.New(file.Config{Path: filepath.Join(t.TempDir(), "none")}, slog.New(slog.DiscardHandler)).
		Watch(t.Context(), func(registry.View) { t.Error("a view of nothing is published") })
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Watch: %v, want fs.ErrNotExist", err)
	}
}
