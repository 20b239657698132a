package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const expectedBytes = 20_000 // some requests of that fit into a connection's first window

// waits is a client's content that tells when it is asked for.
type waits struct {
	io.Reader
	asked atomic.Bool
}

func (w *waits) Read(p []byte) (int, error) {
	w.asked.Store(true)
	return w.Reader.Read(p)
}

// waiting has the content of a client's requests that expect 100 wait for that so long.
func waiting(client *http.Client, patience time.Duration) *http.Client {
	client.Transport.(*http.Transport).ExpectContinueTimeout = patience
	return client
}

// expecting sends a request whose content waits for 100.
func expecting(t *testing.T, client *http.Client, path string) (resp *http.Response, body string, content *waits, told bool) {
	t.Helper()
	content = &waits{Reader: bytes.NewReader(chaosBody[:expectedBytes])}
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { told = true }})
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, pairURL+path, content)
	req.ContentLength = expectedBytes
	req.Header.Set("Expect", "100-continue")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(got), content, told
}

// TestEveryPairingKeepsExpectations (RFC 9110 section 10.1.1): the host is told that the client waits, and decides: 100 has the client
// send its content, a refusal comes before any of that was asked for, and spoils nothing for the next request.
func TestEveryPairingKeepsExpectations(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			p, client := startPairing(t, pair, func(w http.ResponseWriter, r *http.Request) {
				var status int
				if _, err := fmt.Sscanf(r.URL.Path, "/%d", &status); err == nil {
					w.WriteHeader(status)
					_, _ = io.WriteString(w, "no")
					return
				}
				got, err := io.ReadAll(r.Body) // net/http says 100 at the first Read, if the client waits for it
				fmt.Fprint(w, bytes.Equal(got, chaosBody[:expectedBytes]), err)
			})
			waiting(client, time.Hour)
			for range 2 {
				resp, body, _, told := expecting(t, client, "/take")
				if resp.StatusCode != 200 || body != "true <nil>" || !told {
					t.Errorf("the host that takes it: %d %q, told to go on: %v", resp.StatusCode, body, told)
				}
				for _, status := range []int{417, 401, 503} {
					resp, body, content, told := expecting(t, client, fmt.Sprint("/", status))
					if resp.StatusCode != status || body != "no" || told || content.asked.Load() {
						t.Errorf("the host that refuses it: %d %q, told to go on: %v, content was asked for: %v", resp.StatusCode, body, told, content.asked.Load())
					}
				}
			}
			for _, name := range []string{"http.outbound.downstream_rq_active", "cluster.web.upstream_rq_active"} {
				p.waitStat(name, "0")
			}
		})
	}
}

// TestEveryPairingOutlastsHostsThatSayNothing: a host need not answer an expectation (and old ones do not): the client gets tired of
// waiting, and its content arrives.
func TestEveryPairingOutlastsHostsThatSayNothing(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			p := start2(t, pair.down, pair.up, silentHost(t, pair.up), nil)
			client := waiting(p.plainClient(pair.down), 20*time.Millisecond)
			for range 2 {
				resp, body, _, told := expecting(t, client, "/")
				if resp.StatusCode != 200 || body != fmt.Sprint(expectedBytes, " bytes") || told {
					t.Errorf("%d %q, told to go on: %v", resp.StatusCode, body, told)
				}
			}
		})
	}
}

// silentHost reads requests to their end before it says a word: how long their content was.
func silentHost(t *testing.T, version config.Protocol) string {
	if version == config.ProtocolHTTP2 {
		return framed(t, func(_ int32, f *http2.Framer, stream uint32, body []byte) {
			answerFramed(f, stream, fmt.Appendf(nil, "%d bytes", len(body)))
		})
	}
	return rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for {
			head := readHead(r)
			if head == "" {
				return
			}
			n := int64(0)
			_, rest, _ := strings.Cut(strings.ToLower(head), "\r\ncontent-length: ")
			_, _ = fmt.Sscan(rest, &n)
			m, err := io.CopyN(io.Discard, r, n)
			if err != nil {
				return
			}
			answer(conn, fmt.Sprintf("%d bytes", m))
		}
	})
}

// TestConnectionsOfRefusedExpectations: the client may send its content or not, so what follows cannot be told from it. Connections of
// HTTP/1 end on both sides; those of HTTP/2 go on.
func TestConnectionsOfRefusedExpectations(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			p, client := startPairing(t, pair, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusExpectationFailed) })
			waiting(client, time.Hour)
			const requests = 3
			for range requests {
				if resp, _, _, _ := expecting(t, client, "/"); resp.StatusCode != 417 || resp.Close != (pair.down == config.ProtocolHTTP1) {
					t.Errorf("%s, the connection ends: %v", resp.Status, resp.Close)
				}
			}
			for name, version := range map[string]config.Protocol{"http.outbound.downstream_cx_total": pair.down, "cluster.web.upstream_cx_total": pair.up} {
				want := map[config.Protocol]string{config.ProtocolHTTP1: fmt.Sprint(requests), config.ProtocolHTTP2: "1"}[version]
				if got := p.stat(name); got != want && (version == config.ProtocolHTTP1 || pair.down == config.ProtocolHTTP2) {
					t.Errorf("%s is %s, want %s", name, got, want)
				}
			}
		})
	}
}

