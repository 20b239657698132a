package registry

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidateRefuses(t *testing.T) {
	good := func() *Service { return web([]Port{{}}, endpoint("w1", "10.0.0.1:80"), endpoint("w2", "10.0.0.2:80")) }
	for _, c := range []struct {
		name   string
		change func(*Service)
		want   string
	}{
		{"upper case", func(s *Service) { s.Name.Name = "Web" }, "RFC 1123"},
		{"no namespace", func(s *Service) { s.Name.Namespace = "" }, "RFC 1123"},
		{"a dot", func(s *Service) { s.Name.Name = "a.b" }, "RFC 1123"},
		{"too long", func(s *Service) { s.Name.Name = strings.Repeat("a", 64) }, "RFC 1123"},
		{"ports unsorted", func(s *Service) { s.Ports = []Port{{Name: "b"}, {Name: "a"}} }, "sorted by name"},
		{"protocol", func(s *Service) { s.Ports[0].Protocol = "HTTP" }, `unknown protocol "HTTP"`},
		{"nil endpoint", func(s *Service) { s.Endpoints[1] = nil }, "endpoint 2 of 2 is nil"},
		{"ID twice", func(s *Service) { s.Endpoints[1].ID = "w1" }, "without duplicates"},
		{"no ID", func(s *Service) { s.Endpoints[0].ID = "" }, "no ID"},
		{"no address", func(s *Service) { s.Endpoints[0].Addr = netip.Addr{} }, "no address"},
		{"mapped", func(s *Service) { s.Endpoints[0].Addr = netip.MustParseAddr("::ffff:10.0.0.1") }, "want IPv4 as IPv4"},
		{"weight", func(s *Service) { s.Endpoints[0].Weight = 0 }, "weight 0"},
		{"health", func(s *Service) { s.Endpoints[0].Health = 9 }, "health 9"},
		{"port number", func(s *Service) { s.Endpoints[0].Ports[0].Number = 0 }, "number 0"},
		{"foreign port", func(s *Service) { s.Endpoints[0].Ports[0].Name = "x" }, "no such port"},
		{"endpoint ports twice", func(s *Service) { s.Endpoints[0].Ports = []EndpointPort{{Number: 1}, {Number: 2}} }, "without duplicates"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good()
			if err := (View{Services: []*Service{s}}).Validate(); err != nil {
				t.Fatal(err)
			}
			c.change(s)
			err := View{Services: []*Service{s}}.Validate()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Validate: %v, want %q", err, c.want)
			}
		})
	}
	a, b := numbered(2, 0)[0], numbered(2, 0)[1]
	for name, services := range map[string][]*Service{"want sorted": {b, a}, "reported twice": {a, a}, "is nil": {a, nil}} {
		if err := (View{Services: services}).Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Validate: %v, want %q", err, name)
		}
		if err := validate(services, []*Service{a, b}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("validate beside the good ones: %v, want %q", err, name)
		}
	}
}
