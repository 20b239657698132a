package preamble

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// binary2 is a header of version 2.
func binary2(command, family byte, rest string) string {
	return signature2 + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const (
	four = "\xc0\x00\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb"
	tlv  = "\x04\x00\x03abc"
)

var (
	six    = "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01" + "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x02" + "\xdc\x04\x01\xbb"
	mapped = strings.Repeat("\x00", 10) + "\xff\xff\xc0\x00\x02\x01" + strings.Repeat("\x00", 10) + "\xff\xff\xc6\x33\x64\x01" + "\xdc\x04\x01\xbb"
)

var goodHeaders = []struct {
	name, text          string
	version             int
	source, destination string // empty: the connection's own
}{
	{"v1 IPv4", "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", 1, "192.0.2.1:56324", "198.51.100.1:443"},
	{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", 1, "[2001:db8::1]:56324", "[2001:db8::2]:443"},
	{"v1 mapped", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.1 0 65535\r\n", 1, "192.0.2.1:0", "198.51.100.1:65535"},
	{"v1 unknown", "PROXY UNKNOWN\r\n", 1, "", ""},
	{"v1 unknown with words", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", 1, "", ""},
	{"v2 IPv4", binary2(0x21, 0x11, four), 2, "192.0.2.1:56324", "198.51.100.1:443"},
	{"v2 IPv6", binary2(0x21, 0x21, six), 2, "[2001:db8::1]:56324", "[2001:db8::2]:443"},
	{"v2 mapped", binary2(0x21, 0x21, mapped), 2, "192.0.2.1:56324", "198.51.100.1:443"},
	{"v2 extensions", binary2(0x21, 0x11, four+tlv), 2, "192.0.2.1:56324", "198.51.100.1:443"},
	{"v2 as long as can be", binary2(0x21, 0x11, four+strings.Repeat("x", MaxBytes-fixed2-addrs4)), 2, "192.0.2.1:56324", "198.51.100.1:443"},
	{"v2 local", binary2(0x20, 0x00, ""), 2, "", ""},
	{"v2 local with addresses", binary2(0x20, 0x11, four), 2, "", ""},
	{"v2 local of a unix socket", binary2(0x20, 0x31, strings.Repeat("x", 216)), 2, "", ""},
	{"v2 unknown", binary2(0x21, 0x00, tlv), 2, "", ""},
}

// TestReadHeaders: a header is read at its last byte and not before; what follows is left alone.
func TestReadHeaders(t *testing.T) {
	for _, c := range goodHeaders {
		t.Run(c.name, func(t *testing.T) {
			text := []byte(c.text)
			for i := range text {
				if _, n, err := Read(text[:i]); n != 0 || err != nil {
					t.Fatalf("%d of %d bytes: %d, %v", i, len(text), n, err)
				}
			}
			h, n, err := Read(append(text, "GET / HTTP/1.1\r\n"...))
			if err != nil || n != len(c.text) || h.Version != c.version {
				t.Fatalf("%d of %d, version %d: %v", n, len(c.text), h.Version, err)
			}
			if got := shown(h.Source); got != c.source {
				t.Errorf("source %q, want %q", got, c.source)
			}
			if got := shown(h.Destination); got != c.destination {
				t.Errorf("destination %q, want %q", got, c.destination)
			}
		})
	}
}

func shown(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

var badHeaders = []struct{ name, text, want string }{
	{"v1 bare line feed", "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n", "carriage return"},
	{"v1 nothing but the end", "PROXY \n", "carriage return"},
	{"v1 empty", "PROXY \r\n", "1 fields"},
	{"v1 no end", "PROXY TCP4 " + strings.Repeat("1", 200), "no end of line"},
	{"v1 UDP", "PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n", "not TCP4"},
	{"v1 small letters", "PROXY tcp4 192.0.2.1 198.51.100.1 56324 443\r\n", "not TCP4"},
	{"v1 unknown with a tail", "PROXY UNKNOWNS\r\n", "1 fields"},
	{"v1 two spaces", "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n", "6 fields"},
	{"v1 a space behind", "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n", "6 fields"},
	{"v1 wrong family", "PROXY TCP4 2001:db8::1 198.51.100.1 56324 443\r\n", "its family"},
	{"v1 wrong family of the second", "PROXY TCP6 2001:db8::1 198.51.100.1 56324 443\r\n", "its family"},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 2001:db8::1 56324 443\r\n", "its family"},
	{"v1 octal", "PROXY TCP4 192.0.2.010 198.51.100.1 56324 443\r\n", "its family"},
	{"v1 port", "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n", "65535"},
	{"v1 port with a zero", "PROXY TCP4 192.0.2.1 198.51.100.1 56324 0443\r\n", "65535"},
	{"v1 port with a sign", "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n", "65535"},
	{"v1 no port", "PROXY TCP4 192.0.2.1 198.51.100.1  443\r\n", "65535"},
	{"v1 carriage return inside", "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\r\n", "65535"},
	{"v2 another version", binary2(0x11, 0x11, four), "version and command 0x11"},
	{"v2 another command", binary2(0x22, 0x11, four), "version and command 0x22"},
	{"v2 unix", binary2(0x21, 0x31, strings.Repeat("x", 216)), "unix socket"},
	{"v2 UDP", binary2(0x21, 0x12, four), "family and protocol 0x12"},
	{"v2 another family", binary2(0x21, 0x41, four), "family and protocol 0x41"},
	{"v2 short", binary2(0x21, 0x11, four[:11]), "11 bytes of addresses, want 12"},
	{"v2 short of six", binary2(0x21, 0x21, four), "12 bytes of addresses, want 36"},
	{"v2 long", binary2(0x21, 0x11, strings.Repeat("x", MaxBytes)), "at most 4096"},
}

func TestReadMalformedHeaders(t *testing.T) {
	for _, c := range badHeaders {
		t.Run(c.name, func(t *testing.T) {
			h, n, err := Read([]byte(c.text))
			if err == nil || errors.Is(err, ErrNone) || n != 0 || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %d, %v, want %q", n, err, c.want)
			}
			if want := map[byte]int{'P': 1, '\r': 2}[c.text[0]]; h.Version != want || h.Source.IsValid() {
				t.Errorf("got %+v", h)
			}
		})
	}
}

func TestReadNoHeader(t *testing.T) {
	for _, text := range []string{"GET / HTTP/1.1\r\n", "PROPFIND", "PROXYY", "proxy TCP4", "\r\n\r\nGET", "\x16\x03\x01", "\r\r"} {
		if _, n, err := Read([]byte(text)); !errors.Is(err, ErrNone) || n != 0 {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
}

// FuzzRead: any bytes get a verdict within MaxBytes, it does not change with more bytes, and addresses come in pairs.
func FuzzRead(f *testing.F) {
	for _, c := range goodHeaders {
		f.Add([]byte(c.text))
	}
	for _, c := range badHeaders {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, n, err := Read(data)
		switch {
		case n < 0 || n > len(data) || n > MaxBytes || n > 0 && err != nil:
			t.Fatalf("%d of %d bytes, %v", n, len(data), err)
		case n == 0 && err == nil && len(data) >= MaxBytes:
			t.Fatal("more is wanted than may be")
		case h.Source.IsValid() != h.Destination.IsValid(), err != nil && h.Source.IsValid():
			t.Fatalf("half a header: %+v, %v", h, err)
		}
		if n == 0 && err == nil {
			return
		}
		again, m, second := Read(append(bytes.Clone(data), 'x', '\n'))
		if again != h || m != n || (err == nil) != (second == nil) {
			t.Fatalf("more bytes change the verdict: %+v %d %v, then %+v %d %v", h, n, err, again, m, second)
		}
	})
}
