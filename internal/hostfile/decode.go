package hostfile

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
)

// Defaults of a Check.
const (
	DefaultInterval = 2 * time.Second
	DefaultRise     = 2
	DefaultFall     = 3
)

const minInterval = 100 * time.Millisecond

// Decode reads a file of services.d. Services are returned in the file's order; one that stands in the file twice is
// a mistake. An error holds all mistakes (yamlpos.Problems), and then no service is returned.
func Decode(file string, data []byte) ([]Service, error) {
	docs, err := yamlpos.DecodeAll[hostDocument](file, data)
	if err != nil {
		return nil, err
	}
	services := make([]Service, len(docs))
	for i := range docs {
		services[i] = docs[i].normal()
	}
	return services, duplicates(file, services)
}

// DecodeStatic reads a file of static.d, as Decode does for services.d.
func DecodeStatic(file string, data []byte) ([]Service, error) {
	docs, err := yamlpos.DecodeAll[staticDocument](file, data)
	if err != nil {
		return nil, err
	}
	services := make([]Service, len(docs))
	for i := range docs {
		services[i] = docs[i].normal()
		services[i].spread()
	}
	return services, duplicates(file, services)
}

func duplicates(file string, services []Service) error {
	var problems yamlpos.Problems
	first := map[string]int{}
	for _, s := range services {
		name := s.Namespace + "/" + s.Service
		if line, ok := first[name]; ok {
			problems = append(problems, yamlpos.Problem{
				File: file, Line: s.Line, Path: "service",
				Got: name + " a second time", Want: fmt.Sprintf("it once (first at line %d)", line),
			})
			continue
		}
		first[name] = s.Line
	}
	if problems != nil {
		return problems
	}
	return nil
}

// SetDefaults puts HAProxy's defaults in.
func (c *Check) SetDefaults() {
	*c = Check{Interval: DefaultInterval, Rise: DefaultRise, Fall: DefaultFall}
}

// unset stands for a weight that is not given, so that a 0 which is can be refused.
const unset = math.MaxUint32

// SetDefaults puts the default weight in.
func (s *Service) SetDefaults() { s.Weight = 1 }

// SetDefaults marks the weight as the service's.
func (e *Endpoint) SetDefaults() { e.Weight = unset }

// hostDocument is a document of services.d. (Service itself has a field Check and so no method of that name.)
type hostDocument struct {
	Service `yaml:",inline"`
}

// Check reports what the structure alone does not show.
func (d *hostDocument) Check(report func(path, got, want string)) {
	d.common(report)
	if d.Endpoints != nil {
		report("endpoints", "endpoints", "none: services.d says what this host itself runs, other hosts' endpoints belong in static.d")
	}
	if d.Port == 0 && len(d.Ports) == 0 {
		report("port", "nothing", "the port on which the service listens")
	}
	if d.Address.IsMulticast() {
		report("address", d.Address.String(), "a unicast address")
	}
	if d.Service.Check != nil {
		d.Service.Check.validate(report)
		if d.Service.Check.Port == 0 && (d.Protocol == "udp" || len(d.Ports) > 0 && d.Ports[0].Protocol == "udp") {
			report("check.port", "nothing", "a TCP port to check: the service's own is UDP")
		}
	}
}

func (c *Check) validate(report func(path, got, want string)) {
	switch {
	case c.HTTP == "" && !c.TCP:
		report("check", "neither http nor tcp", "http: /path or tcp: true")
	case c.HTTP != "" && c.TCP:
		report("check", "both http and tcp", "one of them")
	case c.HTTP != "":
		u, err := url.ParseRequestURI(c.HTTP)
		if err != nil || !strings.HasPrefix(c.HTTP, "/") || u.Host != "" || strings.ContainsAny(c.HTTP, " #") {
			report("check.http", strconv.Quote(c.HTTP), "a path such as /healthz")
		}
	}
	if c.Interval < minInterval {
		report("check.interval", c.Interval.String(), "at least "+minInterval.String())
	}
	if c.Timeout > c.Interval {
		report("check.timeout", c.Timeout.String(), "at most the interval, "+c.Interval.String())
	}
	if c.Rise < 1 {
		report("check.rise", strconv.Itoa(c.Rise), "at least 1")
	}
	if c.Fall < 1 {
		report("check.fall", strconv.Itoa(c.Fall), "at least 1")
	}
}

