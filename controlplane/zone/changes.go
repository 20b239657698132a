package zone

import (
	"slices"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// each calls yield for what differs between two sorted lists, with nil for what is in one of them alone.
func each[T any](was, is []T, compare func(a, b *T) int, same func(a, b *T) bool, yield func(was, is *T)) {
	for len(was) > 0 || len(is) > 0 {
		order := 0
		switch {
		case len(is) == 0:
			order = -1
		case len(was) == 0:
			order = 1
		default:
			order = compare(&was[0], &is[0])
		}
		switch {
		case order < 0:
			yield(&was[0], nil)
			was = was[1:]
		case order > 0:
			yield(nil, &is[0])
			is = is[1:]
		default:
			if !same(&was[0], &is[0]) {
				yield(&was[0], &is[0])
			}
			was, is = was[1:], is[1:]
		}
	}
}

// eachService calls yield for the services that differ, nil for none. An unchanged service has the same pointer.
func eachService(was, is *registry.Snapshot, yield func(was, is *registry.Service)) {
	deref := func(s **registry.Service) *registry.Service {
		if s == nil {
			return nil
		}
		return *s
	}
	each(was.Services, is.Services,
		func(a, b **registry.Service) int {
			if *a == *b {
				return 0
			}
			return (*a).Name.Compare((*b).Name)
		},
		func(a, b **registry.Service) bool { return *a == *b },
		func(a, b **registry.Service) { yield(deref(a), deref(b)) })
}

// eachHost calls yield for the hosts that differ.
func eachHost(was, is *registry.Snapshot, yield func(was, is *registry.Host)) {
	if len(was.Hosts) == len(is.Hosts) && (len(is.Hosts) == 0 || &was.Hosts[0] == &is.Hosts[0]) {
		return
	}
	each(was.Hosts, is.Hosts,
		func(a, b *registry.Host) int { return strings.Compare(a.ID, b.ID) },
		func(a, b *registry.Host) bool { return slices.Equal(a.Addrs, b.Addrs) },
		yield)
}
