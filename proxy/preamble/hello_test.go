package preamble

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// wire is a connection of which one side's bytes are known: what is written to it is kept.
type wire struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (w *wire) Read(p []byte) (int, error) {
	if w.in == nil {
		return 0, io.EOF
	}
	return w.in.Read(p)
}
func (w *wire) Write(p []byte) (int, error)      { return w.out.Write(p) }
func (w *wire) Close() error                     { return nil }
func (w *wire) LocalAddr() net.Addr              { return nil }
func (w *wire) RemoteAddr() net.Addr             { return nil }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// clientHello is what crypto/tls sends first.
func clientHello(name string, protocols ...string) []byte {
	var w wire
	_ = tls.Client(&w, &tls.Config{ServerName: name, NextProtos: protocols, InsecureSkipVerify: name == ""}).Handshake()
	return w.out.Bytes()
}

// refragment cuts a record's content into records of n bytes.
func refragment(record []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(record[recordHeader:], n) {
		out = binary.BigEndian.AppendUint16(append(out, 22, 3, 1), uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

// vector puts the length in front, in so many bytes.
func vector(bytes int, parts ...string) string {
	text := strings.Join(parts, "")
	n := len(text)
	head := []byte{byte(n >> 16), byte(n >> 8), byte(n)}
	return string(head[3-bytes:]) + text
}

// hello builds a ClientHello with extensions.
func hello(extensions ...string) []byte {
	body := "\x03\x03" + strings.Repeat("r", 32) + vector(1) + vector(2, "\x13\x01") + vector(1, "\x00") + vector(2, extensions...)
	return []byte("\x16\x03\x01" + vector(2, "\x01"+vector(3, body)))
}

func extension(kind byte, value string) string { return "\x00" + string(kind) + vector(2, value) }

func sni(names ...string) string {
	list := ""
	for _, n := range names {
		list += "\x00" + vector(2, n)
	}
	return extension(0, vector(2, list))
}

func alpn(names ...string) string {
	list := ""
	for _, n := range names {
		list += vector(1, n)
	}
	return extension(16, vector(2, list))
}

// TestReadHello: however it is cut into segments and records, a ClientHello says the same, and nothing before it is whole.
func TestReadHello(t *testing.T) {
	for _, c := range []struct {
		what      string
		data      []byte
		name      string
		protocols []string
	}{
		{"of crypto/tls", clientHello("web.mesh.internal", "h2", "http/1.1"), "web.mesh.internal", []string{"h2", "http/1.1"}},
		{"without a name", clientHello(""), "", nil},
		{"in upper case", hello(sni("WEB.Mesh.Internal")), "web.mesh.internal", nil},
		{"with Istio's name", hello(sni("outbound_.80_.v1_.web.default.mesh.internal"), alpn("istio")), "outbound_.80_.v1_.web.default.mesh.internal", []string{"istio"}},
		{"a name of another type", hello(extension(0, vector(2, "\x07"+vector(2, "x")+"\x00"+vector(2, "a")))), "a", nil},
		{"without extensions", []byte("\x16\x03\x01" + vector(2, "\x01"+vector(3, "\x03\x03"+strings.Repeat("r", 32)+vector(1)+vector(2, "\x00\x2f")+vector(1, "\x00")))), "", nil},
	} {
		for _, records := range []int{0, 16, 100} {
			data := c.data
			if records > 0 {
				data = refragment(data, records)
			}
			for n := range data {
				if h, done, err := ReadHello(data[:n], 0); done || err != nil {
					t.Fatalf("%s: %+v, %v, %v with %d of %d bytes", c.what, h, done, err, n, len(data))
				}
			}
			for _, more := range []string{"", "\x14\x03\x03\x00\x01\x01"} {
				h, done, err := ReadHello(append(bytes.Clone(data), more...), 0)
				if err != nil || !done || h.ServerName != c.name || !slices.Equal(h.Protocols, c.protocols) {
					t.Errorf("%s in records of %d: %+v, %v, %v", c.what, records, h, done, err)
				}
			}
		}
	}
}

func TestReadNoHello(t *testing.T) {
	for _, text := range []string{"GET / HTTP/1.1\r\n", "PRI * HTTP/2.0", "\x15\x03\x01\x00\x02", "\x16\x02\x00\x00\x01", "\x80\x2e\x01"} {
		if _, done, err := ReadHello([]byte(text), 0); !errors.Is(err, ErrNoTLS) || done {
			t.Errorf("%q: %v, %v", text, done, err)
		}
	}
}

// TestReadMalformedHello: none of these is taken for a client that named nobody.
func TestReadMalformedHello(t *testing.T) {
	big := hello(extension(21, strings.Repeat("\x00", 16<<10-100)))
	many := make([]string, maxProtocols+1)
	for i := range many {
		many[i] = "a"
	}
	for _, c := range []struct {
		what string
		data []byte
		most int
		want string
	}{
		{"another message", []byte("\x16\x03\x01" + vector(2, "\x02"+vector(3, strings.Repeat("x", 50)))), 0, "handshake message of type 2"},
		{"an empty record", []byte("\x16\x03\x01\x00\x00"), 0, "a record of 0 bytes"},
		{"a long record", []byte("\x16\x03\x01\x40\x01"), 0, "a record of 16385 bytes"},
		{"another record within", append(refragment(clientHello("a.b"), 50)[:55], "\x17\x03\x03\x00\x01x"...), 0, "another kind of record within it"},
		{"something behind it", []byte("\x16\x03\x01" + vector(2, string(hello(sni("a"))[5:])+"\x01")), 0, "something behind it"},
		{"one above the bound", hello(sni("a.example")), 50, "at most 50 are read"},
		{"one of 16 MiB", []byte("\x16\x03\x01\x40\x00\x01\xff\xff\xff"), 0, "at most 16384 are read"},
		{"one in tiny records", refragment(big, 1)[:MaxHelloBytes], 0, "not complete with 17408 bytes"},
		{"a dot at the end", hello(sni("a.example.")), 0, "no DNS name"},
		{"a dot at the beginning", hello(sni(".example")), 0, "no DNS name"},
		{"two dots", hello(sni("a..example")), 0, "no DNS name"},
		{"a NUL", hello(sni("a.example\x00.evil")), 0, "no DNS name"},
		{"a star", hello(sni("*.example")), 0, "no DNS name"},
		{"another alphabet", hello(sni("ä.example")), 0, "no DNS name"},
		{"an IPv4 address", hello(sni("192.0.2.1")), 0, "no DNS name"},
		{"an IPv6 address", hello(sni("2001:db8::1")), 0, "no DNS name"},
		{"no name in the name", hello(sni("")), 0, "no DNS name"},
		{"a long label", hello(sni(strings.Repeat("a", 64))), 0, "no DNS name"},
		{"a long name", hello(sni(strings.Repeat("a.", 127) + "a")), 0, "no DNS name"},
		{"two names", hello(sni("a.example", "b.example")), 0, "two server names"},
		{"no name in the list", hello(sni()), 0, "does not fit"},
		{"a list that is short", hello(extension(0, "\x00\x09\x00\x00\x01a")), 0, "does not fit"},
		{"the names twice", hello(sni("a.example"), sni("b.example")), 0, "extension 0 twice"},
		{"no protocol", hello(alpn()), 0, "does not fit"},
		{"an empty protocol", hello(alpn("h2", "")), 0, "does not fit"},
		{"many protocols", hello(alpn(many...)), 0, "more than 64 protocols"},
		{"a short message", []byte("\x16\x03\x01" + vector(2, "\x01"+vector(3, "\x03\x03"))), 0, "does not fit"},
		{"bytes behind the extensions", []byte("\x16\x03\x01" + vector(2, "\x01"+vector(3, string(hello(sni("a"))[9:])+"x"))), 0, "does not fit"},
	} {
		t.Run(c.what, func(t *testing.T) {
			h, done, err := ReadHello(c.data, c.most)
			if err == nil || errors.Is(err, ErrNoTLS) || done || h.ServerName != "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v, %v, want %q", h, done, err, c.want)
			}
		})
	}
}

func TestReadHTTP(t *testing.T) {
	for _, c := range []struct {
		text, want string
		done       bool
	}{
		{"", "", false},
		{"P", "", false},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", "", false},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00", H2C, true},
		{"PRI * HTTP/2.0\r\n\r\nXX", "", true},
		{"GET /", "", false},
		{"GET / HTTP/1.1\r\nHost: a", HTTP11, true},
		{"M-SEARCH * HTTP/1.0\n", HTTP10, true},
		{"GET /\r\n", "", true},
		{"GET  HTTP/1.1\r\n", "", true},
		{"GET / HTTP/1.2\r\n", "", true},
		{" / HTTP/1.1\r\n", "", true},
		{"\x16\x03\x01", "", true},
		{"SSH-2.0-x", "", false},
		{"SSH-2.0-x\r\n", "", true},
		{"GET /" + strings.Repeat("a", MaxRequestLine), "", true},
	} {
		if got, done := ReadHTTP([]byte(c.text)); got != c.want || done != c.done {
			t.Errorf("%.40q: got %q, %v, want %q, %v", c.text, got, done, c.want, c.done)
		}
	}
}

