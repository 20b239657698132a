package registry

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// alignPorts calls a port by one name. A source that has a single unnamed port means the only port of another source
// that names it, or the one of its ports with the same number. The claims that stay as they are share their services.
func (u *union) alignPorts(claims []claim) []claim {
	if len(claims) == 1 {
		return claims
	}
	aligned := slices.Clone(claims)
	for i, c := range aligned {
		if len(c.service.Ports) != 1 || c.service.Ports[0].Name != "" {
			continue
		}
		number := portNumber(c.service, "")
		for _, other := range claims {
			ports := other.service.Ports
			if len(ports) == 0 || ports[0].Name == "" {
				continue
			}
			name := ""
			if len(ports) == 1 {
				name = ports[0].Name
			} else {
				for _, p := range ports {
					if number != 0 && portNumber(other.service, p.Name) == number {
						name = p.Name
						break
					}
				}
			}
			if name == "" {
				u.notes.add("unnamed "+c.source, fmt.Sprintf("port %q of %s is none of the named ports of %s", "", c.source, other.source), "")
				continue
			}
			aligned[i].service = renamePort(c.service, name)
			break
		}
	}
	return aligned
}

// portNumber returns what a source declares for a port, else what all its endpoints share, else 0.
func portNumber(s *Service, name string) uint16 {
	for _, p := range s.Ports {
		if p.Name == name && p.Number != 0 {
			return p.Number
		}
	}
	number, _ := sharedNumber(s.Endpoints, name)
	return number
}

// sharedNumber returns the number on which all endpoints that serve a port do so, or 0, and whether any serves it.
func sharedNumber(endpoints []*Endpoint, name string) (number uint16, served bool) {
	for _, e := range endpoints {
		switch n := e.Port(name); {
		case n == 0:
		case number == 0:
			number = n
		case n != number:
			return 0, true
		}
	}
	return number, number != 0
}

// renamePort returns a copy of s whose only port has that name.
func renamePort(s *Service, name string) *Service {
	c := *s
	c.Ports = []Port{s.Ports[0]}
	c.Ports[0].Name = name
	c.Endpoints = make([]*Endpoint, len(s.Endpoints))
	for i, e := range s.Endpoints {
		if len(e.Ports) == 1 {
			e2 := *e
			e2.Ports = []EndpointPort{{Name: name, Number: e.Ports[0].Number}}
			e = &e2
		}
		c.Endpoints[i] = e
	}
	return &c
}

// resolvePorts gives every port that a source names its number and protocol.
func (u *union) resolvePorts(claims []claim, old *Service) {
	var names []string
	for _, c := range claims {
		for _, p := range c.service.Ports {
			if i, ok := slices.BinarySearch(names, p.Name); !ok {
				names = slices.Insert(names, i, p.Name)
			}
		}
	}
	ports := make([]Port, 0, len(names))
	var declared []bool
	for _, name := range names {
		p, by := u.declaration(claims, name)
		ports = append(ports, p)
		declared = append(declared, by != "")
	}
	for i := range ports {
		if !declared[i] {
			ports[i].Number = u.deriveNumber(ports[i], old)
		}
	}
	u.separatePorts(ports, declared)
	u.service.Ports = ports
}

// declaration returns what the first source that says so declares of a port; by is who declares the number, or "".
func (u *union) declaration(claims []claim, name string) (port Port, by string) {
	port.Name = name
	what := "port"
	if name != "" {
		what += " " + quote(name)
	}
	protocolBy := ""
	for _, c := range claims {
		i := slices.IndexFunc(c.service.Ports, func(p Port) bool { return p.Name == name })
		if i < 0 {
			continue
		}
		p := c.service.Ports[i]
		switch {
		case p.Number == 0:
		case port.Number == 0:
			port.Number, by = p.Number, c.source
		case port.Number != p.Number:
			u.notes.differ(what+" number", by, strconv.Itoa(int(port.Number)), c.source, strconv.Itoa(int(p.Number)), "")
		}
		switch {
		case p.Protocol == "":
		case port.Protocol == "":
			port.Protocol, protocolBy = p.Protocol, c.source
		case port.Protocol != p.Protocol:
			u.notes.differ(what+" protocol", protocolBy, string(port.Protocol), c.source, string(p.Protocol), "")
		}
	}
	if port.Protocol == "" {
		port.Protocol = protocolOfName(name)
	}
	return port, by
}

// protocolOfName reads the protocol off a port's name as Istio does: "<protocol>" or "<protocol>-<suffix>".
func protocolOfName(name string) Protocol {
	prefix, _, _ := strings.Cut(name, "-")
	switch prefix {
	case "http":
		return HTTP
	case "http2":
		return HTTP2
	case "grpc":
		return GRPC
	case "https", "tls":
		return TLS
	case "udp":
		return UDP
	}
	return TCP
}

// deriveNumber returns the number of a port that nobody declares: the one that all endpoints share, else 80 for HTTP.
// For TCP there is no other, which is a conflict. A service that lost all its endpoints keeps the number it had.
func (u *union) deriveNumber(p Port, old *Service) uint16 {
	number, served := sharedNumber(u.service.Endpoints, p.Name)
	if number != 0 {
		return number
	}
	if !served && old != nil {
		for _, was := range old.Ports {
			if was.Name == p.Name && was.Number != 0 {
				return was.Number
			}
		}
	}
	switch p.Protocol {
	case HTTP, HTTP2, GRPC:
		return 80
	}
	if served {
		u.notes.add("number "+p.Name, fmt.Sprintf("port %q (%s): nobody declares its number, and %s", p.Name, p.Protocol, u.disagreement(p.Name)), "")
	}
	return 0
}

// disagreement names two endpoints, and who reports them, that serve a port on different numbers.
func (u *union) disagreement(port string) string {
	var first *Endpoint
	for _, e := range u.service.Endpoints {
		switch n := e.Port(port); {
		case n == 0:
		case first == nil:
			first = e
		case n != first.Port(port):
			return fmt.Sprintf("endpoint %s of %s has %d, %s of %s has %d", first.ID, strings.Join(first.Sources, ", "), first.Port(port), e.ID, strings.Join(e.Sources, ", "), n)
		}
	}
	return "its endpoints differ"
}

// separatePorts takes the number from a port that would share it with an earlier one: a declared number goes before
// one that was derived, then the order of names counts. One port over UDP and one over TCP may share a number.
func (u *union) separatePorts(ports []Port, declared []bool) {
	type key struct {
		number uint16
		udp    bool
	}
	owner := make(map[key]string, len(ports))
	for _, want := range []bool{true, false} {
		for i := range ports {
			p := &ports[i]
			if declared[i] != want || p.Number == 0 {
				continue
			}
			k := key{p.Number, p.Protocol == UDP}
			if name, ok := owner[k]; ok {
				u.notes.add("shared "+p.Name, fmt.Sprintf("port %q would have number %d like port %q; it has none", p.Name, p.Number, name), "")
				p.Number = 0
				continue
			}
			owner[k] = p.Name
		}
	}
}
