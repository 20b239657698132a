package dev

import "testing"

func TestWebListener(t *testing.T) {
	for _, c := range []struct{ name, listeners, addr, notBound, err string }{
		{"bound", "outbound::127.0.0.1:15001\nweb.default.mesh.internal::127.117.188.221:80\n", "127.117.188.221:80", "", ""},
		{"not bound", "web.default.mesh.internal::127.117.188.221:80::not bound: permission denied\n", "127.117.188.221:80", "not bound: permission denied", ""},
		{"not there", "outbound::127.0.0.1:15001\nweb.default.other::127.0.0.1:80\n", "invalid AddrPort", "", "the proxy has no listener for web yet"},
		{"nonsense", "web.default.mesh.internal::nowhere\n", "invalid AddrPort", "", `read /listeners: not an ip:port`},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr, notBound, err := webListener(c.listeners, "mesh.internal")
			text := func(err error) string {
				if err == nil {
					return ""
				}
				return err.Error()
			}
			if addr.String() != c.addr || text(notBound) != c.notBound || text(err) != c.err {
				t.Errorf("got %s, %v, %v, want %s, %q, %q", addr, notBound, err, c.addr, c.notBound, c.err)
			}
		})
	}
}