var errStop = errors.New("stop")

// FuzzReadHello: any bytes get a verdict within the bound, more bytes do not change it, and crypto/tls, which reads the same bytes
// afterwards, sees the same names in what is taken.
func FuzzReadHello(f *testing.F) {
	f.Add(clientHello("web.mesh.internal", "h2"))
	f.Add(refragment(clientHello("web.mesh.internal", "h2"), 64))
	f.Add(hello(sni("A.example"), alpn("istio", "h2")))
	f.Add(hello(sni("a.example.")))
	f.Add(hello(sni("a"), sni("b")))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, done, err := ReadHello(data, 0)
		if !done && err == nil && len(data) >= MaxHelloBytes {
			t.Fatal("more is wanted than may be")
		}
		if !done && (h.ServerName != "" || h.Protocols != nil) {
			t.Fatalf("half a ClientHello: %+v", h)
		}
		if done || err != nil {
			again, d, e := ReadHello(append(bytes.Clone(data), 22, 3, 1, 0, 0), 0)
			if d != done || again.ServerName != h.ServerName || (e == nil) != (err == nil) {
				t.Fatalf("more bytes change the verdict: %+v %v %v, then %+v %v %v", h, done, err, again, d, e)
			}
		}
		var seen *tls.ClientHelloInfo
		_ = tls.Server(&wire{in: bytes.NewReader(data)}, &tls.Config{GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			seen = info
			return nil, errStop
		}}).Handshake()
		if seen == nil || err != nil && !errors.Is(err, ErrNoTLS) {
			return
		}
		if data[1] != 3 { // crypto/tls takes other versions of the first record; to BoringSSL, and to us, that is no TLS
			return
		}
		if !done || h.ServerName != strings.ToLower(seen.ServerName) || !slices.Equal(h.Protocols, seen.SupportedProtos) {
			t.Fatalf("got %+v, %v, %v; crypto/tls sees %q, %q", h, done, err, seen.ServerName, seen.SupportedProtos)
		}
	})
}

// FuzzReadHTTP: any bytes get a verdict within the bound that more bytes do not change.
func FuzzReadHTTP(f *testing.F) {
	for _, text := range []string{"GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "A B C\n", "\x16"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, done := ReadHTTP(data)
		if !done {
			if got != "" || len(data) >= MaxRequestLine {
				t.Fatalf("%q without a verdict on %d bytes", got, len(data))
			}
			return
		}
		if again, d := ReadHTTP(append(bytes.Clone(data), "\r\n"...)); !d || again != got {
			t.Fatalf("more bytes change %q to %q", got, again)
		}
	})
}
