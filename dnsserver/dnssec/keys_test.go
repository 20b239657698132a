package dnssec

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/internal/seal"
)

// What is published of a key is what another implementation makes of it.
func TestKeysAndTheirDS(t *testing.T) {
	keys := testKeys(t, t.TempDir())
	status := keys.Status()
	if len(status) != 2 || status[0].Role != KSK || status[1].Role != ZSK {
		t.Fatalf("keys are %+v", status)
	}
	for _, s := range status {
		rr := parse(t, s.Zone+" 3600 IN DNSKEY "+s.DNSKEY)[0].(*dns.DNSKEY)
		if rr.KeyTag() != s.Tag || rr.Algorithm != dns.ECDSAP256SHA256 || rr.Protocol != 3 {
			t.Errorf("key %d is %v with tag %d", s.Tag, rr, rr.KeyTag())
		}
		if s.Role == ZSK {
			if s.DS != "" {
				t.Errorf("zsk has the DS %q", s.DS)
			}
			continue
		}
		ds := rr.ToDS(dns.SHA256)
		if got := parse(t, s.Record())[0]; !strings.EqualFold(got.String(), ds.String()) {
			t.Errorf("DS is %v, want %v", got, ds)
		}
		if want := "mesh.internal static-ds "; !strings.HasPrefix(s.BINDAnchor(), want) || !strings.Contains(s.UnboundAnchor(), `"mesh.internal. IN DS `) {
			t.Errorf("anchors are %s and %s", s.BINDAnchor(), s.UnboundAnchor())
		}
		ring := keys.Ring()
		if got := rrsOf(t, ring.Apex()[1].Set)[0]; !strings.EqualFold(got.String(), ds.ToCDS().String()) {
			t.Errorf("CDS is %v, want %v", got, ds.ToCDS())
		}
	}
}

func TestKeysOutliveTheirProgram(t *testing.T) {
	dir := t.TempDir()
	before := testKeys(t, dir)
	if err := before.Roll(ZSK); err != nil {
		t.Fatal(err)
	}
	after := testKeys(t, dir)
	if diff := cmp.Diff(before.Status(), after.Status()); diff != "" || len(after.Status()) != 3 {
		t.Error(diff)
	}
	info, err := os.Stat(KeyPath(dir, "mesh.internal"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if err := os.Chmod(KeyPath(dir, "mesh.internal"), 0o644); err != nil {
		t.Fatal(err)
	}
	testKeys(t, dir)
	if info, _ := os.Stat(KeyPath(dir, "mesh.internal")); info.Mode().Perm() != 0o600 {
		t.Errorf("others can read the file: %v", info.Mode())
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("the directory has %v, %v", left, err)
	}
}

// A file that cannot be used is refused by name and left as it is.
func TestKeysThatAreDamagedAreRefused(t *testing.T) {
	good := t.TempDir()
	testKeys(t, good)
	whole, err := os.ReadFile(KeyPath(good, "mesh.internal"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := seal.Open(whole, sealKind, sealVersion)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(edit func(string) string) []byte {
		path := filepath.Join(t.TempDir(), "x")
		if err := seal.Write(path, sealKind, sealVersion, []byte(edit(string(payload)))); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for name, data := range map[string][]byte{
		"torn":                whole[:len(whole)-10],
		"empty":               nil,
		"no JSON":             sealed(func(string) string { return "x" }),
		"of another zone":     sealed(func(s string) string { return strings.Replace(s, "mesh.internal.", "other.", 1) }),
		"of no role":          sealed(func(s string) string { return strings.Replace(s, `"ksk"`, `"csk"`, 1) }),
		"of no state":         sealed(func(s string) string { return strings.Replace(s, `"active"`, `"asleep"`, 1) }),
		"a key of three keys": sealed(func(s string) string { return strings.Replace(s, `"private":"`, `"private":"AAAA`, 1) }),
		"another key's tag":   sealed(func(s string) string { return strings.Replace(s, `"tag":`, `"tag":1`, 1) }),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := KeyPath(dir, "mesh.internal")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenKeys(dir, "mesh.internal", Policy{}, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), "dnssec-mesh.internal.keys") {
				t.Errorf("got %v, want an error that names the file", err)
			}
			if after, err := os.ReadFile(path); err != nil || !slices.Equal(after, data) {
				t.Errorf("the file has changed (%v)", err)
			}
		})
	}
}

// What is not on disk is not published.
func TestKeysThatCannotBeWrittenChangeNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	k := testKeys(t, dir)
	before, ring := k.Status(), k.Ring()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := k.Roll(KSK); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Roll: %v", err)
	}
	if diff := cmp.Diff(before, k.Status()); diff != "" || k.Ring() != ring {
		t.Errorf("keys have changed: %s", diff)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := k.Roll(KSK); err != nil || len(k.Status()) != 3 {
		t.Errorf("Roll again: %v, %+v", err, k.Status())
	}
	if _, err := OpenKeys(filepath.Join(dir, "none"), "mesh.internal", Policy{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("keys were made that are nowhere")
	}
}

// TestRun has time pass as a program sees it, with a wall clock that is irrelevant.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		k := testKeys(t, dir)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		defer func() { cancel(); <-done }() // it writes at its end
		first := k.Status()
		time.Sleep(90*24*time.Hour + time.Hour)
		states := map[State]int{}
		for _, s := range k.Status() {
			if s.Role == ZSK {
				states[s.State]++
			}
		}
		if diff := cmp.Diff(map[State]int{Active: 1, Retired: 1}, states); diff != "" {
			t.Error(diff)
		}
		time.Sleep(16 * 24 * time.Hour)
		last := k.Status()
		if len(last) != 2 || last[0].Tag != first[0].Tag || last[1].Tag == first[1].Tag {
			t.Errorf("after 106 days: %+v; at first %+v", last, first)
		}
		again := testKeys(t, dir).Status()
		if d := last[1].In - again[1].In; again[1].Tag != last[1].Tag || d < 0 || d > 2*time.Hour {
			t.Errorf("on disk: %+v, want %+v", again, last)
		}
	})
}

