// Package testbed builds and runs the real servers that tests stand against.
//
// A server is built once, from the nested Go module of its name in this folder, into the user's cache directory, and
// is found there by the hash of all that went into it. Parallel test binaries share one build. ZooKeeper and BIND are
// Debian's packages instead. Nothing but InNamespace needs root, every server listens on loopback at free ports and
// ends with the process that started it. A Link makes the way to a server fail.
package testbed

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const modulePath = "github.com/hostmesh/hostmesh"

// goFlags are the arguments of every build. Stripping makes the link, the longest step, faster.
var goFlags = [...]string{"-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags=-s -w"}

// Servers returns the names that Build knows, in the order in which they are best built. One of them is a client: h2spec.
func Servers() []string { return []string{"h2spec", "coredns", "consul", "etcd", "kube-apiserver"} }

// Build returns the path of the server's executable, after building it if this machine has not got it. A cold build
// takes minutes and says so on stderr; a second caller, in whatever process, waits for the first.
func Build(ctx context.Context, name string) (string, error) {
	if !slices.Contains(Servers(), name) {
		return "", fmt.Errorf("build %s: unknown server, want one of %s", name, strings.Join(Servers(), ", "))
	}
	path, err := build(ctx, name)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return path, nil
}

func build(ctx context.Context, name string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	source := filepath.Join(root, "e2e", "testbed", name)
	key, err := contentKey(source)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "hostmesh", "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, name+"."+key)
	if executable(path) {
		return path, nil
	}
	unlock, err := lock(ctx, filepath.Join(dir, "."+name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if executable(path) {
		return path, nil // another process built it while we waited
	}
	tmp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	defer os.Remove(tmp)
	if err := goBuild(ctx, source, tmp); err != nil {
		return "", err
	}
	return path, os.Rename(tmp, path)
}

// goBuild compiles the module in source to out and tells every half minute that it is still at it.
func goBuild(ctx context.Context, source, out string) error {
	name, began := filepath.Base(source), time.Now()
	fmt.Fprintf(os.Stderr, "testbed: building %s, once on this machine; it takes some minutes\n", name)
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, goFlags[:]...), "-o", out, ".")...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOTOOLCHAIN=local", "GOGC=400")
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("go build in %s: %w\n%s", source, err, strings.TrimSpace(output.String()))
			}
			fmt.Fprintf(os.Stderr, "testbed: %s built in %s\n", name, time.Since(began).Round(time.Second))
			return nil
		case <-tick.C:
			fmt.Fprintf(os.Stderr, "testbed: still building %s, %s\n", name, time.Since(began).Round(time.Second))
		}
	}
}

// contentKey names all that decides what the build yields.
func contentKey(source string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH, goFlags)
	files, err := filepath.Glob(filepath.Join(source, "*"))
	if err != nil {
		return "", err
	}
	count := 0
	for _, file := range files {
		if base := filepath.Base(file); base != "go.mod" && base != "go.sum" && filepath.Ext(file) != ".go" {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, filepath.Base(file), len(data))
		h.Write(data)
		count++
	}
	if count == 0 {
		return "", fmt.Errorf("read %s: no Go module there", source)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), nil
}

// moduleRoot finds this repository from the working directory, which for a test is its package's folder.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		data, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(data), "module "+modulePath+"\n") {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find %s: no go.mod of it at or above %s", modulePath, start)
		}
	}
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// lock takes the file lock at path, which ends with this process at the latest, and returns what gives it back.
func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, context.Cause(ctx))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
