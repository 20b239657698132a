package message

import (
	"reflect"
	"strings"
	"testing"
)

func TestLookupFindsEveryNameInAnyCase(t *testing.T) {
	for n := Accept; n < NumNames; n++ {
		for _, text := range []string{n.String(), strings.ToUpper(n.String())} {
			if got := Lookup([]byte(text)); got != n || text == "" {
				t.Errorf("Lookup(%q) = %d, want %d", text, got, n)
			}
			for _, other := range []string{text + "x", text[1:], "_" + text[1:]} {
				if got := Lookup([]byte(other)); got != Other && !strings.EqualFold(got.String(), other) {
					t.Errorf("Lookup(%q) = %v", other, got)
				}
			}
		}
		for i := range n.String() {
			other := []byte(n.String())
			for c := range 256 {
				other[i] = byte(c)
				if got := Lookup(other); got != Other && !EqualFold(other, got.String()) || got != n && EqualFold(other, n.String()) {
					t.Errorf("Lookup(%q) = %v", other, got)
				}
			}
		}
		if s := Names(n); !s.Has(n) || s.Has((n+1)%NumNames) || s.Has((n+64)%NumNames) && (n+64)%NumNames != n {
			t.Errorf("the set of %v has other members", n)
		}
		if len(n.String()) > longestName {
			t.Errorf("%v is longer than longestName", n)
		}
	}
	if Lookup(nil) != Other || Lookup([]byte("-ost")) != Other || Lookup([]byte("\x08ost")) != Other {
		t.Error("a name was found that is none")
	}
}

func TestHeadIsReused(t *testing.T) {
	h := new(Head)
	fill := func() {
		h.Reset()
		h.AddField("Cookie", "a=1")
		h.AddField("x-a", "1")
		h.AddField("cookie", "b=2")
		h.SetPath(h.Put("/p?q=1?2"))
	}
	fill()
	if n := testing.AllocsPerRun(10, fill); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	if h.Count(Cookie) != 2 || string(h.Known(Cookie)) != "a=1" || h.Known(Date) != nil || h.Len() != 3 {
		t.Error("fields are not found")
	}
	if string(h.Bytes(h.Path)) != "/p" || string(h.Bytes(h.Query)) != "q=1?2" || !h.HasQuery {
		t.Error("the target is not split")
	}
	var got []string
	for v, i := h.Next("cookie", 0); i >= 0; v, i = h.Next("cookie", i) {
		got = append(got, string(v))
	}
	if strings.Join(got, ";") != "a=1;b=2" {
		t.Errorf("Next saw %q", got)
	}
	h.SetLines(uint32(len(h.Text)))
	h.Method, h.Status, h.ContentLength = MethodGet, 200, 5
	all := h.Put("part")
	h.MethodText, h.Scheme, h.Authority, h.Protocol, h.Reason = all, all, all, all, all
	h.Reset()
	fresh := &Head{Text: h.Text, fields: h.fields, ContentLength: -1}
	if !reflect.DeepEqual(h, fresh) {
		t.Errorf("Reset left %+v", h)
	}
	if h.Len() != 0 || h.Known(Cookie) != nil || h.ContentLength != -1 || h.HasQuery {
		t.Error("Reset left something")
	}
}

func TestHeadIsCopied(t *testing.T) {
	from, h := new(Head), new(Head)
	from.Reset()
	from.MethodText = from.Put("GET")
	from.AddField("Cookie", "a=1")
	from.SetLines(7)
	h.AddField("x", "y")
	h.Copy(from)
	text := string(h.Text)
	clear(from.Text)
	from.Reset()
	from.AddField("other", "1")
	if n, end := h.Lines(); string(h.Text) != text || h.Len() != 1 || string(h.Known(Cookie)) != "a=1" || string(h.Bytes(h.MethodText)) != "GET" || n != 1 || end != 7 {
		t.Errorf("the copy is %+v", h)
	}
	if n := testing.AllocsPerRun(10, func() { h.Copy(from) }); n != 0 || h.First(Cookie) != -1 || h.Len() != 1 {
		t.Errorf("%v allocations; %+v", n, h)
	}
}

