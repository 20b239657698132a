package proxy_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// logAs has a chain write lines of a format, and nothing else.
func logAs(format string) func(*config.HTTP) {
	return func(h *config.HTTP) {
		h.AccessLogs = []config.AccessLog{{Path: "/dev/stdout", Format: &config.LogFormat{Text: format + "\n"}}}
	}
}

// TestAccessLogsTellOfTheUpstream: its address and what TLS was agreed on with it, also of later requests on a connection.
func TestAccessLogsTellOfTheUpstream(t *testing.T) {
	a := testbed.NewAuthority(t)
	for _, hop := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		far := inbound(t, a, config.ProtocolHTTP1, func(http.ResponseWriter, *http.Request) {})
		near := outbound(t, a, config.ProtocolHTTP1, hop, far.addr, "b.mesh.internal", logAs(
			"%UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_REMOTE_PORT% %UPSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER% %UPSTREAM_PEER_DNS_SAN% %UNIQUE_ID% %REQ(X-REQUEST-ID)%"))
		for range 3 {
			if status, body, err := near.get(http.DefaultClient, "web.mesh.internal", "/"); status != 200 {
				t.Fatal(status, body, err)
			}
		}
		near.stop()
		want := fmt.Sprintf("%s %d TLSv1.3 TLS_AES_128_GCM_SHA256 b.mesh.internal ", far.addr, far.addr.Port())
		lines := strings.Split(strings.TrimSpace(near.log.String()), "\n")
		seen := map[string]bool{}
		for _, line := range lines {
			rest, ok := strings.CutPrefix(line, want)
			ids := strings.Fields(rest)
			if !ok || len(ids) != 2 || len(ids[0]) != 36 || ids[0] == ids[1] {
				t.Errorf("got %q, want %q and two identities", line, want)
				continue
			}
			seen[ids[0]] = true
		}
		if len(lines) != 3 || len(seen) != 3 {
			t.Errorf("%d lines, %d identities, want 3", len(lines), len(seen))
		}
	}
}

// TestAccessLogsTellOfTheLastAttempt: of a host that could not be reached no connection is told, though there was one before.
func TestAccessLogsTellOfTheLastAttempt(t *testing.T) {
	closes := rawBackend(t, func(_ net.Conn, r *bufio.Reader) { readHead(r) })
	dead := freeAddr(t).String()
	route := vhost("web.mesh.internal", "web")
	route.Routes[0].Retry = config.Retry{On: config.RetryReset, Max: 1}
	l := httpConfig(freeAddr(t), route)
	logAs("%UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_PROTOCOL% %UPSTREAM_REQUEST_ATTEMPT_COUNT%")(l.HTTP)
	web := cluster("web", closes, dead)
	web.Policy = config.Random // which is the last is a matter of chance
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(web)}, func(o *proxy.Options) { o.Loops = 1 })
	for range 50 {
		if status, body, err := p.get(http.DefaultClient, "web.mesh.internal", "/"); status != 503 {
			t.Fatal(status, body, err)
		}
	}
	p.stop()
	unreached, reached := dead+" - - 2\n", closes+" "+closes+" HTTP/1.1 2\n"
	lines := p.log.String()
	for line := range strings.Lines(lines) {
		if line != unreached && line != reached {
			t.Errorf("got %q, want %q or %q", line, unreached, reached)
		}
	}
	if !strings.Contains(lines, unreached) || !strings.Contains(lines, reached) {
		t.Errorf("got %q, want both %q and %q", lines, unreached, reached)
	}
}
