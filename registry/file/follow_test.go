package file_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/file"
)

func TestFollows(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "static.d")
	t.Run("kubernetes volume", func(t *testing.T) {
		mkdir(t, filepath.Join(dir, "..v1"))
		write(t, filepath.Join(dir, "..v1", "web.yaml"), one("web", "192.0.2.1"))
		symlink(t, "..v1", filepath.Join(dir, "..data"))
		symlink(t, "..data/web.yaml", filepath.Join(dir, "web.yaml"))
		w, single := watch(t, dir), watch(t, filepath.Join(dir, "web.yaml"))
		w.await("start", "default/web=192.0.2.1:80")
		single.await("start", "default/web=192.0.2.1:80")
		mkdir(t, filepath.Join(dir, "..v2"))
		write(t, filepath.Join(dir, "..v2", "web.yaml"), one("web", "192.0.2.2"))
		symlink(t, "..v2", filepath.Join(dir, "..data_tmp"))
		rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
		w.await("switched", "default/web=192.0.2.2:80")
		single.await("switched", "default/web=192.0.2.2:80")
	})
	t.Run("directory behind a symbolic link", func(t *testing.T) {
		for i, release := range []string{"r1", "r2"} {
			mkdir(t, filepath.Join(base, release))
			write(t, filepath.Join(base, release, "web.yaml"), one("web", fmt.Sprintf("192.0.2.%d", i+1)))
		}
		current := filepath.Join(base, "current")
		symlink(t, "r1", current)
		w := watch(t, current)
		w.await("start", "default/web=192.0.2.1:80")
		symlink(t, "r2", current+".tmp")
		rename(t, current+".tmp", current)
		w.await("switched", "default/web=192.0.2.2:80")
		write(t, filepath.Join(base, "r2", "web.yaml"), one("web", "192.0.2.3"))
		w.await("changed behind the new link", "default/web=192.0.2.3:80")
	})
	t.Run("directory that comes late, goes and comes back", func(t *testing.T) {
		late := filepath.Join(base, "late.d")
		w := watch(t, late)
		mkdir(t, late)
		write(t, filepath.Join(late, "web.yaml"), one("web", "192.0.2.1"))
		w.await("came", "default/web=192.0.2.1:80")
		if err := os.RemoveAll(late); err != nil {
			t.Fatal(err)
		}
		mkdir(t, late)
		write(t, filepath.Join(late, "web.yaml"), one("web", "192.0.2.2"))
		w.await("came back", "default/web=192.0.2.2:80")
	})
	t.Run("single file", func(t *testing.T) {
		path := filepath.Join(base, "single.yaml")
		write(t, path, one("web", "192.0.2.1"))
		w := watch(t, path)
		w.await("start", "default/web=192.0.2.1:80")
		replace(t, path, one("web", "192.0.2.2"))
		w.await("renamed over", "default/web=192.0.2.2:80")
		write(t, path, one("web", "192.0.2.3"))
		w.await("written in place", "default/web=192.0.2.3:80")
	})
}

// TestChurn changes one file, and writes another bit by bit, while a third one changes all the time: both are there, and
// of the half that was written, which looks whole, nothing is.
func TestChurn(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "slow.yaml"), one("slow", "192.0.2.1"))
	write(t, filepath.Join(dir, "web.yaml"), one("web", "192.0.2.1"))
	var mu sync.Mutex
	halves := map[string]bool{} // what slow was seen as
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	changed := make(chan registry.View, 1)
	group.Go(func() {
		_ = file.New(file.Config{Path: dir}, slog.New(slog.DiscardHandler)).Watch(ctx, func(v registry.View) {
			mu.Lock()
			defer mu.Unlock()
			for _, s := range v.Services {
				if s.Name.Name == "slow" {
					halves[read(registry.View{Services: []*registry.Service{s}})] = true
				}
			}
			select {
			case <-changed:
			default:
			}
			changed <- v
		})
	})
	group.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := os.WriteFile(filepath.Join(dir, "churn.yaml"), []byte(one("churn", fmt.Sprintf("192.0.2.%d", i%250+1))), 0o600); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	await := func(want string) {
		t.Helper()
		for timeout := time.After(10 * time.Second); ; {
			select {
			case v := <-changed:
				if strings.Contains(read(v), want) {
					return
				}
			case <-timeout:
				t.Fatalf("no view with %s", want)
			}
		}
	}
	await("default/web=192.0.2.1:80")
	for i := 2; ; i++ {
		old, web := fmt.Sprintf("default/slow=192.0.2.%d:80", i-1), fmt.Sprintf("192.0.2.%d", i)
		replace(t, filepath.Join(dir, "slow.yaml"), one("slow", fmt.Sprintf("192.0.2.%d", i-1)))
		await(old)
		mu.Lock()
		clear(halves)
		mu.Unlock()
		replace(t, filepath.Join(dir, "web.yaml"), one("web", web))
		steady, want := writeSlowly(t, filepath.Join(dir, "slow.yaml"))
		await(want)
		await("default/web=" + web + ":80")
		if !steady && i < 20 {
			continue
		} else if !steady {
			t.Log("this host is too busy to write without a pause: halves may be seen here (TestWait shows when they may not)")
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for seen := range halves {
			if seen != old && seen != want {
				t.Errorf("got %s, which is the half of it", seen)
			}
		}
		return
	}
}

// writeSlowly writes a file that has one service at any time, with ever more endpoints, for longer than other files are
// waited for, and says how the service reads. It is not steady if it paused for as long as a writer does that has
// ended, or took as long as no file is waited for.
func writeSlowly(t *testing.T, path string) (steady bool, want string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want = "default/slow="
	text := "service: slow\nport: 80\nendpoints:\n- address: 192.0.2.10\n"
	start, longest := time.Now(), time.Duration(0)
	for i := range 35 {
		began := time.Now()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		want += fmt.Sprintf("192.0.2.%d:80,", 10+i)
		text = fmt.Sprintf("- address: 192.0.2.%d\n", 11+i)
		time.Sleep(10 * time.Millisecond)
		longest = max(longest, time.Since(began))
	}
	return longest < 40*time.Millisecond && time.Since(start) < 900*time.Millisecond, strings.TrimSuffix(want, ",")
}