func TestHideAndUnderscored(t *testing.T) {
	h := new(Head)
	h.Reset()
	for _, name := range []string{"X-A", "x_a", "Accept", "x-a", "accept", "X_B", "y"} {
		h.AddField(name, "1")
	}
	hidden := func() (s string) {
		for _, f := range h.Fields() {
			if f.Hop {
				s += string(h.Bytes(f.Name)) + " "
			}
		}
		return s
	}
	if h.Hide([]byte("x-A")); hidden() != "X-A x-a " {
		t.Errorf("hidden: %q", hidden())
	}
	if h.Hide([]byte("ACCEPT")); hidden() != "X-A Accept x-a accept " {
		t.Errorf("hidden: %q", hidden())
	}
	if n := h.Underscored(false); n != 2 || hidden() != "X-A Accept x-a accept " {
		t.Errorf("%d have an underscore, hidden: %q", n, hidden())
	}
	if n := h.Underscored(true); n != 2 || hidden() != "X-A x_a Accept x-a accept X_B " {
		t.Errorf("%d have an underscore, hidden: %q", n, hidden())
	}
}

func TestTextLen(t *testing.T) {
	for _, before := range []string{"", "a", "seven..", "eight...", "a\tb\tc\td\te", "\t\t\t\t\t\t\t\t\t", strings.Repeat("\xff", 20)} {
		for _, after := range []string{"", "x", "more than eight bytes"} {
			for c := range 256 {
				b := []byte(before + string([]byte{byte(c)}) + after)
				want := len(b)
				if c < ' ' && c != '\t' || c == 0x7f {
					want = len(before)
				}
				if got := TextLen(b); got != want {
					t.Errorf("TextLen(%q) = %d, want %d", b, got, want)
				}
			}
		}
	}
}

func TestTokenLen(t *testing.T) {
	for c := range 256 {
		want := 2
		if ValidToken([]byte{byte(c)}) {
			want = 4
		}
		if n, underscore := TokenLen([]byte{'a', '-', byte(c), 'b'}); n != want || underscore != (c == '_') {
			t.Errorf("byte %#x: %d, %v", c, n, underscore)
		}
	}
	if n, _ := TokenLen(nil); n != 0 {
		t.Error("nothing is a token")
	}
}

func TestValidValue(t *testing.T) {
	for c := range 256 {
		want := c >= ' ' && c != 0x7f || c == '\t'
		for _, around := range []string{"a%b", "more than eight bytes %and more", "1234567%12345678"} {
			if got := ValidValue([]byte(strings.ReplaceAll(around, "%", string([]byte{byte(c)})))); got != want {
				t.Errorf("byte %#x in %q: %v, want %v", c, around, got, want)
			}
		}
		if got, want := ValidValue([]byte{byte(c)}), want && c != ' ' && c != '\t'; got != want {
			t.Errorf("byte %#x alone: %v, want %v", c, got, want)
		}
	}
}

func TestValidAuthority(t *testing.T) {
	for text, want := range map[string]bool{
		"a": true, "a.b:80": true, "[::1]": true, "[::1]:443": true, "1.2.3.4": true, "a%2fb": true,
		"": false, "a@b": false, "a:": false, "a:0": false, "a:65536": false, "a b": false, "a/b": false, "[::1": false, "[1]": false, "a,b": false, "a%2": false,
	} {
		if got := ValidAuthority([]byte(text), false); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if ValidAuthority([]byte("a"), true) || !ValidAuthority([]byte("a:1"), true) {
		t.Error("a demanded port is not demanded")
	}
}

// An underscore must not imitate what tells the upstream who is calling (CVE-2026-33433, CVE-2026-54763).
func TestCVEClass13_ImitationsAreFound(t *testing.T) {
	for name, want := range map[string]bool{
		"x_forwarded_for": true, "X-Forwarded_Client-Cert": true, "x_forwarded_" + strings.Repeat("a", 40): true, "x_envoy_external_address": true,
		"x_request_id": true, "content_length": true, "x_forwarded": false, "my_header": false, "x-forwarded-for": false, "_": false,
	} {
		if got := Disguised([]byte(name)); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
