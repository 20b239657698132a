package http1

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// Embedded NUL and other control characters (CVE-2019-9900) are refused wherever they stand.
func TestCVEClass06_ControlCharactersAreRefusedEverywhere(t *testing.T) {
	for _, c := range []string{"\x00", "\x01", "\b", "\v", "\f", "\x1f", "\x7f"} {
		for _, in := range []string{
			"G" + c + "ET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET /" + c + " HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1" + c + "\r\nHost: a\r\n\r\n",
			get("A" + c + ": b"), get("A: " + c), get("A: b" + c), get("A: a value of more than eight bytes" + c + "and more"),
			crlf("GET / HTTP/1.1", "Host: a"+c+"b"), get("Transfer-Encoding: chunked") + "0\r\nA: " + c + "\r\n\r\n",
		} {
			if _, _, err := judge(in, Limits{}); err == nil {
				t.Errorf("accepted %q", in)
			}
		}
	}
}

// A client must not be able to remove by Connection, or to imitate by an underscore, what tells the upstream who it is
// (CVE-2024-45410, CVE-2026-29054, CVE-2026-33433, CVE-2026-54763).
func TestCVEClass13_HopByHopAndDisguise(t *testing.T) {
	names := []string{
		"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Client-Cert", "X-Request-Id", "X-Real-Ip",
		"Forwarded", "Via", "Authorization", "Cookie", "User-Agent", "X-Envoy-External-Address", "X-B3-TraceId", "traceparent", "Content-Type",
	}
	for _, name := range names {
		r, h, _, err := parseRequest(t, get("Connection: close, "+strings.ToUpper(name), name+": 1"))
		if err != nil {
			t.Fatal(err)
		}
		if head := string(AppendRequest(nil, h, nil, r.Framing())); !strings.Contains(head, name+": 1\r\n") {
			t.Errorf("Connection removed %s: %q", name, head)
		}
		if !strings.Contains(name, "-") || !strings.HasPrefix(name, "X-") || strings.HasPrefix(name, "X-B3") {
			continue
		}
		r, h, _, err = parseRequest(t, get(strings.ReplaceAll(name, "-", "_")+": 1", strings.Replace(name, "-", "_", 1)+": 1"))
		if err != nil {
			t.Fatal(err)
		}
		if head := string(AppendRequest(nil, h, nil, r.Framing())); head != crlf("GET / HTTP/1.1", "Host: a") {
			t.Errorf("an imitation of %s was passed on: %q", name, head)
		}
	}
}

// Routing and policy see exactly the fields that are passed on, and every line of them (CVE-2026-26308, CVE-2024-10006).
func TestCVEClass05_RoutingSeesEveryLine(t *testing.T) {
	_, h, _, err := parseRequest(t, get("X-Role: user", "Connection: x-secret", "x-role: admin", "X-Secret: 1"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for v, i := h.Next("x-role", 0); i >= 0; v, i = h.Next("x-role", i) {
		got = append(got, string(v))
	}
	if !slices.Equal(got, []string{"user", "admin"}) {
		t.Errorf("x-role: %q, want both lines", got)
	}
	if v, i := h.Next("x-secret", 0); i >= 0 {
		t.Errorf("x-secret: %q is seen but not passed on", v)
	}
}

// What could carry a second message past the first, or leave bytes for the next user of a connection (CVE-2024-23326,
// CVE-2025-64763, CVE-2026-71324, CVE-2022-41721).
func TestCVEClass14_UpgradeAndConnect(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want error
	}{
		{crlf("CONNECT a:443 HTTP/1.1", "Host: a", "Content-Length: 20"), ErrConnect},
		{crlf("CONNECT a:443 HTTP/1.1", "Host: a", "Transfer-Encoding: chunked"), ErrConnect},
		{crlf("CONNECT a:443 HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: websocket"), ErrUpgrade},
		{get("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 20"), ErrUpgrade},
		{get("Connection: Upgrade", "Upgrade: h2c, websocket", "Transfer-Encoding: chunked"), ErrUpgrade},
		{crlf("CONNECT a:443 HTTP/1.1", "Host: a", "Connection: upgrade", "Upgrade: h2c"), ErrUpgrade},
		{get("Connection: Upgrade", "Upgrade: h2c", "Upgrade: websocket"), ErrUpgrade},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", ErrHTTP2Preface},
	} {
		if _, _, err := judge(tt.in, Limits{}); !errors.Is(err, tt.want) {
			t.Errorf("%q: %v, want %v", tt.in, err, tt.want)
		}
	}
	// The offer of h2c is not taken, and goes no further (CVE-2022-41721).
	for _, c := range []struct{ upgrade, framing, want string }{
		{"h2c", "X-A: b", crlf("GET / HTTP/1.1", "Host: a", "X-A: b")},
		{"H2C", "Content-Length: 20", crlf("GET / HTTP/1.1", "Host: a", "Content-Length: 20")},
		{"h2c", "Transfer-Encoding: chunked", crlf("GET / HTTP/1.1", "Host: a", "Transfer-Encoding: chunked")},
	} {
		r, h, _, err := parseRequest(t, get("Connection: Upgrade, HTTP2-Settings", "Upgrade: "+c.upgrade, "HTTP2-Settings: AAMAAABk", c.framing))
		if err != nil {
			t.Fatal(err)
		}
		if head := string(AppendRequest(nil, h, nil, r.Framing())); head != c.want || h.Protocol.End > h.Protocol.Start {
			t.Errorf("%+v: %q was passed on", c, head)
		}
	}
	for _, in := range []string{
		crlf("HTTP/1.1 101 S", "Upgrade: websocket"), crlf("HTTP/1.1 101 S", "Connection: upgrade"),
		crlf("HTTP/1.0 101 S", "Connection: upgrade", "Upgrade: websocket"),
		crlf("HTTP/1.1 101 S", "Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c"),
		crlf("HTTP/1.1 200 S", "Connection: upgrade", "Upgrade: websocket"),
	} {
		r, h := new(Response), new(message.Head)
		if _, err := r.Parse([]byte(in), h, Limits{}); err == nil && len(h.Bytes(h.Protocol)) > 0 {
			t.Errorf("%q is taken for an upgrade", in)
		}
	}
}