// TestShortRunsCount has a program that never runs for an hour roll its ZSK as soon as one that always does.
func TestShortRunsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		first := testKeys(t, dir).Status()
		const runs, each = 40, 50*time.Minute + 30*time.Second
		for range runs {
			ctx, cancel := context.WithTimeout(t.Context(), each)
			if err := testKeys(t, dir).Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("Run: %v", err)
			}
			cancel()
		}
		last := testKeys(t, dir).Status()
		if len(last) != len(first) || last[1].Tag != first[1].Tag || last[1].In < runs*each-runs*time.Second || last[1].In > runs*each {
			t.Errorf("after %d runs of %v: %+v, want an age of %v", runs, each, last, runs*each)
		}
	})
}

func TestKSKRollover(t *testing.T) {
	k := testKeys(t, t.TempDir())
	old := k.Status()[0].Tag
	tags := func(rtype uint16) (tags []uint16) {
		for _, set := range k.Ring().Apex() {
			for _, rr := range rrsOf(t, set.Set) {
				switch rr := rr.(type) {
				case *dns.CDS:
					if rtype == dns.TypeCDS {
						tags = append(tags, rr.KeyTag)
					}
				case *dns.CDNSKEY:
					if rtype == dns.TypeCDNSKEY {
						tags = append(tags, rr.KeyTag())
					}
				case *dns.DNSKEY:
					if rtype == dns.TypeDNSKEY && rr.Flags&1 != 0 {
						tags = append(tags, rr.KeyTag())
					}
				}
			}
		}
		return tags
	}
	expect := func(when string, dnskeys int, parent ...uint16) {
		t.Helper()
		now := time.Unix(1_800_000_000, 0)
		if len(tags(dns.TypeDNSKEY)) != dnskeys || !slices.Equal(tags(dns.TypeCDS), parent) || !slices.Equal(tags(dns.TypeCDNSKEY), parent) {
			t.Errorf("%s: DNSKEY %v, CDS %v, CDNSKEY %v; want %d and %v", when, tags(dns.TypeDNSKEY), tags(dns.TypeCDS), tags(dns.TypeCDNSKEY), dnskeys, parent)
		}
		// Whoever trusts either key can verify all three sets.
		for _, set := range k.Ring().Apex() {
			rrsigs, err := NewSigner(k.Ring, 0).Sign(set.Slot, set.Set, now, nil)
			if err != nil || len(rrsigs) != dnskeys {
				t.Fatalf("%s: %d signatures of %d, %v", when, len(rrsigs), set.Type, err)
			}
			check(t, k.Ring(), set.Set, rrsigs, now)
		}
	}
	pass := func(d time.Duration) {
		t.Helper()
		if err := k.change(func(l *life) ([]string, error) { return l.step(d) }); err != nil {
			t.Fatal(err)
		}
	}
	expect("at first", 1, old)
	if err := k.Roll(KSK); err != nil {
		t.Fatal(err)
	}
	next := k.Status()[1].Tag
	expect("published", 2, old)
	for _, tag := range []uint16{next, old, 1} {
		if err := k.DSSeen(tag); err == nil {
			t.Errorf("the DS of %d is taken as seen", tag)
		}
	}
	if err := k.Roll(KSK); err == nil {
		t.Error("a second rollover begins within the first")
	}
	pass(time.Hour)
	expect("an hour later", 2, old)
	pass(time.Hour)
	expect("ready", 2, next)
	pass(1000 * time.Hour)
	expect("nobody has the DS", 2, next)
	if err := k.DSSeen(next); err != nil {
		t.Fatal(err)
	}
	expect("active", 2, next)
	pass(49 * time.Hour)
	expect("the old DS is in caches", 2, next)
	pass(time.Hour)
	expect("done", 1, next)
	if s := k.Status(); len(s) != 2 && s[0].Tag != next {
		t.Errorf("keys are %+v", s)
	}
}

