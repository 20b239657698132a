package loopback

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/seal"
	"github.com/hostmesh/hostmesh/internal/watch"
	"github.com/hostmesh/hostmesh/proxy/config"
)

func listener(name, addr string, ports ...uint16) *config.Listener {
	l := &config.Listener{Name: name}
	for _, p := range ports {
		l.Addresses = append(l.Addresses, netip.AddrPortFrom(netip.MustParseAddr(addr), p))
	}
	return l
}

func told(listeners ...*config.Listener) *config.Config { return &config.Config{Listeners: listeners} }

// bed is an Addresses with what it is told.
type bed struct {
	*Addresses
	from  *watch.Value[*config.Config]
	named []string
	taken map[uint16]string
}

func newBed(t *testing.T, dir string, cfg *config.Config, steered bool, named ...string) *bed {
	t.Helper()
	b := &bed{from: watch.New(cfg), named: named}
	b.Addresses = New(Options{
		Config: b.from, StateDir: dir, Steered: steered, Log: slog.New(slog.DiscardHandler),
		Named: func(s string) bool { return slices.Contains(b.named, s) }, Taken: func() map[uint16]string { return b.taken },
	})
	return b
}

// addresses are where the listeners are, by name.
func (b *bed) addresses() map[string]string {
	all := map[string]string{}
	for _, l := range b.Config().Load().Listeners {
		for _, at := range l.Addresses {
			all[l.Name] = strings.TrimSpace(all[l.Name] + " " + at.String())
		}
	}
	return all
}

func (b *bed) want(t *testing.T, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, b.addresses()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAddresses(t *testing.T) {
	dir := t.TempDir()
	out, web := listener("outbound", "127.0.0.1", 15001), listener("web", "127.64.0.1", 80, 81)
	first := told(out, web)
	b := newBed(t, dir, first, false)
	if got := b.Config().Load(); got.Listeners[0] != out || got.Listeners[1] != web {
		t.Error("listeners where they wish to be are not passed on as they are")
	}
	// The second that wishes for the address has another one, with all its ports, and keeps it.
	other := listener("other", "127.64.0.1", 80, 90)
	moved := another("other", 1).String()
	b.take(told(other, out, web), time.Now())
	want := map[string]string{"outbound": "127.0.0.1:15001", "web": "127.64.0.1:80 127.64.0.1:81", "other": moved + ":80 " + moved + ":90"}
	b.want(t, want)
	before := b.Config().Load().Listeners[0]
	b.take(told(other, out, web, listener("z", "127.64.0.9", 1)), time.Now())
	if b.Config().Load().Listeners[0] != before {
		t.Error("a listener that did not change lost its pointer")
	}
	// After a restart each has what it had, whoever comes first.
	b = newBed(t, dir, told(other, out), false)
	b.want(t, map[string]string{"outbound": want["outbound"], "other": want["other"]})
	if got := b.Names(); !slices.Equal(got, []string{"other", "web", "z"}) {
		t.Errorf("remembers %q", got)
	}
	b.take(told(other, out, web), time.Now())
	b.want(t, want)
}

func TestAddressesAreNobodyElsesFor90Days(t *testing.T) {
	dir, day := t.TempDir(), 24*time.Hour
	now := time.Now()
	web, heir := listener("web", "127.64.0.1", 80), listener("heir", "127.64.0.1", 80)
	b := newBed(t, dir, told(web), false)
	absent := &config.Config{Absent: map[string]bool{"web": true}}
	b.take(absent, now)
	b.take(absent, now.Add(80*day)) // it is gone since then, not anew
	if len(b.Names()) != 0 {
		t.Errorf("asks for %q", b.Names())
	}
	b = newBed(t, dir, told(), false)
	b.take(&config.Config{Listeners: []*config.Listener{heir}, Absent: absent.Absent}, now.Add(89*day))
	if got := b.addresses()["heir"]; got == "127.64.0.1:80" {
		t.Error("another service has the address after 89 days")
	}
	// The service that comes back has it again; gone again, it is so from then on.
	b.take(told(web), now.Add(89*day))
	b.want(t, map[string]string{"web": "127.64.0.1:80"})
	b.take(absent, now.Add(90*day))
	b.take(absent, now.Add(179*day))
	if b.table.owner(netip.MustParseAddr("127.64.0.1")) != "web" {
		t.Error("forgotten after 89 days")
	}
	b.take(absent, now.Add(180*day))
	b.take(told(listener("third", "127.64.0.1", 80)), now.Add(180*day))
	b.want(t, map[string]string{"third": "127.64.0.1:80"})
	// It is as well forgotten when it is read.
	if got := openTable(dir, slog.New(slog.DiscardHandler), now.Add(400*day)).names(); !slices.Equal(got, []string{"heir", "third"}) {
		t.Errorf("remembers %q", got)
	}
}

func TestPortsThatOthersWant(t *testing.T) {
	web, db := listener("web", "127.64.0.1", 80, 8080), listener("db", "127.64.0.2", 5432)
	for _, c := range []struct {
		name    string
		steered bool
		named   []string
		want    []string
	}{
		{"bound", false, nil, []string{"db"}},
		{"bound, and named", false, []string{"web"}, []string{"db", "web"}},
		{"steered", true, nil, []string{"db", "web"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, "", told(), c.steered, c.named...)
			b.taken = map[uint16]string{8080: "the service shop of this host has it"}
			b.take(told(db, web), time.Now())
			var got []string
			for _, l := range b.Config().Load().Listeners {
				got = append(got, l.Name)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("serves %q, want %q", got, c.want)
			}
			why := b.Withheld("web")
			if (why == "") != slices.Contains(c.want, "web") || why != "" && !strings.Contains(why, "8080") && !strings.Contains(why, "shop") {
				t.Errorf("withheld: %q", why)
			}
		})
	}
}

