package config_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy/config"
)

func TestAddress(t *testing.T) {
	all := []config.Address{{Path: "@b"}, {IP: netip.MustParseAddrPort("[2001:db8::1]:80")}, {Path: "/a"}, {IP: netip.MustParseAddrPort("192.0.2.1:80")}}
	slices.SortFunc(all, config.Address.Compare)
	var got []string
	for _, a := range all {
		var as net.Addr = a
		got = append(got, as.Network()+" "+as.String())
		if a.IsUnix() != (as.Network() == "unix") {
			t.Errorf("%s: IsUnix is %v", a, a.IsUnix())
		}
	}
	if diff := cmp.Diff([]string{"unix /a", "unix @b", "tcp 192.0.2.1:80", "tcp [2001:db8::1]:80"}, got); diff != "" {
		t.Error(diff)
	}
}