// staticDocument is a document of static.d.
type staticDocument struct {
	Service `yaml:",inline"`
}

// Check reports what the structure alone does not show.
func (d *staticDocument) Check(report func(path, got, want string)) {
	d.common(report)
	if d.Endpoints == nil {
		report("endpoints", "nothing", "a list of {address, port} ([] for a service without any)")
	}
	if d.Address.IsValid() {
		report("address", d.Address.String(), "none: in static.d the addresses stand in endpoints")
	}
	if d.Service.Check != nil {
		report("check", "a check", "none: nobody runs checks for static.d, an endpoint's health says what to take for true")
	}
	seen := map[string]int{}
	for i := range d.Endpoints {
		at := fmt.Sprintf("endpoints[%d]", i)
		e := &d.Endpoints[i]
		d.endpoint(e, func(path, got, want string) { report(at+"."+path, got, want) })
		id := fmt.Sprint(e.Address.Unmap(), e.Port, e.Ports)
		if first, ok := seen[id]; ok {
			report(at, "the same address and port as endpoints["+strconv.Itoa(first)+"]", "it once")
		}
		seen[id] = i
	}
}

func (s *Service) endpoint(e *Endpoint, report func(path, got, want string)) {
	if a := e.Address.Unmap(); a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || a.Zone() != "") {
		report("address", e.Address.String(), "an address that can be dialled from anywhere")
	}
	if e.Weight != unset {
		checkWeight(e.Weight, report)
	}
	checkLabels(e.Labels, report)
	switch e.Health {
	case "", "unknown", "healthy", "unhealthy", "draining":
	default:
		report("health", strconv.Quote(e.Health), "one of unknown, healthy, unhealthy, draining")
	}
	switch {
	case e.Port != 0 && len(e.Ports) != 0:
		report("ports", "port and ports", "one of them")
	case e.Port != 0 && len(s.Ports) > 1:
		report("port", strconv.Itoa(int(e.Port)), "ports: {name: number}, the service has several")
	case e.Port == 0 && len(e.Ports) == 0 && s.Port == 0 && len(s.Ports) == 0:
		report("port", "nothing", "the port on which it listens (or a port of the service)")
	}
	for _, name := range slices.Sorted(maps.Keys(e.Ports)) {
		if e.Ports[name] == 0 {
			report("ports."+name, "0", "a port from 1 to 65535")
		}
		if !slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Name == name }) {
			report("ports."+name, "a port that the service does not have", "a name from the service's ports")
		}
	}
}

// common is what both kinds of file have to fulfil.
func (s *Service) common(report func(path, got, want string)) {
	s.checkName(report)
	checkProtocol(s.Protocol, report)
	checkWeight(s.Weight, report)
	checkLabels(s.Labels, report)
	if len(s.Ports) > 0 && (s.Port != 0 || s.Protocol != "") {
		report("ports", "ports beside port or protocol", "one of the two forms")
	}
	names := map[string]bool{}
	for i, p := range s.Ports {
		at := fmt.Sprintf("ports[%d].", i)
		if p.Port == 0 {
			report(at+"port", "0", "a port from 1 to 65535")
		}
		switch {
		case p.Name == "" && len(s.Ports) > 1:
			report(at+"name", "nothing", "a name: there are several ports")
		case p.Name != "" && !IsLabel(p.Name):
			report(at+"name", strconv.Quote(p.Name), wantLabel)
		case names[p.Name]:
			report(at+"name", strconv.Quote(p.Name)+" a second time", "a name of its own")
		}
		names[p.Name] = true
		checkProtocol(p.Protocol, func(path, got, want string) { report(at+path, got, want) })
	}
}

const wantLabel = "lower-case letters, digits and '-', at most 63 (RFC 1123)"

