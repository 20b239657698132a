package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// foreignID is the identity that a client gives its request.
const foreignID = "ffffffff-ffff-4fff-bfff-ffffffffffff"

// fieldsSeen answers with the fields of a request that the mesh knows clients by, or that proxies say to each other.
func fieldsSeen(w http.ResponseWriter, r *http.Request) {
	var all []string
	for name, values := range r.Header {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-") {
			all = append(all, fmt.Sprint(lower, ": ", strings.Join(values, " and ")))
		}
	}
	slices.Sort(all)
	_, _ = io.WriteString(w, strings.Join(all, "\n"))
}

// TestCVEClass13_ClientsCannotForge: what hosts know a client by, what tells that a request comes from inside, and what proxies say
// to each other, no host is told as a client says it, and no route believes it, in every pairing.
func TestCVEClass13_ClientsCannotForge(t *testing.T) {
	inside := []string{
		"x-envoy-internal", "x-envoy-retriable-status-codes", "x-envoy-retriable-header-names", "x-envoy-retry-on", "x-envoy-retry-grpc-on",
		"x-envoy-max-retries", "x-envoy-upstream-alt-stat-name", "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms",
		"x-envoy-upstream-rq-timeout-alt-response", "x-envoy-upstream-stream-duration-ms", "x-envoy-expected-rq-timeout-ms", "x-envoy-force-trace",
		"x-envoy-ip-tags", "x-envoy-original-url", "x-envoy-hedge-on-per-try-timeout", "x-forwarded-client-cert",
	}
	edge := []string{
		"x-envoy-external-address", "x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node",
		"x-envoy-original-path", "x-envoy-original-host",
	}
	for _, pair := range pairings {
		for _, faces := range []bool{true, false} { // the client
			t.Run(fmt.Sprint(pair.name, ", faces the client: ", faces), func(t *testing.T) {
				v := vhost("web.mesh.internal", "web")
				believes := *v.Routes[0]
				believes.Clusters = []config.WeightedCluster{{Name: "nowhere", Weight: 1}}
				for _, name := range []string{"x-forwarded-client-cert", "x-envoy-internal"} {
					one := believes
					one.Headers = []config.HeaderMatch{{Name: name, Present: true}}
					v.Routes = append([]*config.Route{&one}, v.Routes...)
				}
				l := httpConfig(freeAddr(t), v)
				l.HTTP.Protocol, l.HTTP.UseRemoteAddress = pair.down, faces
				c := cluster("web", plainServer(t, fieldsSeen))
				c.Protocol = pair.up
				p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, nil)
				client := p.plainClient(pair.down)
				ask := func(fields http.Header) string {
					t.Helper()
					req, _ := http.NewRequest(http.MethodGet, pairURL+"/", nil)
					req.Header = fields
					resp, err := client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					body, _ := io.ReadAll(resp.Body)
					if resp.StatusCode != 200 {
						t.Fatalf("%s %q", resp.Status, body)
					}
					return string(body)
				}
				forged := http.Header{"X-Request-Id": {foreignID}, "X-Real-Ip": {"kept"}}
				for _, name := range slices.Concat(inside, edge) {
					forged[http.CanonicalHeaderKey(name)] = []string{"forged", "twice"}
				}
				seen := ask(forged)
				for i, name := range slices.Concat(inside, edge) {
					want := i >= len(inside) && !faces
					if got := strings.Contains(seen, name+": forged and twice"); got != want {
						t.Errorf("%s is passed on: %v, want %v", name, got, want)
					}
				}
				if faces != strings.Contains(seen, "x-envoy-external-address: 127.0.0.1\n") || !strings.Contains(seen, "x-real-ip: kept") {
					t.Errorf("the host was told\n%s", seen)
				}
				if strings.Contains(seen, foreignID) == faces || strings.Count(seen, "x-request-id: ") != 1 {
					t.Errorf("the request's identity, to the host:\n%s", seen)
				}
				behind := ask(http.Header{"X-Forwarded-For": {"10.0.0.1"}}) // a proxy that is not trusted
				if faces != strings.Contains(behind, "x-envoy-external-address: 127.0.0.1\n") {
					t.Errorf("the host was told\n%s", behind)
				}
			})
		}
	}
}

