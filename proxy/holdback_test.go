package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestHoldBack: listeners are written as name@ports>cluster. What was there before has the cluster "was".
func TestHoldBack(t *testing.T) {
	parse := func(texts ...string) (all []*config.Listener) {
		for _, text := range texts {
			name, rest, _ := strings.Cut(text, "@")
			ports, cluster, _ := strings.Cut(rest, ">")
			l := &config.Listener{Name: name, TCP: &config.TCP{Clusters: []config.WeightedCluster{{Name: cluster, Weight: 1}}}}
			for port := range strings.SplitSeq(ports, ",") {
				l.Addresses = append(l.Addresses, netip.MustParseAddrPort("127.0.0.1:"+port))
			}
			all = append(all, l)
		}
		return all
	}
	list := func(texts ...string) []string { return texts }
	for _, c := range []struct {
		name              string
		all, before, want []string
	}{
		{"none is cold", list("a@1>x", "b@2>x"), list("a@1>was"), list("a@1>x", "b@2>x")},
		{"at the start", list("a@1>x", "b@2>cold", "c@3>x"), nil, list("a@1>x", "c@3>x")},
		{"one changes", list("a@1>x", "b@2>cold"), list("a@1>was", "b@2>was"), list("a@1>x", "b@2>was")},
		{"one comes, one goes", list("b@2>cold", "c@3>x"), list("a@1>was", "b@2>was"), list("b@2>was", "c@3>x")},
		{"renamed", list("z@1>cold"), list("a@1>was"), list("a@1>was")},
		{"gets another port", list("a@2>cold"), list("a@1>was"), list("a@1>was")},
		{"its port is another's", list("a@2>cold", "b@1>x", "c@3>x"), list("a@1>was"), list("a@1>was", "c@3>x")},
		{"two change places", list("a@2>cold", "b@1>x"), list("a@1>was", "b@2>was"), list("a@1>was", "b@2>was")},
		{"a ring of three", list("a@2>cold", "b@3>x", "c@1>x"), list("a@1>was", "b@2>was", "c@3>was"), list("a@1>was", "b@2>was", "c@3>was")},
		{"one of two ports", list("a@1>x", "b@2,3>cold"), list("a@1,2>was"), list("a@1,2>was")},
	} {
		t.Run(c.name, func(t *testing.T) {
			next, held := holdBack(parse(c.all...), parse(c.before...), map[string]bool{"cold": true})
			var got []string
			for _, l := range next {
				var ports []string
				for _, a := range l.Addresses {
					ports = append(ports, strings.TrimPrefix(a.String(), "127.0.0.1:"))
				}
				got = append(got, l.Name+"@"+strings.Join(ports, ",")+">"+l.TCP.Clusters[0].Name)
			}
			if diff := cmp.Diff(c.want, got); diff != "" || held != strings.Contains(strings.Join(c.all, " "), "cold") {
				t.Errorf("held %v\n%s", held, diff)
			}
		})
	}
}