func (s *Service) checkName(report func(path, got, want string)) {
	namespace, name, qualified := strings.Cut(s.Service, "/")
	if !qualified {
		namespace, name = s.Namespace, s.Service
	}
	if !IsLabel(name) || qualified && !IsLabel(namespace) {
		report("service", strconv.Quote(s.Service), "a name or namespace/name of "+wantLabel)
		return
	}
	at := "namespace"
	if qualified {
		at = "service"
	}
	switch {
	case qualified && s.Namespace != "" && s.Namespace != namespace:
		report("namespace", strconv.Quote(s.Namespace), strconv.Quote(namespace)+" as in service, or none")
	case namespace != "" && !IsLabel(namespace):
		report(at, strconv.Quote(namespace), wantLabel)
	case namespace == "host":
		report(at, `"host"`, "another namespace, that one is reserved for hosts")
	}
}

func checkProtocol(protocol string, report func(path, got, want string)) {
	switch protocol {
	case "", "tcp", "udp", "http", "http2", "grpc", "tls":
	default:
		report("protocol", strconv.Quote(protocol), "one of tcp, udp, http, http2, grpc, tls")
	}
}

func checkWeight(weight uint32, report func(path, got, want string)) {
	if weight == 0 || weight > MaxWeight {
		report("weight", strconv.FormatUint(uint64(weight), 10), fmt.Sprintf("1 to %d", MaxWeight))
	}
}

func checkLabels(labels map[string]string, report func(path, got, want string)) {
	const mostKey, mostValue, most = 63, 255, 64
	if len(labels) > most {
		report("labels", fmt.Sprintf("%d labels", len(labels)), fmt.Sprintf("at most %d", most))
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if key == "" || len(key) > mostKey {
			report("labels", fmt.Sprintf("a key of %d bytes", len(key)), fmt.Sprintf("1 to %d", mostKey))
		}
		if len(labels[key]) > mostValue {
			report("labels", fmt.Sprintf("a value of %d bytes", len(labels[key])), fmt.Sprintf("at most %d", mostValue))
		}
	}
}

// IsLabel reports whether s is an RFC 1123 label in lower case.
func IsLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// normal returns the service with the short forms written out and the defaults put in.
func (s Service) normal() Service {
	if namespace, name, ok := strings.Cut(s.Service, "/"); ok {
		s.Namespace, s.Service = namespace, name
	}
	s.Namespace = cmp.Or(s.Namespace, DefaultNamespace)
	s.Address = s.Address.Unmap()
	if len(s.Ports) == 0 {
		s.Ports = []Port{{Port: s.Port, Protocol: s.Protocol}}
	}
	for i := range s.Ports {
		s.Ports[i].TargetPort = cmp.Or(s.Ports[i].TargetPort, s.Ports[i].Port)
	}
	if s.Check != nil {
		check := *s.Check
		check.Timeout = cmp.Or(check.Timeout, check.Interval)
		check.Port = cmp.Or(check.Port, s.Ports[0].TargetPort) // the file's first, hence before the sort
		s.Check = &check
	}
	slices.SortFunc(s.Ports, func(a, b Port) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// spread gives every endpoint of a static service what it has from the service.
func (s *Service) spread() {
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		e.Address = e.Address.Unmap()
		if e.Weight == unset {
			e.Weight = s.Weight
		}
		e.Health = cmp.Or(e.Health, "unknown")
		if len(s.Labels) > 0 {
			labels := maps.Clone(s.Labels)
			maps.Copy(labels, e.Labels)
			e.Labels = labels
		}
		numbers := make(map[string]uint16, max(len(s.Ports), 1))
		for _, p := range s.Ports {
			if p.TargetPort != 0 {
				numbers[p.Name] = p.TargetPort
			}
		}
		if e.Port != 0 {
			numbers[s.Ports[0].Name] = e.Port // the only one
		}
		maps.Copy(numbers, e.Ports)
		e.Ports = numbers
	}
}

// Problems returns err as the list of mistakes that it is, or nil when it is something else.
func Problems(err error) []yamlpos.Problem {
	var problems yamlpos.Problems
	errors.As(err, &problems)
	return problems
}
