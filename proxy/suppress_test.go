package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestSuppressedEnvoyHeaders: with suppress_envoy_headers the proxy adds none to responses, and what a host says passes, as in Envoy.
func TestSuppressedEnvoyHeaders(t *testing.T) {
	for _, suppressed := range []bool{false, true} {
		t.Run(fmt.Sprint(suppressed), func(t *testing.T) {
			begun, release := make(chan struct{}), make(chan struct{})
			c := cluster("web", server(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/hang" {
					close(begun)
					<-release
				}
				w.Header().Set("X-Envoy-Upstream-Service-Time", "by the host")
				_, _ = io.WriteString(w, "ok")
			}))
			c.MaxRequests = 1
			l := httpConfig(freeAddr(t), plain("web"))
			l.HTTP.SuppressEnvoyHeaders = suppressed
			p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, oneLoop)
			if got := strings.ToLower(p.raw(closing)); strings.Contains(got, "x-envoy-upstream-service-time: by the host\r\n") != suppressed || strings.Count(got, "x-envoy-upstream-service-time") != 1 {
				t.Errorf("%q", got)
			}
			conn := p.dial()
			_, _ = io.WriteString(conn, "GET /hang HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
			<-begun
			if got := strings.ToLower(p.raw(closing)); strings.Contains(got, "x-envoy-overloaded: true\r\n") == suppressed || !strings.Contains(got, "overflow") {
				t.Errorf("%q", got)
			}
			close(release)
		})
	}
}
