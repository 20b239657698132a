package accesslog

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// fieldsOfMeshes are the members of the JSON format that Consul writes by default, and Istio with the cluster's name as it was
// configured.
var fieldsOfMeshes = map[string]string{
	"start_time": "%START_TIME%", "route_name": "%ROUTE_NAME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
	"protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%", "response_code_details": "%RESPONSE_CODE_DETAILS%",
	"connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%", "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%",
	"duration": "%DURATION%", "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
	"user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%", "upstream_host": "%UPSTREAM_HOST%",
	"upstream_cluster": "%UPSTREAM_CLUSTER%", "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%", "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
	"downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
	"upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}

// TestFormatsOfMeshes takes the formats that meshes give their Envoys by default.
func TestFormatsOfMeshes(t *testing.T) {
	for _, c := range []struct{ name, format, want string }{
		{
			"Envoy", Default,
			`[2026-11-24T21:41:54.817Z] "GET /a?q=1 HTTP/1.1" 503 UF,UT 3 5 1500 - "-" "agent" "11111111-2222-4333-8444-555555555555" "web" "[2001:db8::1]:80"` + "\n",
		},
		{
			"Istio", `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% ` +
				`%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% ` +
				`%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" ` +
				`"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% ` +
				`%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%` + "\n",
			`[2026-11-24T21:41:54.817Z] "GET /a?q=1 HTTP/1.1" 503 UF,UT a_b - "-" 3 5 1500 - "-" "agent" "11111111-2222-4333-8444-555555555555" ` +
				`"web" "[2001:db8::1]:80" web - - - web main` + "\n",
		},
		{
			"Kuma", `[%START_TIME%] default "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% ` +
				`%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
				`"%REQ(X-B3-TRACEID?X-DATADOG-TRACEID)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "a" "b" "192.0.2.7" "%UPSTREAM_HOST%"` + "\n",
			`[2026-11-24T21:41:54.817Z] default "GET /a?q=1 HTTP/1.1" 503 UF,UT 3 5 1500 - "-" "agent" "-" "11111111-2222-4333-8444-555555555555" ` +
				`"web" "a" "b" "192.0.2.7" "[2001:db8::1]:80"` + "\n",
		},
		{
			"Kuma's of TCP", `[%START_TIME%] %RESPONSE_FLAGS% default 192.0.2.7(a)->%UPSTREAM_HOST%(b) took %DURATION%ms, sent %BYTES_SENT% bytes, received: %BYTES_RECEIVED% bytes` + "\n",
			"[2026-11-24T21:41:54.817Z] UF,UT default 192.0.2.7(a)->[2001:db8::1]:80(b) took 1500ms, sent 5 bytes, received: 3 bytes\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var compiler Compiler
			p, err := compiler.Text(c.format, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(p.Append(nil, testRecord(&compiler, "agent"))); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	for _, cluster := range []string{"%UPSTREAM_CLUSTER%", "%UPSTREAM_CLUSTER_RAW%"} {
		format := map[string]any{}
		for name, value := range fieldsOfMeshes {
			format[name] = value
		}
		format["upstream_cluster"] = cluster
		var compiler Compiler
		p, err := compiler.JSON(format, false)
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(p.Append(nil, testRecord(&compiler, "agent")), &got); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(fieldsOfMeshes) || got["upstream_cluster"] != "web" || got["connection_termination_details"] != nil || got["response_code"] != 503.0 {
			t.Errorf("got %v", got)
		}
	}
}

// TestOperatorsOfConnections write what is told of the upstream's connection, of paths and of times.
func TestOperatorsOfConnections(t *testing.T) {
	for _, c := range []struct{ name, format, want string }{
		{"upstream", "%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", "[2001:db8::1]:80 2001:db8::1 80"},
		{"upstream's TLS", "%UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER% %UPSTREAM_PEER_SUBJECT% %UPSTREAM_PEER_ISSUER% %UPSTREAM_PEER_URI_SAN% %UPSTREAM_PEER_DNS_SAN%", "TLSv1.2 ECDHE CN=h CN=i spiffe://h a,b"},
		{"failures", "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%|%CONNECTION_TERMINATION_DETAILS%", "TLS_error:_no|time was up"},
		{"identities", "%UNIQUE_ID% %TRACE_ID%", "uuid -"},
		{"without query", "%REQ_WITHOUT_QUERY(:PATH)% %REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH):3% %REQ_WITHOUT_QUERY(NONE)%", "/a /or -"},
		// Of this path the stock Envoy 1.40 wrote so.
		{"path", "%PATH(NQ:PATH)% %PATH(NQ)% %PATH% %PATH(WQ:ORIG)% %PATH(WQ:ORIG_OR_PATH)%", "/a /orig /orig?z=1 /orig?z=1 /orig?z=1"},
		{"parameters", "%QUERY_PARAM(q)%|%QUERY_PARAM(e)%|%QUERY_PARAM(a b)%|%QUERY_PARAM(plus)%|%QUERY_PARAM(none)%|%QUERY_PARAM(q):2%|%QUERY_PARAM(bare)%|%QUERY_PARAM(bad)%", "1 x||c|a+b|-|1 ||%2"},
		{"times", "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)% %COMMON_DURATION(DS_RX_BEG:US_RX_BEG:ms)% %COMMON_DURATION(US_TX_END:US_RX_BEG:ns)% %COMMON_DURATION(DS_RX_BEG:DS_RX_END:ms)% %COMMON_DURATION(US_RX_BEG:US_TX_END:ms)%", "1500000 1400 400000000 - -"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var compiler Compiler
			p, err := compiler.Text(c.format, false)
			if err != nil {
				t.Fatal(err)
			}
			r := testRecord(&compiler, "agent")
			r.Path = []byte("/a?q=1%20x&e=&a%20b=c&plus=a+b&q=2&bare&bad=%2")
			r.Connected, r.UpstreamTLS = true, &TLS{Version: "TLSv1.2", Cipher: "ECDHE", Subject: "CN=h", Issuer: "CN=i", URIs: "spiffe://h", DNSNames: "a,b"}
			r.Unique, r.DownstreamFailure, r.Termination = []byte("uuid"), "TLS error: no", "time was up"
			r.RequestTX, r.ResponseDuration = time.Second, 1400*time.Millisecond
			r.Request.Collect(&compiler.Names.Request, head("x-envoy-original-path", "/orig?z=1"), nil)
			if got := string(p.Append(nil, r)); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestUpstreamThatWasNotReached has an address among hosts, but none of a connection.
func TestUpstreamThatWasNotReached(t *testing.T) {
	var c Compiler
	p, err := c.Text("%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_PORT% %UPSTREAM_TLS_VERSION%", false)
	if err != nil {
		t.Fatal(err)
	}
	r := &Record{UpstreamRemote: config.Address{IP: netip.MustParseAddrPort("192.0.2.1:80")}}
	if got := string(p.Append(nil, r)); got != "192.0.2.1:80 - - -" {
		t.Errorf("got %q", got)
	}
}

func TestLocalTime(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		want  string
	}{
		// What the stock Envoy 1.40 writes with the zone America/New_York.
		{-5 * time.Hour, "2026-11-24T16:41:54.817-0500 -0500 -05:00 ZONE"},
		{5*time.Hour + 30*time.Minute, "2026-11-25T03:11:54.817+0530 +0530 +05:30 ZONE"},
		{0, "2026-11-24T21:41:54.817+0000 +0000 +00:00 ZONE"},
	} {
		at := time.Date(2026, 11, 24, 21, 41, 54, 817244000, time.UTC).In(time.FixedZone("ZONE", int(c.ahead/time.Second)))
		parts, err := parseStamp(localStamp + " %z %Ez %Z")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(appendStamp(nil, parts, at)); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	var c Compiler
	p, err := c.Text("%START_TIME_LOCAL% %EMIT_TIME_LOCAL(%s)%", false)
	if err != nil {
		t.Fatal(err)
	}
	r := testRecord(&c, "")
	want := r.Start.Local().Format("2006-01-02T15:04:05.000-0700") + " 1795556516"
	if got := string(p.Append(nil, r)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNearOperators(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"A", "", 1}, {"RESPONSE_CODE", "RESPONSE_COD", 1}, {"KITTEN", "SITTING", 3}, {strings.Repeat("A", 65), "A", 64}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("%s, %s: got %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
