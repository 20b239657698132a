package proxy_test

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// startLogged is startPairing with an access log of a format in a file, of one loop. lines stops the proxy and returns what was
// written, by its first word.
func startLogged(t *testing.T, pair pairing, format string, h http.HandlerFunc) (client *http.Client, lines func(n int) map[string]string) {
	t.Helper()
	l := httpConfig(freeAddr(t), plain("web"))
	l.HTTP.Protocol = pair.down
	path := filepath.Join(t.TempDir(), "log")
	l.HTTP.AccessLogs = []config.AccessLog{{Path: path, Format: &config.LogFormat{Text: format + "\n"}}}
	c := cluster("web", plainServer(t, h))
	c.Protocol = pair.up
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, func(o *proxy.Options) { o.AccessLog, o.Loops = nil, 1 })
	client = p.plainClient(pair.down)
	return client, func(n int) map[string]string {
		t.Helper()
		client.CloseIdleConnections()
		p.stop()
		all := map[string]string{}
		for _, line := range readLines(t, path, n) {
			name, rest, _ := strings.Cut(line, " ")
			all[name] = rest
		}
		return all
	}
}

// TestEveryPairingLogsHowCallsEnd: access logs tell how calls of gRPC ended, and trailers, whatever both sides speak.
func TestEveryPairingLogsHowCallsEnd(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			const format = "%REQ(:PATH)% %RESPONSE_CODE% %GRPC_STATUS% %GRPC_STATUS_NUMBER% %TRAILER(X-T)% %TRAILER(GRPC-STATUS)%"
			client, lines := startLogged(t, pair, format, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/grpc")
				switch r.URL.Path {
				case "/trailers", "/plain":
					w.Header().Set("Trailer", "Grpc-Status, X-T")
					_, _ = io.WriteString(w, "some")
					_ = http.NewResponseController(w).Flush()
					w.Header().Set("Grpc-Status", "13")
					w.Header().Set("X-T", "told")
				case "/head":
					w.Header().Set("Grpc-Status", "14")
				case "/missing":
					w.WriteHeader(404)
				}
			})
			want := map[string]string{
				"/trailers": "200 Internal 13 told 13", "/plain": "200 - - told 13", "/head": "200 Unavailable 14 - -", "/nothing": "200 Unknown 2 - -",
				"/missing": "404 Unimplemented 12 - -",
			}
			for range 2 { // memory is used again
				for path := range want {
					kind := "application/grpc+proto"
					if path == "/plain" {
						kind = "text/plain"
					}
					resp, err := client.Post(pairURL+path, kind, strings.NewReader(""))
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
			got := lines(2 * len(want))
			for path, line := range want {
				if got[path] != line {
					t.Errorf("%s: %q, want %q", path, got[path], line)
				}
			}
		})
	}
}

// TestEveryPairingTellsWhoReset: a stream that was reset is told from a connection that is gone, on both sides.
func TestEveryPairingTellsWhoReset(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			arrived := make(chan struct{})
			client, lines := startLogged(t, pair, "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS%", func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/host":
					panic(http.ErrAbortHandler)
				case "/host-late":
					_, _ = io.WriteString(w, "some")
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				case "/client":
					close(arrived)
					<-r.Context().Done()
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-arrived
				cancel()
			}()
			for _, path := range []string{"/host", "/host-late", "/client"} {
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, pairURL+path, strings.NewReader("x"))
				resp, err := client.Do(req)
				if err != nil {
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			host, client1 := "UC UpstreamConnectionTermination", "DC DownstreamConnectionTermination downstream_remote_disconnect"
			reason := "connection_termination"
			if pair.up == config.ProtocolHTTP2 {
				host, reason = "UR UpstreamRemoteReset", "remote_reset"
			}
			if pair.down == config.ProtocolHTTP2 {
				client1 = "DR DownstreamRemoteReset http2.remote_reset"
			}
			got := lines(3)
			for path, want := range map[string]string{
				"/host":      "503 " + host + " upstream_reset_before_response_started{" + reason + "}",
				"/host-late": "200 " + host + " upstream_reset_after_response_started{" + reason + "}",
				"/client":    "0 " + client1,
			} {
				if got[path] != want {
					t.Errorf("%s: %q, want %q", path, got[path], want)
				}
			}
		})
	}
}