// TestEveryPairingPassesHintsOn: informational responses, several of them, arrive before there is a final one, with their fields and
// only theirs.
func TestEveryPairingPassesHintsOn(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			seen := make(chan string)
			_, client := startPairing(t, pair, func(w http.ResponseWriter, r *http.Request) {
				for i, status := range []int{103, 103, 102} {
					w.Header().Set("Link", fmt.Sprintf("</%d>; rel=preload", i))
					w.WriteHeader(status)
					select {
					case got := <-seen:
						if want := fmt.Sprintf("%d </%d>; rel=preload", status, i); got != want {
							t.Errorf("the client saw %q, want %q", got, want)
						}
					case <-r.Context().Done():
						return
					}
				}
				w.Header().Del("Link")
				w.Header().Set("X-Final", "yes")
				_, _ = io.WriteString(w, "body")
			})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
				if h.Get("X-Final") != "" {
					t.Errorf("%d comes with %v", status, h)
				}
				select {
				case seen <- fmt.Sprint(status, " ", h.Get("Link")):
				case <-ctx.Done():
				}
				return nil
			}})
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				req, _ := http.NewRequestWithContext(ctx, method, pairURL+"/", nil)
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := map[string]string{http.MethodGet: "body"}[method]; err != nil || string(body) != want || resp.Header.Get("Link") != "" || resp.Header.Get("X-Final") != "yes" {
					t.Errorf("%s: %q, %v, %v", method, body, resp.Header, err)
				}
			}
		})
	}
}

// TestEveryPairingPassesEventsOnAtOnce: a host that sends an event when its client has got the one before is never waited for, nor
// does it wait (server-sent events, and all that is like them).
func TestEveryPairingPassesEventsOnAtOnce(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			got := make(chan struct{})
			const events = 50
			_, client := startPairing(t, pair, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for i := range events {
					_, _ = fmt.Fprintf(w, "id: %d\ndata: %s\n\n", i, strings.Repeat("x", i*i)) // of all lengths
					_ = http.NewResponseController(w).Flush()
					select {
					case <-got:
					case <-r.Context().Done():
						return
					}
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, pairURL+"/events", nil)
			req.Header.Set("Accept", "text/event-stream")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.Header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("%v", resp.Header)
			}
			r := bufio.NewReader(resp.Body)
			for i := range events {
				for _, want := range []string{fmt.Sprintf("id: %d\n", i), "data: " + strings.Repeat("x", i*i) + "\n", "\n"} {
					if line, err := r.ReadString('\n'); err != nil || line != want {
						t.Fatalf("event %d: %q, %v, want %q", i, line, err, want)
					}
				}
				got <- struct{}{}
			}
			if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
				t.Errorf("%q, %v behind the last", rest, err)
			}
		})
	}
}

// TestEveryPairingBoundsHints: a host that sends informational responses for ever, to a client that reads them or does not, is given
// up; what it says in them takes no more than a head may.
func TestEveryPairingBoundsHints(t *testing.T) {
	for _, pair := range pairings {
		for _, c := range []struct {
			name string
			size int // of each
			most int
		}{{"small", 10, 100}, {"large", 10_000, 7}} {
			t.Run(pair.name+" "+c.name, func(t *testing.T) {
				gone := make(chan struct{}, 10)
				p, client := startPairing(t, pair, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Link", strings.Repeat("a", c.size))
					for r.Context().Err() == nil {
						w.WriteHeader(http.StatusEarlyHints)
					}
					gone <- struct{}{}
				})
				seen := 0
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
					seen++
					return nil
				}})
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, pairURL+"/", nil)
				resp, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusBadGateway || !strings.Contains(string(body), "protocol error") || seen == 0 || seen > c.most {
					t.Errorf("%s %q behind %d others, want 502 behind %d at most", resp.Status, body, seen, c.most)
				}
				<-gone // the host is told
				client.CloseIdleConnections()
				p.stop()
				if !strings.Contains(p.log.String(), `" 502 UPE `) {
					t.Errorf("access log %q", p.log)
				}
			})
		}
	}
	for _, up := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} { // nobody reads
		gone := make(chan struct{})
		p, _ := startPairing(t, pairing{down: config.ProtocolHTTP1, up: up}, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
			}
			close(gone)
		})
		_, _ = io.WriteString(p.dial(), "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n\r\n")
		<-gone
	}
}
