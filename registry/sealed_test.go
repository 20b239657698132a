package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostmesh/hostmesh/internal/seal"
	"github.com/hostmesh/hostmesh/registry"
)

// away is a registry that cannot be reached.
var errAway = errors.New("connection refused")

func away() registry.Registry {
	return watchFunc(func(context.Context, func(registry.View)) error { return errAway })
}

func TestSealedViewsAreServedWhenAllRegistriesAreAway(t *testing.T) {
	dir := t.TempDir()
	names := []string{"dc1", "../../etc/passwd %*", strings.Repeat("x", 300)}
	var before *registry.Snapshot
	synctest.Test(t, func(t *testing.T) {
		var sources []registry.Source
		var scripts []script
		for _, name := range names {
			s := make(script)
			scripts, sources = append(scripts, s), append(sources, source(name, s))
		}
		c := newCatalog(t, registry.Options{StateDir: dir}, sources...)
		stop := start(t, c)
		for i, s := range scripts {
			v := view(i+1, "web", "web-"+strconv.Itoa(i))
			v.Problems = []registry.Problem{{Object: "o", Reason: "r"}}
			s.publish(v)
		}
		time.Sleep(time.Second)
		stop()
		before = current(c)
	})
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != len(names)+1 {
		t.Errorf("files %v, want one for each source and the number", files)
	}

	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Minute)
		var sources []registry.Source
		for _, name := range names {
			sources = append(sources, source(name, away()))
		}
		c := newCatalog(t, registry.Options{StateDir: dir}, sources...)
		after := current(c)
		if after.Number <= before.Number {
			t.Errorf("number %d after the restart, want more than %d", after.Number, before.Number)
		}
		if d := cmp.Diff(before.Services, after.Services, cmpopts.EquateComparable(registry.Endpoint{}.Addr), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("services after the restart (-before +after):\n%s", d)
		}
		s := c.Sources()[0]
		if s.State != registry.Stale || !s.FromSeal || s.SealRefused != "" || s.Services != 2 || len(s.Problems) != 1 || time.Since(s.LastView) < 50*time.Second {
			t.Errorf("status %+v, want stale from the seal, of when it was published", s)
		}
		defer start(t, c)()
		time.Sleep(time.Second)
		if ready, _ := c.Ready(); ready {
			t.Error("ready by sealed views alone, before the grace ended")
		}
		if s := c.Sources()[0]; s.State != registry.Stale || s.Error != errAway.Error() {
			t.Errorf("status %+v", s)
		}
	})
}

func TestLiveViewTakesOverFromTheSealedOne(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := make(script)
		stop := start(t, newCatalog(t, registry.Options{StateDir: dir}, source("a", a)))
		a.publish(view(2, "web"))
		stop()
		c := newCatalog(t, registry.Options{StateDir: dir}, source("a", a))
		defer start(t, c)()
		sealed := current(c)
		a.publish(view(2, "web"))
		time.Sleep(time.Second)
		if s := c.Sources()[0]; s.State != registry.Synced || s.FromSeal {
			t.Errorf("status %+v, want synced, not from the seal", s)
		}
		if ready, reason := c.Ready(); !ready {
			t.Errorf("not ready: %s", reason)
		}
		if current(c) != sealed {
			t.Error("a live view that says what the sealed one said made a new snapshot")
		}
	})
}

func TestSealedViewOfASourceThatIsNoMoreIsIgnored(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a, b := make(script), make(script)
		stop := start(t, newCatalog(t, registry.Options{StateDir: dir}, source("a", a), source("b", b)))
		a.publish(view(1, "api"))
		b.publish(view(1, "web"))
		stop()
	})
	c := newCatalog(t, registry.Options{StateDir: dir}, source("b", away()))
	if s := current(c).Services; len(s) != 1 || s[0].Name.Name != "web" {
		t.Errorf("services %v, want those of b alone", s)
	}
	// It is there again when the source is, and the order is the new one.
	c = newCatalog(t, registry.Options{StateDir: dir}, source("b", away()), source("a", away()))
	if s := c.Sources(); len(current(c).Services) != 2 || s[0].Name != "b" || !s[1].FromSeal {
		t.Errorf("%d services of %+v, want both", len(current(c).Services), s)
	}
}

