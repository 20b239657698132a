package registry

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

func (e *Entry) name() Name {
	return Name{Namespace: Label(cmp.Or(e.Namespace, DefaultNamespace)), Name: Label(e.Service)}
}

// spelling returns "namespace/service" as the registry has it, "/service" without a namespace.
func (e *Entry) spelling() string { return e.Namespace + "/" + e.Service }

// spells reports whether s is the entry's spelling.
func (e *Entry) spells(s string) bool {
	n := len(e.Namespace)
	return len(s) == n+1+len(e.Service) && s[:n] == e.Namespace && s[n] == '/' && s[n+1:] == e.Service
}

// check returns the name of the entry's service, or why no View may hold the entry.
func (e *Entry) check() (Name, error) {
	name := e.name()
	s := Service{Name: name, Ports: e.Ports}
	if e.Endpoint != nil {
		s.Endpoints = []*Endpoint{e.Endpoint}
	}
	if name.Name == "" || name.Namespace == "" {
		return name, fmt.Errorf("got service %.100q in namespace %.100q, want names with a letter or digit", e.Service, e.Namespace)
	}
	return name, s.validate()
}

func (e *Entry) equal(o *Entry) bool {
	if e.Endpoint != o.Endpoint && (e.Endpoint == nil || o.Endpoint == nil || !e.Endpoint.equal(o.Endpoint)) {
		return false
	}
	return e.Namespace == o.Namespace && e.Service == o.Service && slices.Equal(e.Ports, o.Ports) && maps.Equal(e.Labels, o.Labels)
}

// share takes from an entry of the same service, which may be nil, what is equal: among many siblings that is most of
// what an entry weighs.
func (e *Entry) share(sibling *assembled) {
	if sibling == nil {
		return
	}
	if e.Namespace == sibling.Namespace {
		e.Namespace = sibling.Namespace
	}
	if e.Service == sibling.Service {
		e.Service = sibling.Service
	}
	if slices.Equal(e.Ports, sibling.Ports) {
		e.Ports = sibling.Ports
	}
	if maps.Equal(e.Labels, sibling.Labels) {
		e.Labels = sibling.Labels
	}
	if e.Endpoint == nil || sibling.Endpoint == nil {
		return
	}
	if slices.Equal(e.Endpoint.Ports, sibling.Endpoint.Ports) {
		e.Endpoint.Ports = sibling.Endpoint.Ports
	}
	if maps.Equal(e.Endpoint.Labels, sibling.Endpoint.Labels) {
		e.Endpoint.Labels = sibling.Endpoint.Labels
	}
}
