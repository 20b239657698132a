package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// oldWeb answers in every way that clients of HTTP/1.0 have to be spared something of.
func oldWeb(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Asked", fmt.Sprint(r.Proto, r.Method, r.Header["Expect"], r.Header["Connection"]))
	flush := http.NewResponseController(w).Flush
	switch r.URL.Path {
	case "/length":
		w.Header().Set("Content-Length", "4")
		_, _ = io.WriteString(w, "body")
	case "/pieces": // whose length nobody knows, with trailers
		w.Header().Set("Trailer", "X-End")
		for _, piece := range []string{"in ", "some ", "pieces"} {
			_, _ = io.WriteString(w, piece)
			_ = flush()
		}
		w.Header().Set("X-End", "yes")
	case "/none":
		w.WriteHeader(http.StatusNoContent)
	case "/hints":
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "body")
	case "/echo":
		_, _ = io.Copy(w, r.Body)
	case "/cut":
		_, _ = io.WriteString(w, "bo")
		_ = flush()
		panic(http.ErrAbortHandler)
	}
}

// TestEveryPairingServesHTTP10: clients of HTTP/1.0 get no chunks, no trailers and nothing before the response; what has no length
// ends with the connection, which stays only for those who ask for that; hosts are asked in their own version.
func TestEveryPairingServesHTTP10(t *testing.T) {
	const keep = "Connection: keep-alive\r\n"
	for _, pair := range pairings[:2] { // those of clients of HTTP/1
		t.Run(pair.name, func(t *testing.T) {
			p, _ := startPairing(t, pair, oldWeb)
			asked := map[config.Protocol]string{config.ProtocolHTTP1: "HTTP/1.1", config.ProtocolHTTP2: "HTTP/2.0"}[pair.up]
			for _, c := range []struct {
				name, method, path, fields, content string

				want  string
				keeps bool // if it is asked to
				known bool // the length is told
			}{
				{"a length", "GET", "/length", "", "", "body", true, true},
				{"no length", "GET", "/pieces", "", "", "in some pieces", false, false},
				{"no length, for one who takes trailers", "GET", "/pieces", "TE: trailers\r\n", "", "in some pieces", false, false},
				{"no content", "GET", "/none", "", "", "", true, false},
				{"HEAD", "HEAD", "/length", "", "", "", true, true},
				{"HEAD of no length", "HEAD", "/pieces", "", "", "", true, false},
				{"early hints", "GET", "/hints", "", "", "body", true, true},
				{"content", "POST", "/echo", "Content-Length: 4\r\n", "sent", "sent", true, true},
				{"an expectation, which is none yet", "POST", "/echo", "Content-Length: 4\r\nExpect: 100-continue\r\n", "sent", "sent", true, true},
			} {
				for _, asks := range []string{"", keep} {
					t.Run(fmt.Sprintf("%s, %q", c.name, asks), func(t *testing.T) {
						conn := p.dial()
						r := bufio.NewReader(conn)
						keeps := asks != "" && c.keeps
						for range 2 { // the second by the same connection, if that stays
							fmt.Fprintf(conn, "%s %s HTTP/1.0\r\nHost: web.mesh.internal\r\n%s%s\r\n%s", c.method, c.path, asks, c.fields, c.content)
							head := readHead(r)
							if !strings.HasPrefix(head, "HTTP/1.1 20") {
								t.Fatalf("head %q", head)
							}
							lower := strings.ToLower(head)
							for _, no := range []string{"transfer-encoding:", "trailer:", "keep-alive:"} {
								if strings.Contains(lower, "\r\n"+no) {
									t.Errorf("%q in %q", no, head)
								}
							}
							for line, want := range map[string]bool{
								"\r\nconnection: close\r\n": !keeps, "\r\nconnection: keep-alive\r\n": keeps, "\r\ncontent-length: 4\r\n": c.known,
								"\r\nx-asked: " + strings.ToLower(asked+c.method) + "[] []\r\n": true,
							} {
								if strings.Contains(lower, line) != want {
									t.Errorf("%q is in %q: %v, want %v", line, head, !want, want)
								}
							}
							if !keeps {
								if got, err := io.ReadAll(r); err != nil || string(got) != c.want {
									t.Errorf("%q, %v, want %q", got, err, c.want)
								}
								return
							}
							got := make([]byte, len(c.want))
							if _, err := io.ReadFull(r, got); err != nil || string(got) != c.want {
								t.Fatalf("%q, %v, want %q", got, err, c.want)
							}
						}
					})
				}
			}
			t.Run("cut off", func(t *testing.T) { // an end in good order would say that this was all
				conn := p.dial()
				_, _ = io.WriteString(conn, "GET /cut HTTP/1.0\r\nHost: web.mesh.internal\r\n\r\n")
				if got, err := io.ReadAll(conn); err == nil {
					t.Errorf("%q, and then an end in good order", got)
				}
			})
		})
	}
}

