package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

func TestPermission(t *testing.T) {
	var f files
	err := f.refused(&fs.PathError{Op: "open", Path: "static.d", Err: syscall.EACCES})
	if !errors.Is(err, registry.ErrPermission) || !errors.Is(err, syscall.EACCES) {
		t.Errorf("got %v, want ErrPermission and its cause", err)
	}
	if err := f.refused(fs.ErrNotExist); errors.Is(err, registry.ErrPermission) {
		t.Errorf("got %v, want no ErrPermission", err)
	}
}

// TestDirectoryMovedAwayWhileRead: a directory that is moved away between its listing and the reading of its files takes none of them
// with it. Either it is not there, or all of it is.
func TestDirectoryMovedAwayWhileRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "static.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const services = 20
	for i := range services {
		text := fmt.Sprintf("service: web-%d\nport: 80\nendpoints:\n- address: 192.0.2.1\n", i)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	var moving sync.WaitGroup
	moving.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := errors.Join(os.Rename(dir, dir+".away"), os.Rename(dir+".away", dir)); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(50 * time.Microsecond)
		}
	})
	defer moving.Wait()
	defer close(done)
	f := &files{path: dir, known: map[string]*content{}}
	whole, failed := 0, 0
	for range 3000 {
		view, _, err := f.read(nil)
		switch {
		case err != nil:
			failed++
		case len(view.Services) != services:
			t.Fatalf("got %d services, want %d or an error; %d and %d times so far", len(view.Services), services, whole, failed)
		default:
			whole++
		}
	}
	if whole == 0 {
		t.Error("it was never read")
	}
	t.Logf("read %d times, not there %d times", whole, failed)
}