// TestRolloversAgainstCaches lets time pass in steps of any length, with rollovers asked for at any moment, and looks at each key
// as resolvers with the longest caches see it.
func TestRolloversAgainstCaches(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		policy := Policy{ZSKLifetime: 30 * 24 * time.Hour, KSKLifetime: 50 * 24 * time.Hour}.withDefaults()
		l := &life{policy: policy, rolling: map[Role]bool{}, fresh: generate}
		var now time.Duration
		type seen struct{ published, signing, parent time.Duration } // first published, last signing, last with the parent
		history := map[uint16]*seen{}
		atParent := uint16(0)
		for range 300 {
			elapsed := time.Duration(r.Int64N(int64(60 * time.Hour)))
			now += elapsed
			if _, err := l.step(elapsed); err != nil {
				t.Fatal(err)
			}
			present := map[uint16]bool{}
			for _, e := range l.entries {
				tag := e.key.tag
				present[tag] = true
				h := history[tag]
				if h == nil {
					h = &seen{published: now, signing: -1, parent: -1}
					history[tag] = h
				}
				if e.Role == ZSK && e.State == Active {
					if h.signing < 0 && len(history) > 2 && now-h.published < policy.TTL+policy.Propagation {
						t.Errorf("seed %d: zsk %d signs %v after it was published", seed, tag, now-h.published)
					}
					h.signing = now
				}
				if e.Role == KSK && e.State == Active && atParent == 0 {
					atParent = tag
				}
				if e.Role == KSK && e.State == Ready && r.IntN(4) == 0 {
					if now-h.published < policy.TTL+policy.Propagation {
						t.Errorf("seed %d: ksk %d goes to the parent %v after it was published", seed, tag, now-h.published)
					}
					if err := l.dsSeen(tag); err != nil {
						t.Fatal(err)
					}
					atParent = tag
				}
			}
			if !present[atParent] {
				t.Fatalf("seed %d: the parent's DS points to %d, which is gone", seed, atParent)
			}
			history[atParent].parent = now
			for tag, h := range history {
				if present[tag] {
					continue
				}
				if h.signing >= 0 && now-h.signing < policy.Signatures+policy.TTL || h.parent >= 0 && now-h.parent < policy.ParentTTL {
					t.Errorf("seed %d: key %d is gone too early: %+v at %v", seed, tag, h, now)
				}
				delete(history, tag)
			}
			if r.IntN(30) == 0 {
				_ = l.roll([]Role{KSK, ZSK}[r.IntN(2)])
			}
		}
		if n := len(l.entries); n > 8 {
			t.Errorf("seed %d: %d keys", seed, n)
		}
	}
}