// TestKeptRequestIDs: a listener that faces clients may be told to believe them about their requests' identity.
func TestKeptRequestIDs(t *testing.T) {
	for _, c := range []struct {
		name           string
		keep, generate bool
		id             string
		want           bool // that it is passed on
	}{
		{"kept", true, true, foreignID, true},
		{"of an own kind", true, true, "mine", true},
		{"replaced", false, true, foreignID, false},
		{"none is made", false, false, foreignID, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
			l.HTTP.KeepRequestID, l.HTTP.GenerateRequestID = c.keep, c.generate
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", plainServer(t, fieldsSeen)))}, nil)
			got := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nX-Request-Id: " + c.id + "\r\nConnection: close\r\n\r\n")
			if strings.Contains(got, "x-request-id: "+c.id) != c.want || strings.Count(got, "x-request-id: ") != 1 {
				t.Errorf("%q", got)
			}
			got = p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n")
			if strings.Contains(got, "x-request-id: ") != c.generate {
				t.Errorf("without one: %q", got)
			}
		})
	}
}

// TestClientCertFields: x-forwarded-client-cert goes on only where the listener is told to believe it, and from whom.
func TestClientCertFields(t *testing.T) {
	const told = "Hash=ab;Subject=\"CN=x\""
	a := testbed.NewAuthority(t)
	is := func(how config.ClientCert) func(*config.HTTP) {
		return func(h *config.HTTP) { h.ClientCert = how }
	}
	for _, c := range []struct {
		name      string
		near, far config.ClientCert // far has a certificate of near, and near none of anybody
		want      bool
	}{
		{"nobody is believed", config.ClientCertDrop, config.ClientCertDrop, false},
		{"by the near one", config.ClientCertAlways, config.ClientCertDrop, false},
		{"by both", config.ClientCertAlways, config.ClientCertAlways, true},
		{"who shows a certificate", config.ClientCertAlways, config.ClientCertForward, true},
		{"who shows none", config.ClientCertForward, config.ClientCertAlways, false},
	} {
		for _, hop := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
			t.Run(fmt.Sprint(c.name, " ", hop), func(t *testing.T) {
				far := inbound(t, a, hop, fieldsSeen, is(c.far))
				near := outbound(t, a, config.ProtocolHTTP1, hop, far.addr, "b.mesh.internal", is(c.near))
				got := near.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nX-Forwarded-Client-Cert: " + told + "\r\nConnection: close\r\n\r\n")
				if !strings.HasPrefix(got, "HTTP/1.1 200 ") || strings.Contains(got, "x-forwarded-client-cert: "+told) != c.want {
					t.Errorf("%q", got)
				}
				if !strings.Contains(got, "x-request-id: ") {
					t.Errorf("no identity: %q", got)
				}
			})
		}
	}
}

// TestCVEClass14_OffersOfH2CGoNoFurther: who offers to go on in HTTP/2, as curl and Java's clients do by default, is served in
// HTTP/1.1; no host sees the offer, and what comes behind it is as without it (CVE-2022-41721).
func TestCVEClass14_OffersOfH2CGoNoFurther(t *testing.T) {
	const offer = " HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: Upgrade, HTTP2-Settings, X-Hop\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nX-Hop: 1\r\n"
	for _, pair := range pairings[:2] { // those of clients of HTTP/1
		t.Run(pair.name, func(t *testing.T) {
			p, _ := startPairing(t, pair, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s %q", r.Method, r.URL.Path, body)
				for _, name := range []string{"Upgrade", "Connection", "Http2-Settings", "X-Hop"} {
					if r.Header[name] != nil {
						t.Errorf("the host was told %s: %q", name, r.Header[name])
					}
				}
			})
			conn := p.dial()
			r := bufio.NewReader(conn)
			_, _ = io.WriteString(conn, "GET /a"+offer+"\r\n"+"POST /b"+offer+"Content-Length: 4\r\n\r\nbody"+"POST /c"+offer+"Transfer-Encoding: chunked\r\n\r\n4\r\nmore\r\n0\r\n\r\n")
			for _, c := range []struct{ method, want string }{{"GET", `GET /a ""`}, {"POST", `POST /b "body"`}, {"POST", `POST /c "more"`}} {
				if resp, body := readResponse(t, r, c.method); resp.StatusCode != 200 || body != c.want {
					t.Errorf("%s %q, want %q", resp.Status, body, c.want)
				}
			}
		})
	}
}
