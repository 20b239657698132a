package accesslog

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/message"
)

var testFlags = []string{"UH", "UF", "UT"}

// head makes a head of names and values.
func head(fields ...string) *message.Head {
	h := &message.Head{}
	h.Reset()
	for i := 0; i < len(fields); i += 2 {
		h.AddField(fields[i], fields[i+1])
	}
	return h
}

// testRecord is a request with what a client can make of it.
func testRecord(c *Compiler, agent string) *Record {
	r := &Record{
		Start: time.Date(2026, 11, 24, 21, 41, 54, 817244000, time.UTC), Duration: 1500 * time.Millisecond, RequestDuration: -1,
		Method: []byte("GET"), Path: []byte("/a?q=1"), Authority: []byte("web"), RequestID: []byte("11111111-2222-4333-8444-555555555555"),
		Protocol: "HTTP/1.1", Status: 503, Flags: 6, FlagNames: testFlags, Details: "a b", BytesReceived: 3, BytesSent: 5,
		Route: "main", Cluster: "web", UpstreamRemote: config.Address{IP: netip.MustParseAddrPort("[2001:db8::1]:80")}, Direct: netip.MustParseAddrPort("192.0.2.1:5"),
		Chain: "chain", TLS: &TLS{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256", ServerName: "web", Subject: `CN="`, URIs: "spiffe://a"},
	}
	r.Request.Collect(&c.Names.Request, head("user-agent", agent, "X-Two", "1", "x-two", "2", "x-empty", ""), nil)
	return r
}

func TestText(t *testing.T) {
	for _, c := range []struct{ name, format, agent, want string }{
		{"literal", "a%%b\n", "", "a%b\n"},
		{"values", "%REQ(:METHOD)% %REQ(:PATH):2% %REQ(HOST)% %PROTOCOL% %RESPONSE_CODE% %RESP(:STATUS):1%", "", "GET /a web HTTP/1.1 503 5"},
		{"missing", "%REQ(NONE)%|%RESP(NONE)%|%TRAILER(X)%|%REQUEST_DURATION%|%UPSTREAM_LOCAL_ADDRESS%|%GRPC_STATUS%", "", "-|-|-|-|-|-"},
		{"alternative", "%REQ(NONE?USER-AGENT):3%", "agent", "age"},
		{"first line", "%REQ(X-TWO)%", "", "1"},
		{"empty value", "<%REQ(X-EMPTY)%>", "", "<>"},
		{"no bytes", "<%REQ(X-TWO):0%>", "", "<>"},
		{"flags", "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%", "", "UF,UT UpstreamConnectionFailure,UpstreamRequestTimeout"},
		{"details", "%RESPONSE_CODE_DETAILS%|%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "", "a_b|a b"},
		{"figures", "%BYTES_RECEIVED% %BYTES_SENT% %DURATION%", "", "3 5 1500"},
		{"addresses", "%UPSTREAM_HOST% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_PORT%", "", "[2001:db8::1]:80 192.0.2.1:5 192.0.2.1 5"},
		{"host", "%HOSTNAME%", "", "host1"},
		{"TLS", "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER% %REQUESTED_SERVER_NAME% %DOWNSTREAM_PEER_SUBJECT%|%DOWNSTREAM_PEER_URI_SAN%|%DOWNSTREAM_PEER_DNS_SAN% %FILTER_CHAIN_NAME%", "", `TLSv1.3 TLS_AES_128_GCM_SHA256 web CN=\x22|spiffe://a|- chain`},
		{"escaped", `"%REQ(USER-AGENT)%"`, "q\"\\\n\x1b\u009b\xff", `"q\x22\x5c\x0a\x1b\xc2\x9b\xff`},
		{"escaped bytes", `"%REQ(USER-AGENT)%"`, "é\t\xff", `"\xc3\xa9\x09\xff"`},
		{"literals are as they are", "é\t\"%PROTOCOL%\"", "", "é\t\"HTTP/1.1\""},
		// What the stock Envoy 1.40 wrote of this moment.
		{"start", "%START_TIME%|%START_TIME()%|%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%|%START_TIME(%s.%3f)%|%START_TIME(%f %1f %6f %9f)%", "", "2026-11-24T21:41:54.817Z|2026-11-24T21:41:54.817Z|2026/11/24T21:41:54+0000 1795556514|1795556514.817|817244000 8 817244 817244000"},
		{"strftime", "%START_TIME(%a %A %b %B %d %e %j %y %C %D %F %T %R %I %p %Z %z %% %u%w%h %H%M|%E3S %Ez|plain)%", "", "Tue Tuesday Nov November 24 24 328 26 20 11/24/26 2026-11-24 21:41:54 21:41 09 PM UTC +0000 % 22Nov 2141|54.817 +00:00|plain"},
		{"emitted", "%EMIT_TIME(%S.%1f)%", "", "56.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			compiler := Compiler{Hostname: "host1"}
			p, err := compiler.Text(c.format, false)
			if err != nil {
				t.Fatal(err)
			}
			got := string(p.Append([]byte("before "), testRecord(&compiler, c.agent)))
			if c.name == "escaped" { // the head ends at the line's end: what is behind it was no part of the value
				got = strings.TrimSuffix(got, `"`)
			}
			if got != "before "+c.want {
				t.Errorf("got  %q\nwant %q", got, "before "+c.want)
			}
		})
	}
}