// TestResponsesThatEndWithTheConnection: those of hosts of HTTP/1 that tell no length, whoever asks for them, also in HTTP/1.0.
func TestResponsesThatEndWithTheConnection(t *testing.T) {
	for _, status := range []string{"HTTP/1.0 200 OK", "HTTP/1.1 200 OK", "HTTP/1.0 200 OK\r\nConnection: keep-alive"} {
		host := rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
			readHead(r)
			fmt.Fprintf(conn, "%s\r\nX-Y: z\r\n\r\nall ", status)
			_, _ = io.WriteString(conn, "of it")
		})
		for _, down := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
			p := start2(t, down, config.ProtocolHTTP1, host, nil)
			for range 2 {
				resp, err := p.plainClient(down).Get(pairURL + "/")
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(body) != "all of it" || resp.ContentLength != -1 {
					t.Errorf("%q to %s: %q, %v, length %d", status, resp.Proto, body, err, resp.ContentLength)
				}
			}
			if down == config.ProtocolHTTP1 {
				got := p.raw("GET / HTTP/1.0\r\nHost: web.mesh.internal\r\nConnection: keep-alive\r\n\r\n")
				if head, body, _ := strings.Cut(got, "\r\n\r\n"); body != "all of it" || strings.Contains(head, "keep-alive") {
					t.Errorf("%q to HTTP/1.0: %q", status, got)
				}
			}
		}
	}
}

// TestEveryPairingNamesWhomHTTP10IsFor: a client of HTTP/1.0 need not say whom its request is for, and hosts have to be told: it is for
// the address where the client came in, also through a second proxy.
func TestEveryPairingNamesWhomHTTP10IsFor(t *testing.T) {
	told := func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "for "+r.Host) }
	listener := func(addr netip.AddrPort, protocol config.Protocol) *config.Listener {
		v := vhost("*", "web")
		v.Domains = []string{"*"}
		l := httpConfig(addr, v)
		l.HTTP.Protocol = protocol
		return l
	}
	for _, pair := range pairings[:2] { // those of clients of HTTP/1
		for _, at := range []string{"127.0.0.1", "::1"} {
			t.Run(pair.name+" at "+at, func(t *testing.T) {
				c := cluster("web", plainServer(t, told))
				c.Protocol = pair.up
				far := start(t, &config.Config{Listeners: []*config.Listener{listener(freeAddr(t), config.ProtocolAuto)}, Clusters: clusters(c)}, nil)
				hop := cluster("web", far.addr.String())
				hop.Protocol = pair.up
				addr := netip.AddrPortFrom(netip.MustParseAddr(at), freeAddr(t).Port())
				near := start(t, &config.Config{Listeners: []*config.Listener{listener(addr, config.ProtocolHTTP1)}, Clusters: clusters(hop)}, nil)
				for request, want := range map[string]string{
					"GET / HTTP/1.0\r\n\r\n":                            addr.String(),
					"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\na":     addr.String(),
					"GET http://other.example/ HTTP/1.0\r\n\r\n":        "other.example",
					"GET / HTTP/1.0\r\nHost: web.mesh.internal\r\n\r\n": "web.mesh.internal",
				} {
					if got := near.raw(request); !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.HasSuffix(got, "\r\n\r\nfor "+want) {
						t.Errorf("%q: %q, want it for %s", request, got, want)
					}
				}
				for _, request := range []string{"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\nHost:\r\n\r\n"} {
					if got := near.raw(request); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
						t.Errorf("%q: %q", request, got)
					}
				}
				near.stop()
				if !strings.Contains(near.log.String(), `"`+addr.String()+`" "`+far.addr.String()) {
					t.Errorf("access log %q", near.log)
				}
			})
		}
	}
	t.Run("unix socket", func(t *testing.T) {
		l := listener(freeAddr(t), config.ProtocolHTTP1)
		path := filepath.Join(t.TempDir(), "s")
		l.Pipes = []config.Pipe{{Path: path}}
		start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", plainServer(t, told)))}, nil)
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		if got, _ := io.ReadAll(conn); !strings.HasSuffix(string(got), "for localhost") {
			t.Errorf("%q", got)
		}
	})
}
