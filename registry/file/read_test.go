package file

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"

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