func TestSealedFileThatCannotBeTrustedIsRefusedWhole(t *testing.T) {
	good := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := make(script)
		stop := start(t, newCatalog(t, registry.Options{StateDir: good}, source("a", a)))
		a.publish(view(2, "api", "web"))
		stop()
	})
	whole, err := os.ReadFile(filepath.Join(good, "view-a"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := seal.Open(whole, "view", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		put  func(path string) error
		want string
	}{
		{"torn", func(path string) error { return os.WriteFile(path, whole[:len(whole)/2], 0o600) }, "it is torn"},
		{"foreign", func(path string) error { return os.WriteFile(path, []byte("{}\n"), 0o600) }, "not a sealed file"},
		{"of another kind of file", func(path string) error { return seal.Write(path, "config", 1, payload) }, `it holds "config"`},
		{"newer", func(path string) error { return seal.Write(path, "view", 2, payload) }, "version 2 of view, want 1"},
		{"no JSON", func(path string) error { return seal.Write(path, "view", 1, payload[1:]) }, "decode view"},
		{"of another source", func(path string) error {
			return seal.Write(path, "view", 1, bytes.Replace(payload, []byte(`"source":"a"`), []byte(`"source":"b"`), 1))
		}, `of registry "b"`},
		{"of another kind of registry", func(path string) error {
			return seal.Write(path, "view", 1, bytes.Replace(payload, []byte(`"kind":"script"`), []byte(`"kind":"etcd"`), 1))
		}, "(etcd)"},
		{"not valid", func(path string) error {
			return seal.Write(path, "view", 1, bytes.Replace(payload, []byte(`"name":"web"`), []byte(`"name":"aaa"`), 1))
		}, "want sorted by name"},
		{"a directory", func(path string) error { return os.Mkdir(path, 0o700) }, "is a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.put(filepath.Join(dir, "view-a")); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			catalog := newCatalog(t, registry.Options{StateDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}, source("a", away()))
			s := catalog.Sources()[0]
			if len(current(catalog).Services) != 0 || s.FromSeal || s.State != registry.Connecting {
				t.Errorf("%d services, %+v: want nothing of the file", len(current(catalog).Services), s)
			}
			if !strings.Contains(s.SealRefused, c.want) || !strings.Contains(log.String(), "sealed view refused") {
				t.Errorf("refused for %q, want %q; log %s", s.SealRefused, c.want, log.String())
			}
		})
	}
}

