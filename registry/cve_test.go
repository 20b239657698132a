package registry_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// Names become names in DNS, domains, clusters and routes as they stand. So none means more than itself there
// (CVE-2026-39350, CVE-2026-29777).
func TestCVEClass04_NamesMeanNothingButThemselves(t *testing.T) {
	for _, name := range []string{
		"web.default", "*", "*.x", "web*", "web|80", "we`b", "web.", ".web", "a/b", "web\n", "wEb", "we b", "[web]", "(a|b)", "web$", "web:80", "wéb", "", "-web", "web\x00",
	} {
		v := view(1, "web")
		v.Services[0].Name.Name = name
		if v.Validate() == nil {
			t.Errorf("a service %q passes", name)
		}
		v = view(1, "web")
		v.Services[0].Name.Namespace = name
		if v.Validate() == nil {
			t.Errorf("a namespace %q passes", name)
		}
	}
}

// An address that means something else at each caller, or the caller itself, is none (CVE-2022-29153 in kind).
func TestCVEClass12_AddressesLeadToOneHost(t *testing.T) {
	for _, addr := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "fe80::1%eth0"} {
		v := view(1, "web")
		v.Services[0].Endpoints[0].Addr = netip.MustParseAddr(addr)
		if v.Validate() == nil {
			t.Errorf("an endpoint at %s passes", addr)
		}
	}
}

// No view, however broken, ends the process or gets into the snapshot (CVE-2023-0845, CVE-2026-53719).
func TestCVEClass24_BrokenViewsAreRefusedWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := map[string]func(*registry.View){
			"nil service":          func(v *registry.View) { v.Services[0] = nil },
			"nil endpoint":         func(v *registry.View) { v.Services[0].Endpoints[0] = nil },
			"zero service":         func(v *registry.View) { v.Services[0] = &registry.Service{} },
			"zero endpoint":        func(v *registry.View) { v.Services[0].Endpoints[0] = &registry.Endpoint{} },
			"unknown health":       func(v *registry.View) { v.Services[0].Endpoints[0].Health = 200 },
			"a port nobody has":    func(v *registry.View) { v.Services[0].Endpoints[0].Ports[0].Name = "x" },
			"unsorted":             func(v *registry.View) { v.Services[0], v.Services[1] = v.Services[1], v.Services[0] },
			"twice":                func(v *registry.View) { v.Services[1] = v.Services[0] },
			"a protocol from Mars": func(v *registry.View) { v.Services[0].Ports[0].Protocol = "\x00" },
		}
		a := make(script)
		catalog := newCatalog(t, registry.Options{}, source("a", a))
		defer start(t, catalog)()
		a.publish(view(1, "one", "two"))
		time.Sleep(time.Second)
		want := current(catalog)
		for name, spoil := range broken {
			v := view(1, "one", "two")
			spoil(&v)
			a.publish(v)
			time.Sleep(time.Hour) // it is tried again meanwhile
			if current(catalog) != want {
				t.Errorf("%s: the snapshot has %v", name, current(catalog).Services)
			}
			if s := catalog.Sources()[0]; s.State != registry.Stale || s.Error == "" {
				t.Errorf("%s: nobody is told: %+v", name, s)
			}
			a.publish(view(1, "one", "two"))
			time.Sleep(time.Second)
			want = current(catalog)
		}
	})
}
