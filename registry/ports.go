package registry

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// alignPorts calls a port by one name. A source that has a single unnamed port means the only port of another source
// that names it, or the one of its ports with the same number. Claims that stay as they are share their services.
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
				u.notes.add(Conflict{
					What: "unnamed port", Sides: []Side{{c.source, portNames(c.service)}, {other.source, portNames(other.service)}},
					Text: fmt.Sprintf("port %q of %s is none of the named ports of %s", "", c.source, other.source),
				}, "")
				continue
			}
			aligned[i].service = renamePort(c.service, name)
			break
		}
	}
	return aligned
}

// portNames lists the ports of a service.
func portNames(s *Service) string {
	names := make([]string, len(s.Ports))
	for i, p := range s.Ports {
		names[i] = strconv.Quote(p.Name)
	}
	return strings.Join(names, ", ")
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
	ports := u.declaredPorts(claims)
	declared := make([]bool, len(ports))
	for i := range ports {
		p := &ports[i]
		if p.Protocol == "" {
			p.Protocol = protocolOfName(p.Name)
		}
		if declared[i] = p.Number != 0; !declared[i] {
			p.Number = u.deriveNumber(*p, claims, old)
		}
	}
	u.separatePorts(ports, declared, claims)
	u.service.Ports = ports
}

// declaredPorts returns every port that a source names, with the number and protocol that the first declares.
func (u *union) declaredPorts(claims []claim) []Port {
	var ports []Port
	for _, c := range claims {
		for _, p := range c.service.Ports {
			if i, ok := slices.BinarySearchFunc(ports, p.Name, comparePort); !ok {
				ports = slices.Insert(ports, i, Port{Name: p.Name})
			}
		}
	}
	for i := range ports {
		p := &ports[i]
		var numbers, protocols []Side
		for _, c := range claims {
			at, ok := slices.BinarySearchFunc(c.service.Ports, p.Name, comparePort)
			if !ok {
				continue
			}
			said := c.service.Ports[at]
			p.Number, p.Protocol = cmp.Or(p.Number, said.Number), cmp.Or(p.Protocol, said.Protocol)
			if len(claims) == 1 {
				continue
			}
			if said.Number != 0 {
				numbers = append(numbers, Side{c.source, strconv.Itoa(int(said.Number))})
			}
			if said.Protocol != "" {
				protocols = append(protocols, Side{c.source, string(said.Protocol)})
			}
		}
		u.notes.differ("port number", p.Name, numbers, "")
		u.notes.differ("port protocol", p.Name, protocols, "")
	}
	return ports
}

func comparePort(p Port, name string) int { return strings.Compare(p.Name, name) }

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

// deriveNumber returns the number of a port that nobody declares: the one that all endpoints share, standby ones too, as
// what callers dial must not move with the traffic. If they do not, a rule decides by its precedence, as it does for all
// that sources say; else it is 80 for HTTP. For TCP there is no other, which is a conflict. A service that lost all its
// endpoints keeps the number it had.
func (u *union) deriveNumber(p Port, claims []claim, old *Service) uint16 {
	all := u.service.Endpoints
	if len(u.service.Standby) > 0 {
		all = slices.Concat(all, u.service.Standby)
	}
	number, served := sharedNumber(all, p.Name)
	if number != 0 {
		return number
	}
	if served && u.rule.orders() {
		for _, c := range claims {
			if number, _ := sharedNumber(c.service.Endpoints, p.Name); number != 0 {
				return number
			}
		}
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
		u.tellNoNumber(p, all, claims)
	}
	return 0
}

// tellNoNumber notes that a port has no number; the text names two endpoints, and who reports them, that differ.
func (u *union) tellNoNumber(p Port, all []*Endpoint, claims []claim) {
	var one, other *Endpoint
	for _, e := range all {
		switch n := e.Port(p.Name); {
		case n == 0:
		case one == nil:
			one = e
		case other == nil && n != one.Port(p.Name):
			other = e
		}
	}
	var sides []Side
	for _, c := range claims {
		var numbers []string
		for _, e := range c.service.Endpoints {
			n := strconv.Itoa(int(e.Port(p.Name)))
			if n != "0" && !slices.Contains(numbers, n) && len(numbers) < mostIDs {
				numbers = append(numbers, n)
			}
		}
		if len(numbers) > 0 {
			sides = append(sides, Side{c.source, strings.Join(numbers, ", ")})
		}
	}
	u.notes.add(Conflict{
		What: "no number", Object: p.Name, Sides: sides,
		Text: fmt.Sprintf("port %s (%s): nobody declares its number, and endpoint %s of %s has %d, %s of %s has %d", quote(p.Name), p.Protocol,
			brief(one.ID), strings.Join(one.Sources, ", "), one.Port(p.Name), brief(other.ID), strings.Join(other.Sources, ", "), other.Port(p.Name)),
	}, "")
}

// separatePorts takes the number from a port that would share it with an earlier one: a declared number goes before
// one that was derived, then the order of names counts. One port over UDP and one over TCP may share a number.
func (u *union) separatePorts(ports []Port, declared []bool, claims []claim) {
	if len(ports) < 2 {
		return
	}
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
				u.notes.add(Conflict{
					What: "shared number", Object: p.Name,
					Sides: []Side{{whoNames(claims, name), "port " + quote(name)}, {whoNames(claims, p.Name), "port " + quote(p.Name)}},
					Text:  fmt.Sprintf("port %s would have number %d like port %s; it has none", quote(p.Name), p.Number, quote(name)),
				}, "")
				p.Number = 0
				continue
			}
			owner[k] = p.Name
		}
	}
}

// whoNames returns the first source that names a port.
func whoNames(claims []claim, port string) string {
	for _, c := range claims {
		if c.service.hasPort(port) {
			return c.source
		}
	}
	return ""
}

// ServiceLabels returns how a port's SRV records are called below the service (RFC 2782): "_http._tcp". A port without a name goes by its
// protocol. "" for one that has no such records.
func (p Port) ServiceLabels() string {
	const longest = 62 // and the underscore
	name := p.Name
	if name == "" {
		name = string(p.Protocol)
	}
	if name == "" || p.Name == "" && (p.Protocol == TCP || p.Protocol == UDP) {
		return ""
	}
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, name)
	if len(name) > longest {
		return ""
	}
	if p.Protocol == UDP {
		return "_" + name + "._udp"
	}
	return "_" + name + "._tcp"
}