// TestPortsThatCannotBeBound are left alone from then on, after a restart too, but for services that the operator names.
func TestPortsThatCannotBeBound(t *testing.T) {
	dir := t.TempDir()
	web, db, api := listener("web", "127.64.0.1", 80, 8080), listener("db", "127.64.0.2", 5432), listener("api", "127.64.0.3", 8080)
	b := newBed(t, dir, told(api, db, web), false, "api")
	bound := watch.New(map[netip.AddrPort]error{api.Addresses[0]: errors.New("no")})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, bound) }()
	if b.Withheld("web") != "" {
		t.Error("what becomes of a named service counts for the others")
	}
	bound.Set(map[netip.AddrPort]error{web.Addresses[0]: nil, web.Addresses[1]: errors.New("address already in use"), netip.MustParseAddrPort("127.0.0.1:5432"): errors.New("x")})
	for _, changed := b.Config().Get(); b.Withheld("web") == ""; _, changed = b.Config().Get() {
		<-changed
	}
	want := map[string]string{"api": "127.64.0.3:8080", "db": "127.64.0.2:5432"}
	b.want(t, want)
	if why := b.Withheld("web"); !strings.Contains(why, "address already in use") {
		t.Errorf("withheld: %s", why)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	newBed(t, dir, told(api, db, web), false, "api").want(t, want)
	if got := openTable(dir, slog.New(slog.DiscardHandler), time.Now().Add(remembered)).ports; len(got) != 0 {
		t.Errorf("ports %v are remembered for ever", got)
	}
}

func TestTablesThatCannotBeUsed(t *testing.T) {
	seal1 := func(text string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := seal.Write(path, tableKind, tableVersion, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	raw := func(text string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name string
		put  func(t *testing.T, path string)
	}{
		{"empty", raw("")},
		{"torn", raw("hostmesh-seal 1 loopback 1 100 00\n{}")},
		{"no JSON", seal1("{")},
		{"nulls", seal1(`{"services":{"x":null},"ports":{"1":null}}`)},
		{"an address that is none", seal1(`{"services":{"web":{"address":"nowhere"}}}`)},
		{"an address elsewhere", seal1(`{"services":{"web":{"address":"10.0.0.1"}}}`)},
		{"one address twice", seal1(`{"services":{"a":{"address":"127.64.0.9"},"web":{"address":"127.64.0.9"}}}`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.put(t, filepath.Join(dir, tableFile))
			b := newBed(t, dir, told(listener("web", "127.64.0.1", 80)), false)
			want := map[string]string{"web": "127.64.0.1:80"}
			b.want(t, want)
			newBed(t, dir, told(listener("a", "127.64.0.1", 80), listener("web", "127.64.0.1", 80)), false)
			if b.addresses()["web"] != want["web"] {
				t.Error("what was given is not kept")
			}
		})
	}
	b := newBed(t, filepath.Join(t.TempDir(), "missing"), told(listener("web", "127.64.0.1", 80)), false)
	b.want(t, map[string]string{"web": "127.64.0.1:80"}) // a disk that takes nothing stops nobody
}

// TestServicesWithoutAddress are remembered, so that they are asked for.
func TestServicesWithoutAddress(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, told(), false)
	b.Keep("ns")
	b.take(&config.Config{Clusters: map[string]*config.Cluster{"ns": {Name: "ns"}}}, time.Now())
	b = newBed(t, dir, told(), false)
	if got := b.Names(); !slices.Equal(got, []string{"ns"}) {
		t.Errorf("remembers %q", got)
	}
	b.take(told(listener("ns", "127.64.0.7", 53)), time.Now())
	b.want(t, map[string]string{"ns": "127.64.0.7:53"})
}
