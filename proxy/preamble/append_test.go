package preamble_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/preamble"
)

func TestAppend(t *testing.T) {
	addr := netip.MustParseAddrPort
	for _, c := range []struct {
		name        string
		from, to    netip.AddrPort
		line        string // of version 1
		read        [2]netip.AddrPort
		binary      string
		withoutEnds bool
	}{
		{
			"IPv4", addr("192.0.2.1:56324"), addr("198.51.100.1:443"), "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
			[2]netip.AddrPort{addr("192.0.2.1:56324"), addr("198.51.100.1:443")},
			"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb", false,
		},
		{
			"IPv6", addr("[2001:db8::1]:1"), addr("[2001:db8::2]:2"), "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n",
			[2]netip.AddrPort{addr("[2001:db8::1]:1"), addr("[2001:db8::2]:2")},
			"", false,
		},
		{
			"a zone means nothing elsewhere", addr("[fe80::1%eth0]:1"), addr("[fe80::2]:2"), "PROXY TCP6 fe80::1 fe80::2 1 2\r\n",
			[2]netip.AddrPort{addr("[fe80::1]:1"), addr("[fe80::2]:2")},
			"", false,
		},
		{
			"one of each", addr("192.0.2.1:1"), addr("[2001:db8::2]:2"), "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n",
			[2]netip.AddrPort{addr("192.0.2.1:1"), addr("[2001:db8::2]:2")},
			"", false,
		},
		{
			"mapped", addr("[::ffff:192.0.2.1]:1"), addr("198.51.100.1:2"), "PROXY TCP4 192.0.2.1 198.51.100.1 1 2\r\n",
			[2]netip.AddrPort{addr("192.0.2.1:1"), addr("198.51.100.1:2")},
			"", false,
		},
		{"unknown", netip.AddrPort{}, addr("198.51.100.1:2"), "PROXY UNKNOWN\r\n", [2]netip.AddrPort{}, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for version := 1; version <= 2; version++ {
				out := preamble.Append([]byte("x"), preamble.Header{Version: version, Source: c.from, Destination: c.to})[1:]
				if version == 1 && string(out) != c.line || version == 2 && c.binary != "" && string(out) != c.binary {
					t.Errorf("version %d: got %q", version, out)
				}
				h, n, err := preamble.Read(append(out, "GET"...))
				if err != nil || n != len(out) || h != (preamble.Header{Version: version, Source: c.read[0], Destination: c.read[1]}) {
					t.Errorf("version %d: read as %+v, %d, %v", version, h, n, err)
				}
			}
		})
	}
}

func TestAppendExtensions(t *testing.T) {
	h := preamble.Header{Version: 2, Source: netip.MustParseAddrPort("192.0.2.1:1"), Destination: netip.MustParseAddrPort("192.0.2.2:2")}
	out := preamble.Append(nil, h, preamble.Extension{Type: 0xea, Value: "abc"}, preamble.Extension{Type: 4})
	if got, n, err := preamble.Read(out); err != nil || n != len(out) || got != h {
		t.Errorf("read as %+v, %d, %v", got, n, err)
	}
	if !bytes.HasSuffix(out, []byte("\xea\x00\x03abc\x04\x00\x00")) {
		t.Errorf("got %q", out)
	}
}

// FuzzAppend: every header that is written is read as what it says, whole, and never more of what follows.
func FuzzAppend(f *testing.F) {
	f.Add([]byte{192, 0, 2, 1}, []byte{198, 51, 100, 1}, uint16(1), uint16(2), false, "x", "GET / HTTP/1.1\r\n\r\n")
	f.Add(make([]byte, 16), []byte{1, 2, 3, 4}, uint16(65535), uint16(0), true, "", "\r\n")
	f.Fuzz(func(t *testing.T, from, to []byte, fromPort, toPort uint16, first bool, value, rest string) {
		a, okA := netip.AddrFromSlice(from)
		b, okB := netip.AddrFromSlice(to)
		h := preamble.Header{Version: 2, Source: netip.AddrPortFrom(a, fromPort), Destination: netip.AddrPortFrom(b, toPort)}
		var extensions []preamble.Extension
		if first {
			h.Version = 1
		} else if len(value) < 1024 {
			extensions = append(extensions, preamble.Extension{Type: 0xe0, Value: value})
		}
		out := preamble.Append(nil, h, extensions...)
		want := preamble.Header{Version: h.Version}
		if okA && okB {
			want.Source, want.Destination = netip.AddrPortFrom(a.Unmap(), fromPort), netip.AddrPortFrom(b.Unmap(), toPort)
		}
		got, n, err := preamble.Read(append(bytes.Clone(out), rest...))
		if err != nil || n != len(out) || got != want {
			t.Errorf("%q read as %+v, %d of %d, %v, want %+v", out, got, n, len(out), err, want)
		}
	})
}