// TestPathsOfUnixSockets stand for addresses, escaped as what peers choose, and have no port.
func TestPathsOfUnixSockets(t *testing.T) {
	var c Compiler
	p, err := c.Text("%UPSTREAM_HOST% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", false)
	if err != nil {
		t.Fatal(err)
	}
	r := &Record{UpstreamRemote: config.Address{Path: "/run/a\"\n"}, Local: config.Address{Path: "@b"}}
	if got := string(p.Append(nil, r)); got != `/run/a\x22\x0a - @b @b -` {
		t.Errorf("got %q", got)
	}
}

func TestOmitEmptyValues(t *testing.T) {
	var c Compiler
	p, err := c.Text(`"%REQ(NONE)%" %RESPONSE_FLAGS% %PROTOCOL%`, true)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(p.Append(nil, &Record{})); got != `"" - ` {
		t.Errorf("got %q", got)
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct{ format, want string }{
		{"a %", "at byte 2"},
		{"%protocol%", `got "%protocol%"`},
		{"%PROTOCOL", "want a command operator that ends with %"},
		{"%PROTOCOL(X)%", "got parameters for %PROTOCOL%"},
		{"%PROTOCOL:3%", "got a length for %PROTOCOL%"},
		{"%REQ%", "want one field name"},
		{"%REQ()%", "want one field name"},
		{"%REQ(A?)%", "want one field name"},
		{"%REQ(A?B?C)%", "want one field name"},
		{"%REQ(A B)%", `got the field name "A B"`},
		{"%REQ(:OTHER)%", "want :method"},
		{"%RESP(:PATH)%", "want :status"},
		{"%REQ(A", "without )"},
		{"%REQ(A):%", "with the length"},
		{"%REQ(A):99999999999999999999%", "with the length"},
		{"%GRPC_STATUS(camel)%", "want nothing, CAMEL_STRING, SNAKE_STRING or NUMBER"},
		{"%GRPC_STATUS_NUMBER(NUMBER)%", "got parameters for %GRPC_STATUS_NUMBER%"},
		{"%TRAILER()%", "want one field name"},
		{"%DYNAMIC_METADATA(a:b)%", "%DYNAMIC_METADATA%"},
		{"%ENVIRONMENT(HOME)%", "%ENVIRONMENT%"},
		{"%FILTER_STATE(a)%", "%FILTER_STATE%"},
		{"%UPSTREAM_WIRE_BYTES_SENT%", "want %BYTES_SENT%, or another one that docs/accesslog.md lists"},
		{"%RESPONSE_CODES%", "want %RESPONSE_CODE%, or another"},
		{"%NONE_OF_THESE%", "want one that docs/accesslog.md lists"},
		{"%" + strings.Repeat("X", 200) + "%", "want one that"},
		{"%PATH(XX)%", "want WQ or NQ"},
		{"%PATH(NQ:OTHER)%", "ORIG_OR_PATH"},
		{"%QUERY_PARAM%", "%QUERY_PARAM(name)%"},
		{"%REQ_WITHOUT_QUERY()%", "want one field name"},
		{"%START_TIME_LOCAL(%Q)%", "%START_TIME_LOCAL%"},
		{"%COMMON_DURATION(DS_RX_BEG:US_RX_BEG)%", "want two points and a unit"},
		{"%COMMON_DURATION(DS_RX_BEG:US_CX_BEG:ms)%", "want points among DS_RX_BEG, DS_RX_END, DS_TX_END, US_RX_BEG, US_TX_END"},
		{"%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:s)%", "the unit ms, us or ns"},
		{"%START_TIME(%Q)%", "in the time format"},
		{"%START_TIME(%)%", "at the end of the time format"},
		{"%START_TIME(%n)%", "in the time format"},
		{"%START_TIME(a\nb)%", "a line end"},
		{"%START_TIME(" + strings.Repeat("x", 2000) + ")%", "1024"},
		{"%RESPONSE_CODE_DETAILS(X)%", "ALLOW_WHITESPACES"},
		{strings.Repeat("x", 1<<17), "at most 65536"},
	} {
		var compiler Compiler
		if _, err := compiler.Text(c.format, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want it to name %q", c.format, err, c.want)
		}
		if _, err := compiler.JSON(map[string]any{"k": []any{c.format}}, false); err == nil || !strings.Contains(err.Error(), `"k": [0]`) {
			t.Errorf("%.40q in JSON: %v", c.format, err)
		}
	}
}

func TestJSON(t *testing.T) {
	format := map[string]any{
		"b": "%RESPONSE_CODE%", "a": "%REQ(USER-AGENT)%", "none": "%REQ(NONE)%", "mix": "é%RESPONSE_CODE%-%REQ(NONE)%", "empty": "",
		"nest": map[string]any{"n": 1.0, "f": 1.5, "big": 1e300, "t": true, "nul": nil, "list": []any{"%RESPONSE_FLAGS%", "s", nil}},
		"e":    map[string]any{}, "l": []any{}, "only": map[string]any{"x": "%REQ(NONE)%"}, "k\"\n": "%%", "port": "%DOWNSTREAM_DIRECT_REMOTE_PORT%",
	}
	const agent = "q\"\\\t<é\u202e\U0001f600\xff"
	for _, c := range []struct {
		name string
		omit bool
		want string
	}{
		{"all", false, `{"a":"q\"\\\t<\u00e9\u202e\ud83d\ude00\ufffd","b":503,"e":{},"empty":"","k\"\n":"%","l":[],"mix":"\u00e9503--","nest":{"big":1e+300,"f":1.5,"list":["UF,UT","s",null],"n":1,"nul":null,"t":true},"none":null,"only":{"x":null},"port":5}` + "\n"},
		{"omit", true, `{"a":"q\"\\\t<\u00e9\u202e\ud83d\ude00\ufffd","b":503,"empty":"","k\"\n":"%","l":[],"mix":"\u00e9503-","nest":{"big":1e+300,"f":1.5,"list":["UF,UT","s",null],"n":1,"t":true},"port":5}` + "\n"},
	} {
		var compiler Compiler
		p, err := compiler.JSON(format, c.omit)
		if err != nil {
			t.Fatal(err)
		}
		got := p.Append(nil, testRecord(&compiler, agent))
		if string(got) != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
		if !json.Valid(got) {
			t.Errorf("%s: no JSON: %s", c.name, got)
		}
	}
}

func TestJSONRefuses(t *testing.T) {
	deep := any("x")
	for range 40 {
		deep = []any{deep}
	}
	zero := 0.0
	for _, v := range []any{deep, 1 / zero, 3} {
		if _, err := new(Compiler).JSON(map[string]any{"k": v}, false); err == nil {
			t.Errorf("%v is taken", v)
		}
	}
}

func TestFilter(t *testing.T) {
	status := func(op config.LogComparison, v uint64) config.LogFilter {
		return config.LogFilter{Kind: config.LogStatus, Op: op, Value: v}
	}
	header := func(name, exact string, present, invert bool) config.LogFilter {
		return config.LogFilter{Kind: config.LogHeader, Header: config.HeaderMatch{Name: name, Exact: exact, Present: present, Invert: invert}}
	}
	share := func(part, of uint64, independent bool) config.LogFilter {
		return config.LogFilter{Kind: config.LogRuntime, Share: config.LogShare{Part: part, Of: of, Independent: independent}}
	}
	all := func(kind config.LogFilterKind, fs ...config.LogFilter) config.LogFilter {
		return config.LogFilter{Kind: kind, Filters: fs}
	}
	yes, no := status(config.LogEqual, 503), status(config.LogEqual, 1)
	for _, c := range []struct {
		name string
		f    config.LogFilter
		want bool
	}{
		{"equal", yes, true},
		{"not equal", no, false},
		{"at least", status(config.LogAtLeast, 503), true},
		{"at least more", status(config.LogAtLeast, 504), false},
		{"at most", status(config.LogAtMost, 503), true},
		{"at most less", status(config.LogAtMost, 502), false},
		{"other", status(config.LogNotEqual, 502), true},
		{"same", status(config.LogNotEqual, 503), false},
		{"duration", config.LogFilter{Kind: config.LogDuration, Op: config.LogAtLeast, Value: 1500}, true},
		{"longer duration", config.LogFilter{Kind: config.LogDuration, Op: config.LogAtLeast, Value: 1501}, false},
		{"no health check", config.LogFilter{Kind: config.LogNotHealthCheck}, true},
		{"any flag", config.LogFilter{Kind: config.LogFlags}, true},
		{"flag", config.LogFilter{Kind: config.LogFlags, Flags: []string{"DC", "UT"}}, true},
		{"another flag", config.LogFilter{Kind: config.LogFlags, Flags: []string{"UH"}}, false},
		{"header", header("user-agent", "agent", false, false), true},
		{"header differs", header("user-agent", "other", false, false), false},
		{"lines of a header", header("x-two", "1,2", false, false), true},
		{"one line of two", header("x-two", "1", false, false), false},
		{"header is there", header("x-empty", "", true, false), true},
		{"header is missing", header("none", "", true, true), true},
		{"missing has no value", header("none", "x", false, true), false},
		{"method", header(":method", "GET", false, false), true},
		{"share of the identity", share(12, 100, false), false}, // 0x11111111 % 100 is 53
		{"larger share", share(54, 100, false), true},
		{"independent share", share(8, 100, true), true}, // Random is 7
		{"smaller independent share", share(7, 100, true), false},
		{"and", all(config.LogAnd, yes, yes), true},
		{"and not", all(config.LogAnd, yes, no), false},
		{"or", all(config.LogOr, no, yes), true},
		{"or none", all(config.LogOr, no, no), false},
	} {
		var compiler Compiler
		f, err := compiler.Filter(&c.f)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		r := testRecord(&compiler, "agent")
		r.Random = 7
		if got := f.Takes(r); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	var none *Filter
	if !none.Takes(&Record{}) {
		t.Error("no filter takes nothing")
	}
	for _, bad := range []config.LogFilter{{Kind: config.LogFlags, Flags: []string{"XX"}}, {Kind: config.LogHeader}, header("a b", "", true, false), header(":other", "", true, false)} {
		if _, err := new(Compiler).Filter(&config.LogFilter{Kind: config.LogOr, Filters: []config.LogFilter{bad, bad}}); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// everything is a format with all operators.
func everything(t testing.TB, c *Compiler) (text, js *Program) {
	t.Helper()
	format := Default + "%START_TIME(%s.%3f %a %j %p)% %EMIT_TIME% %HOSTNAME% %RESPONSE_CODE_DETAILS% %REQ(A?USER-AGENT):9% %RESP(X)% %RESP(:STATUS)%" +
		" %START_TIME_LOCAL% %EMIT_TIME_LOCAL(%Ez %Z %z)% %REQ_WITHOUT_QUERY(:PATH)% %PATH(NQ)% %PATH% %QUERY_PARAM(q)% %QUERY_PARAM(n)% %COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%"
	for name := range operators {
		format += " %" + name + "%"
	}
	text, err := c.Text(format, false)
	if err != nil {
		t.Fatal(err)
	}
	if js, err = c.JSON(map[string]any{"a": "%REQ(USER-AGENT)%", "all": format, "o": map[string]any{"n": "%DURATION%", "z": "%REQ(NONE)%"}}, true); err != nil {
		t.Fatal(err)
	}
	return text, js
}

func TestAppendDoesNotAllocate(t *testing.T) {
	c := Compiler{Hostname: "h"}
	text, js := everything(t, &c)
	f, err := c.Filter(&config.LogFilter{Kind: config.LogAnd, Filters: []config.LogFilter{
		{Kind: config.LogStatus, Op: config.LogAtLeast, Value: 1},
		{Kind: config.LogFlags, Flags: []string{"UF"}},
		{Kind: config.LogHeader, Header: config.HeaderMatch{Name: "user-agent", Present: true}},
		{Kind: config.LogRuntime, Share: config.LogShare{Part: 100, Of: 100}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	h := head("User-Agent", "a\xff\"b")
	r := testRecord(&c, "x")
	buf := make([]byte, 0, 1<<16)
	if n := testing.AllocsPerRun(100, func() {
		r.Request.Collect(&c.Names.Request, h, nil)
		if f.Takes(r) {
			buf = js.Append(text.Append(buf[:0], r), r)
		}
	}); n != 0 {
		t.Errorf("%v allocations a line", n)
	}
	if len(buf) < 500 {
		t.Errorf("the line is %q", buf)
	}
}

func FuzzCompile(f *testing.F) {
	f.Add(Default, "agent")
	f.Add("%START_TIME(%E3S %1f%%)% %REQ(A?B):3% %RESP(:STATUS)%%%", "\x1b\"")
	f.Add("%REQ(USER-AGENT)%%", "é")
	f.Fuzz(func(t *testing.T, format, value string) {
		var c Compiler
		p, err := c.Text(format, false)
		if err == nil {
			r := testRecord(&c, value)
			line := p.Append(nil, r)
			if newlines := bytes.Count(line, []byte("\n")); newlines > strings.Count(format, "\n") {
				t.Errorf("%q: %q has %d line ends", format, line, newlines)
			}
		}
		j, jsonErr := c.JSON(map[string]any{"k": format, format: "x"}, false)
		if (err == nil) != (jsonErr == nil) {
			t.Fatalf("text: %v, JSON: %v", err, jsonErr)
		}
		if err == nil && !json.Valid(j.Append(nil, testRecord(&c, value))) {
			t.Errorf("%q: no JSON: %q", format, j.Append(nil, testRecord(&c, value)))
		}
	})
}

func FuzzAppend(f *testing.F) {
	f.Add([]byte("GET /"), []byte("agent"), "details")
	f.Add([]byte("\"\\\n"), []byte("\xff\u202e\U0001f600"), "\x00")
	f.Fuzz(func(t *testing.T, path, agent []byte, details string) {
		var c Compiler
		text, err := c.Text("\"%REQ(:PATH)%\" \"%REQ(USER-AGENT):5%\" \"%REQ(USER-AGENT)%\" \"%RESPONSE_CODE_DETAILS%\"\n", false)
		if err != nil {
			t.Fatal(err)
		}
		js, err := c.JSON(map[string]any{"p": "%REQ(:PATH)%", "a": "%REQ(USER-AGENT):5%", "d": "<%RESPONSE_CODE_DETAILS%>"}, false)
		if err != nil {
			t.Fatal(err)
		}
		r := &Record{Path: path, Details: details}
		r.Request.Collect(&c.Names.Request, head("user-agent", string(agent)), nil)
		line := text.Append(nil, r)
		if bytes.Count(line, []byte(`"`)) != 8 || bytes.IndexByte(line, '\n') != len(line)-1 || bytes.ContainsFunc(line[:len(line)-1], func(c rune) bool { return c < ' ' || c >= 0x7f }) {
			t.Errorf("line %q", line)
		}
		line = js.Append(nil, r)
		var got struct{ P *string }
		if err := json.Unmarshal(line, &got); err != nil || bytes.ContainsFunc(line[:len(line)-1], func(c rune) bool { return c < ' ' || c >= 0x7f }) {
			t.Fatalf("line %q: %v", line, err)
		}
		if utf8.Valid(path) && len(path) > 0 && *got.P != string(path) {
			t.Errorf("%q became %q", path, *got.P)
		}
	})
}