func TestSealedAtMostEverySealEveryAndOnlyChanges(t *testing.T) {
	dir := t.TempDir()
	sealed := func() (v struct{ Services []*registry.Service }, at time.Time) {
		path := filepath.Join(dir, "view-a")
		payload, err := seal.Read(path, "view", 1)
		if err != nil {
			return
		}
		if err := json.Unmarshal(payload, &v); err != nil {
			t.Fatal(err)
		}
		info, _ := os.Stat(path)
		return v, info.ModTime()
	}
	synctest.Test(t, func(t *testing.T) {
		a := make(script)
		stop := start(t, newCatalog(t, registry.Options{StateDir: dir, SealEvery: 5 * time.Second}, source("a", a)))
		a.publish(view(1, "web"))
		time.Sleep(time.Millisecond)
		synctest.Wait()
		first, firstAt := sealed()
		if len(first.Services) != 1 {
			t.Fatal("the first view is not sealed at once")
		}
		for n := 2; n <= 4; n++ {
			a.publish(view(n, "web"))
			time.Sleep(time.Second)
		}
		if _, at := sealed(); !at.Equal(firstAt) {
			t.Error("sealed again before SealEvery")
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		v, at := sealed()
		if len(v.Services) != 1 || len(v.Services[0].Endpoints) != 4 {
			t.Fatalf("sealed %+v, want the last view", v)
		}
		time.Sleep(time.Minute)
		a.publish(registry.View{Services: nil})
		time.Sleep(time.Second)
		if _, again := sealed(); !again.Equal(at) {
			t.Error("sealed again without a change, or too early")
		}
		stop()
		if v, _ := sealed(); len(v.Services) != 0 {
			t.Errorf("%d services sealed after the stop, want what was published last", len(v.Services))
		}
	})
}

func TestSettledOnlyWhenNothingIsMissing(t *testing.T) {
	dir := t.TempDir()
	settled := func(c *registry.Catalog) bool {
		synctest.Wait()
		select {
		case <-c.Settled():
			return true
		default:
			return false
		}
	}
	synctest.Test(t, func(t *testing.T) {
		a, b := make(script), make(script)
		catalog := newCatalog(t, registry.Options{StateDir: dir, Grace: 10 * time.Second}, source("a", a), source("b", b))
		stop := start(t, catalog)
		a.publish(view(1, "web"))
		time.Sleep(time.Second)
		if settled(catalog) {
			t.Error("settled although b has never spoken")
		}
		b.publish(registry.View{})
		time.Sleep(time.Second)
		if !settled(catalog) || len(current(catalog).Services) != 1 {
			t.Error("not settled although both have spoken, or without a's view")
		}
		stop()

		catalog = newCatalog(t, registry.Options{StateDir: dir}, source("a", make(script)), source("b", make(script)))
		if !settled(catalog) {
			t.Error("not settled although both have a sealed view")
		}

		catalog = newCatalog(t, registry.Options{Grace: 10 * time.Second}, source("a", make(script)))
		stop = start(t, catalog)
		time.Sleep(9 * time.Second)
		if settled(catalog) {
			t.Error("settled before the grace has ended")
		}
		time.Sleep(2 * time.Second)
		if !settled(catalog) {
			t.Error("not settled although the grace has ended")
		}
		stop()
	})
}

func TestDirectoryThatCannotBeWrittenIsToldAndServingGoesOn(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(blocked, "state")
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a := make(script)
		c := newCatalog(t, registry.Options{StateDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}, source("a", a))
		stop := start(t, c)
		first := current(c).Number
		for n := 1; n <= 3; n++ {
			a.publish(view(n, "web"))
			time.Sleep(10 * time.Second)
		}
		if _, n := count(c); n != 3 || current(c).Number <= first {
			t.Errorf("%d endpoints, number %d after %d: want that serving goes on", n, current(c).Number, first)
		}
		if s := c.Sources()[0]; !strings.Contains(s.SealError, "not a directory") || s.State != registry.Synced {
			t.Errorf("status %+v, want synced, not sealed", s)
		}
		if err := os.Remove(blocked); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if s := c.Sources()[0]; s.SealError != "" {
			t.Errorf("status %+v, want sealed once the directory can be written", s)
		}
		stop()
		if n := strings.Count(log.String(), "view not sealed"); n != 1 {
			t.Errorf("told %d times, want once:\n%s", n, log.String())
		}
	})
}

func TestNumbersNeverRepeat(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCatalog(t, registry.Options{StateDir: dir})
		crashed := newCatalog(t, registry.Options{StateDir: dir}) // the first never ran, nor stopped
		if current(crashed).Number <= current(c).Number {
			t.Errorf("number %d after a crash at %d", current(crashed).Number, current(c).Number)
		}
		start(t, crashed)()
		again := newCatalog(t, registry.Options{StateDir: dir})
		if current(again).Number != current(crashed).Number+1 {
			t.Errorf("number %d after a stop at %d, want the next: nothing is lost on a stop", current(again).Number, current(crashed).Number)
		}
		time.Sleep(time.Hour)
		if n := current(newCatalog(t, registry.Options{StateDir: dir})).Number; n != uint64(time.Now().Unix()) {
			t.Errorf("number %d an hour later, want the Unix time %d", n, time.Now().Unix())
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "number"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if n := current(newCatalog(t, registry.Options{StateDir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))})).Number; n < uint64(time.Now().Unix())-1 || !strings.Contains(log.String(), "refused") {
		t.Errorf("number %d, log %q: want the time, and that the file is refused", n, log.String())
	}
}

