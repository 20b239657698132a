package registry

import (
	"errors"
	"fmt"
)

// Validate reports the first thing in v that breaks what View, Service and Endpoint promise: order, uniqueness, valid
// names, addresses, ports, weights and health. The Catalog refuses a view that does not validate.
func (v View) Validate() error {
	if err := validateHosts(v.Hosts); err != nil {
		return err
	}
	return validate(v.Services, nil)
}

// mostEntries bounds the services and endpoints of one source: about ten times what the mesh is made for, and as much as
// a registry that everybody may write to can make mesh control keep.
const mostEntries = 1_000_000

// validateSize refuses a view that is too large. It looks at nothing else, so it comes first.
func validateSize(v View) error {
	n := len(v.Services)
	for _, s := range v.Services {
		if s != nil {
			n += len(s.Endpoints)
		}
	}
	if n > mostEntries {
		return fmt.Errorf("%d services and endpoints: want at most %d of one registry", n, mostEntries)
	}
	return nil
}

// validate is Validate, which takes the services that good holds under the same pointer as checked already. good is
// sorted, as a view that validated is.
func validate(services, good []*Service) error {
	for i, s := range services {
		if s == nil {
			return fmt.Errorf("service %d of %d is nil", i+1, len(services))
		}
		if i > 0 {
			switch c := services[i-1].Name.Compare(s.Name); {
			case c == 0:
				return fmt.Errorf("service %s: reported twice", s.Name)
			case c > 0:
				return fmt.Errorf("service %s: after %s, want sorted by name", s.Name, services[i-1].Name)
			}
		}
		for len(good) > 0 && good[0].Name.Compare(s.Name) < 0 {
			good = good[1:]
		}
		if len(good) > 0 && good[0] == s {
			continue
		}
		if err := s.validate(); err != nil {
			return fmt.Errorf("service %s: %w", s.Name, err)
		}
	}
	return nil
}

func (s *Service) validate() error {
	if !isLabel(s.Name.Namespace) || !isLabel(s.Name.Name) {
		return fmt.Errorf("name %q in namespace %q: want RFC 1123 labels", s.Name.Name, s.Name.Namespace)
	}
	for i, p := range s.Ports {
		if i > 0 && s.Ports[i-1].Name >= p.Name {
			return fmt.Errorf("port %q: want ports sorted by name, without duplicates", p.Name)
		}
		switch p.Protocol {
		case "", TCP, UDP, HTTP, HTTP2, GRPC, TLS:
		default:
			return fmt.Errorf("port %q: unknown protocol %q", p.Name, p.Protocol)
		}
	}
	for i, e := range s.Endpoints {
		if e == nil {
			return fmt.Errorf("endpoint %d of %d is nil", i+1, len(s.Endpoints))
		}
		if i > 0 && s.Endpoints[i-1].ID >= e.ID {
			return fmt.Errorf("endpoint %q: want endpoints sorted by ID, without duplicates", e.ID)
		}
		if err := e.validate(s); err != nil {
			return fmt.Errorf("endpoint %q: %w", e.ID, err)
		}
	}
	return nil
}

func (e *Endpoint) validate(s *Service) error {
	switch {
	case e.ID == "":
		return errors.New("no ID")
	case !e.Addr.IsValid():
		return errors.New("no address")
	case e.Addr.Is4In6():
		return fmt.Errorf("address %s: want IPv4 as IPv4", e.Addr)
	case e.Addr.IsUnspecified() || e.Addr.IsMulticast() || e.Addr.Zone() != "":
		return fmt.Errorf("address %s: want one that leads to one host from everywhere", e.Addr) // 0.0.0.0 leads to the caller's own
	case e.Weight == 0:
		return errors.New("weight 0, want at least 1")
	case e.Health > Draining:
		return fmt.Errorf("health %d is none", e.Health)
	}
	for i, p := range e.Ports {
		if i > 0 && e.Ports[i-1].Name >= p.Name {
			return fmt.Errorf("port %q: want ports sorted by name, without duplicates", p.Name)
		}
		if p.Number == 0 {
			return fmt.Errorf("port %q: number 0", p.Name)
		}
		if !s.hasPort(p.Name) {
			return fmt.Errorf("port %q: the service has no such port", p.Name)
		}
	}
	return nil
}

func (s *Service) hasPort(name string) bool {
	for _, p := range s.Ports {
		if p.Name == name {
			return true
		}
	}
	return false
}

// isLabel reports whether s is a lower-case RFC 1123 label: up to 63 letters, digits and inner hyphens.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
