package router_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/router"
)

func TestSlashes(t *testing.T) {
	table := router.New(oneHost(prefix("admin", "/admin/"), prefix("rest", "/")))
	keep, reject, redirect, forward := config.SlashesKeep, config.SlashesReject, config.SlashesRedirect, config.SlashesForward
	for _, c := range []struct {
		path    string
		slashes config.Slashes
		merge   bool
		want    string // the path; "" when it is refused
		route   string
		err     error
	}{
		{"/a%2Fb", keep, false, "/a%2Fb", "rest", nil},
		{"/admin%2Fb", keep, false, "", "", router.ErrAmbiguousPath},
		{"/a%2Fb", reject, false, "", "", router.ErrEscapedSlash},
		{"/a%5cb", reject, false, "", "", router.ErrEscapedSlash},
		{"/a%41b", reject, false, "/aAb", "rest", nil},
		{"/a%", reject, false, "", "", router.ErrPath},
		{"/admin%2Fb", forward, false, "/admin/b", "admin", nil},
		{"/admin%5Cb", forward, false, "/admin/b", "admin", nil},
		{"/x%2f..%2Fadmin%2fb", forward, false, "/admin/b", "admin", nil},
		{"/x/%2e%2e%2Fadmin/", forward, false, "/admin/", "admin", nil},
		{"/admin%252Fb", forward, false, "/admin%252Fb", "rest", nil},
		{"/a%2Fb", redirect, false, "/a/b", "redirect", nil},
		{"/a/b", redirect, false, "/a/b", "rest", nil},
		{"/a%2F%2E%2e%2Fb", redirect, false, "/b", "redirect", nil},
		{"/%2Fevil.example/", redirect, false, "", "", router.ErrEscapedSlash},
		{"/%5Cevil.example/", redirect, false, "", "", router.ErrEscapedSlash},
		{"//evil.example%2f", redirect, false, "", "", router.ErrEscapedSlash},
		{"/%2Fgood%2f%2f", redirect, true, "/good/", "redirect", nil},
		{"//admin///b", keep, true, "/admin/b", "admin", nil},
		{"//a//b", keep, false, "//a//b", "rest", nil},
		{"/a//../b//", keep, true, "/a/b/", "rest", nil},
		{"*", forward, true, "*", "", nil},
	} {
		r := request("h", c.path, nil)
		r.Slashes, r.MergeSlashes = c.slashes, c.merge
		for range 2 { // a Request is used again
			m, err := table.Match(r)
			name := ""
			if m.Route != nil {
				name = m.Route.Name
			} else if m.Redirect {
				name = "redirect"
			}
			if !errors.Is(err, c.err) || err == nil && (string(m.Path) != c.want || name != c.route) {
				t.Errorf("%s, %d, merged %v: %q to %q, %v; want %q to %q, %v", c.path, c.slashes, c.merge, m.Path, name, err, c.want, c.route, c.err)
			}
		}
	}
}

func TestSlashesDoNotAllocate(t *testing.T) {
	table := router.New(oneHost(prefix("rest", "/")))
	r := request("h", "/a%2fb//c%5C%2e", nil)
	r.Slashes, r.MergeSlashes = config.SlashesForward, true
	if n := testing.AllocsPerRun(100, func() {
		if _, err := table.Match(r); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzSlashes: what is forwarded has what the policy promises, and would be forwarded as it is when it came again. Where a
// client is sent is on this host; it may be refused there.
func FuzzSlashes(f *testing.F) {
	for _, p := range []string{"/", "/a%2Fb", "//%5c/%2e%2e/x", "/%2F/..//", "/%", "/%252f"} {
		f.Add(p, uint8(3), true)
		f.Add(p, uint8(2), false)
	}
	table := router.New(oneHost(prefix("rest", "/")))
	f.Fuzz(func(t *testing.T, path string, slashes uint8, merge bool) {
		if strings.ContainsAny(path, "?# \t\r\n") || !strings.HasPrefix(path, "/") {
			return
		}
		r := request("h", path, nil)
		r.Slashes, r.MergeSlashes = config.Slashes(slashes%4), merge
		m, err := table.Match(r)
		if err != nil {
			return
		}
		got := bytes.Clone(m.Path)
		if upper := bytes.ToUpper(got); r.Slashes != config.SlashesKeep && (bytes.Contains(upper, []byte("%2F")) || bytes.Contains(upper, []byte("%5C"))) {
			t.Fatalf("%q is forwarded as %q", path, got)
		}
		if merge && bytes.Contains(got, []byte("//")) {
			t.Fatalf("%q is forwarded as %q", path, got)
		}
		if m.Redirect && bytes.HasPrefix(got, []byte("//")) {
			t.Fatalf("%q sends the client to %q", path, got)
		}
		again := request("h", string(got), nil)
		again.Slashes, again.MergeSlashes = r.Slashes, merge
		sent := m.Redirect
		if m, err := table.Match(again); sent && err == router.ErrAmbiguousPath {
			return
		} else if err != nil || !bytes.Equal(m.Path, got) || m.Redirect {
			t.Fatalf("%q is forwarded as %q, and that as %q, %v", path, got, m.Path, err)
		}
	})
}