// TestNumbersStayComparable shows that a clock which says a time so far ahead that an SOA serial would go back (RFC 1982) is not
// believed, and that one which is set back does not count.
func TestNumbersStayComparable(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		last := current(newCatalog(t, registry.Options{StateDir: dir})).Number
		for _, wait := range []time.Duration{time.Second, 67 * 365 * 24 * time.Hour, 69 * 365 * 24 * time.Hour, time.Hour} {
			time.Sleep(wait)
			n := current(newCatalog(t, registry.Options{StateDir: dir})).Number
			if int32(uint32(n)-uint32(last)) <= 0 {
				t.Errorf("after %s the serial is %d, %d before", wait, uint32(n), uint32(last))
			}
			last = n
		}
	})
}

// TestRenumber shows that a snapshot can be had that differs by its number alone.
func TestRenumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCatalog(t, registry.Options{})
		defer start(t, c)()
		synctest.Wait()
		time.Sleep(time.Minute)
		before, changed := c.Current()
		c.Renumber()
		<-changed
		after := current(c)
		if after.Number <= before.Number || len(after.Services) != len(before.Services) {
			t.Errorf("%+v after %+v", after, before)
		}
		time.Sleep(time.Minute)
		if n := current(c).Number; n != after.Number {
			t.Errorf("number %d later, want %d to stay", n, after.Number)
		}
	})
}

const churnVariable = "REGISTRY_TEST_CHURN"

// TestSIGKILLLosesNoNumber runs itself as a process that prints the number of each snapshot it serves, kills that
// while it churns, several times, and wants every number to be greater than the one before.
func TestSIGKILLLosesNoNumber(t *testing.T) {
	if dir := os.Getenv(churnVariable); dir != "" {
		churn(t, dir)
		return
	}
	dir := t.TempDir()
	last := uint64(0)
	for round := range 4 {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSIGKILLLosesNoNumber$")
		child.Env = append(os.Environ(), churnVariable+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		killed := false
		for n := 0; lines.Scan(); n++ {
			number, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				continue
			}
			if number <= last {
				t.Errorf("round %d: number %d after %d", round, number, last)
			}
			last = number
			if n == 250 {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				killed = true
			}
		}
		if err := child.Wait(); !killed {
			t.Fatalf("the child ended by itself: %v", err)
		}
	}
	if last == 0 {
		t.Fatal("no number seen")
	}
	if err := os.WriteFile(filepath.Join(dir, ".view-a.123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := newCatalog(t, registry.Options{StateDir: dir}, source("a", away()))
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("files %v, want that what the kills left half-written is gone", files)
	}
	if n := current(c).Number; n <= last {
		t.Errorf("number %d after the last kill at %d", n, last)
	}
	if s := c.Sources()[0]; !s.FromSeal || s.SealRefused != "" {
		t.Errorf("status %+v, want what was sealed before the kill", s)
	}
}

func churn(t *testing.T, dir string) {
	c := newCatalog(t, registry.Options{StateDir: dir, Interval: time.Nanosecond, SealEvery: time.Millisecond}, source("a", watchFunc(
		func(ctx context.Context, publish func(registry.View)) error {
			for n := 0; ctx.Err() == nil; n++ {
				publish(view(n%50+1, "web"))
				time.Sleep(100 * time.Microsecond)
			}
			return ctx.Err()
		})))
	go func() { _ = c.Run(t.Context()) }()
	for {
		s, changed := c.Current()
		fmt.Println(s.Number)
		<-changed
	}
}
