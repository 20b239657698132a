package registry

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
)

// Mapping says how the services of a source are taken over, before they are merged with those of the others. The zero
// Mapping takes them as they are. Services are selected by globs as of path.Match, matched against "namespace/name",
// against the name, and against the registry's own spelling; "*" there does not match a slash. All of that is what the
// registry says, not what the Mapping makes of it.
//
// Services that Rename gives the name of another are one service with it: that is what the operator asks for. Of those
// that Namespaces gives one name, the one that has it already, else the first, stays; the others are left out, and the
// one that stays has a Conflict for each.
type Mapping struct {
	// Include and Exclude choose services; an empty Include is all of them, Exclude goes before Include.
	Include, Exclude []string
	// Rename gives a service another name: "name" or "namespace/name". Without a namespace it stays where it is, or where
	// Namespaces moves it. Keys are no globs: "namespace/name" goes before the registry's own spelling, that before the name.
	Rename map[string]string
	// Namespaces gives all services of a namespace another; "*" stands for every namespace not named. Rename goes before.
	Namespaces map[string]string
	// Ports say what is dialled and spoken, by glob of services; of several that match the longest key is taken.
	Ports map[string]PortMapping
	// Labels are added to every endpoint, over what the registry says.
	Labels map[string]string
}

// PortMapping sets what is not zero of the ports of a service.
type PortMapping struct {
	// Port names the port it is about; "" is for the only one.
	Port     string
	Number   uint16
	Protocol Protocol
}

// Check reports everything in m that makes no sense, by its path below m ("rename[com.acme.Api]").
func (m Mapping) Check(report func(path, got, want string)) {
	got := func(s string) string { return fmt.Sprintf("%.200q", s) }
	for i, glob := range m.Include {
		checkGlob(fmt.Sprintf("include[%d]", i), glob, report)
	}
	for i, glob := range m.Exclude {
		checkGlob(fmt.Sprintf("exclude[%d]", i), glob, report)
	}
	for _, key := range sortedKeys(m.Rename) {
		at := fmt.Sprintf("rename[%.200s]", key)
		if key == "" {
			report(at, `""`, "a service of the registry")
		}
		namespace, name := splitName(m.Rename[key])
		if !isLabel(name) || namespace != "" && !isLabel(namespace) || strings.HasPrefix(m.Rename[key], "/") {
			report(at, got(m.Rename[key]), "name or namespace/name of RFC 1123 labels")
		}
	}
	for _, key := range sortedKeys(m.Namespaces) {
		at := fmt.Sprintf("namespaces[%.200s]", key)
		if key != "*" && !isLabel(key) {
			report(at, got(key), `a namespace, an RFC 1123 label, or "*"`)
		}
		if !isLabel(m.Namespaces[key]) {
			report(at, got(m.Namespaces[key]), "a namespace, an RFC 1123 label")
		}
	}
	for _, glob := range sortedKeys(m.Ports) {
		at := fmt.Sprintf("ports[%.200s]", glob)
		checkGlob(at, glob, report)
		p := m.Ports[glob]
		if !p.Protocol.known() {
			report(at+".protocol", got(string(p.Protocol)), "tcp, udp, http, http2, grpc or tls")
		}
		if p.Number == 0 && p.Protocol == "" {
			report(at, "neither number nor protocol", "a number from 1 to 65535, a protocol, or both")
		}
	}
	for _, key := range sortedKeys(m.Labels) {
		if key == "" || len(key) > mostSaid || strings.ContainsFunc(key+m.Labels[key], unicode.IsControl) {
			report(fmt.Sprintf("labels[%.200s]", key), got(m.Labels[key]), "a key of 1 to 200 bytes, and no control characters")
		}
	}
}

// check returns all that Check reports.
func (m Mapping) check() error {
	var errs []error
	m.Check(func(path, got, want string) {
		errs = append(errs, fmt.Errorf("mapping.%s: got %s, want %s", path, got, want))
	})
	return errors.Join(errs...)
}

func checkGlob(at, glob string, report func(path, got, want string)) {
	if _, err := path.Match(glob, ""); err != nil || glob == "" {
		report(at, fmt.Sprintf("%.200q", glob), `a glob such as "team-*" or "shop/*"`)
	}
}

func (p Protocol) known() bool {
	return slices.Contains([]Protocol{"", TCP, UDP, HTTP, HTTP2, GRPC, TLS}, p)
}

// splitName splits "namespace/name"; the namespace of a bare name is "".
func splitName(s string) (namespace, name string) {
	if namespace, name, ok := strings.Cut(s, "/"); ok {
		return namespace, name
	}
	return "", s
}

// takes reports whether the mapping takes a service over.
func (m *Mapping) takes(s *Service) bool {
	selects := func(glob string) bool { return matches(glob, s) }
	return !slices.ContainsFunc(m.Exclude, selects) && (len(m.Include) == 0 || slices.ContainsFunc(m.Include, selects))
}

// name returns the name that a service gets, and whether Rename says so.
func (m *Mapping) name(s *Service) (name Name, renamed bool) {
	name = s.Name
	if to, ok := m.Namespaces[name.Namespace]; ok {
		name.Namespace = to
	} else if to, ok := m.Namespaces["*"]; ok {
		name.Namespace = to
	}
	for _, key := range [...]string{s.Name.String(), s.Original, s.Name.Name} {
		if to, ok := m.Rename[key]; ok && key != "" {
			namespace, bare := splitName(to)
			if name.Name = bare; namespace != "" {
				name.Namespace = namespace
			}
			return name, true
		}
	}
	return name, false
}

// matches reports whether a glob, which is a good one, selects a service.
func matches(glob string, s *Service) bool {
	for _, name := range [...]string{s.Name.String(), s.Name.Name, s.Original} {
		if ok, _ := path.Match(glob, name); ok && name != "" {
			return true
		}
	}
	return false
}
