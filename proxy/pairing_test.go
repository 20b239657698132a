package proxy_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// pairing is what both sides of a hop speak.
type pairing struct {
	name     string
	down, up config.Protocol
}

var pairings = []pairing{
	{"1 to 1", config.ProtocolHTTP1, config.ProtocolHTTP1},
	{"1 to 2", config.ProtocolHTTP1, config.ProtocolHTTP2},
	{"2 to 1", config.ProtocolHTTP2, config.ProtocolHTTP1},
	{"2 to 2", config.ProtocolHTTP2, config.ProtocolHTTP2},
}

// TestClientsSayWhatTheySpeak: on one plaintext port, by their first bytes, however these come.
func TestClientsSayWhatTheySpeak(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.Protocol = config.ProtocolAuto
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", plainServer(t, echo)))}, nil)
	for _, version := range []config.Protocol{config.ProtocolHTTP1, config.ProtocolHTTP2} {
		resp, err := p.plainClient(version).Post(pairURL+"/", "text/plain", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := map[config.Protocol]int{config.ProtocolHTTP1: 1, config.ProtocolHTTP2: 2}[version]; string(body) != "body" || resp.ProtoMajor != want {
			t.Errorf("%q by %s", body, resp.Proto)
		}
	}
	conn := p.dial() // a byte at a time
	for _, c := range []byte(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00") {
		_, _ = conn.Write([]byte{c})
		time.Sleep(time.Millisecond)
	}
	f, err := http2.NewFramer(conn, conn).ReadFrame()
	if _, ok := f.(*http2.SettingsFrame); !ok || err != nil {
		t.Errorf("%v %v", f, err)
	}
	if got := p.raw("PRX / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("what begins like the preface: %q", got)
	}
}

// plainServer is a server of net/http that speaks both versions in plaintext.
func plainServer(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	servePlain(t, l, h)
	return l.Addr().String()
}

// servePlain does that at a listener until stop is called, or the test ends.
func servePlain(t testing.TB, l net.Listener, h http.HandlerFunc) (stop func()) {
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 50}}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	var all sync.WaitGroup
	all.Go(func() { _ = s.Serve(l) })
	stop = func() { _ = s.Close(); all.Wait() }
	t.Cleanup(stop)
	return stop
}

// plainClient is a client of net/http that speaks one version in plaintext, and whatever host is asked connects to the proxy.
func (p *testProxy) plainClient(version config.Protocol) *http.Client {
	p.t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", p.addr.String())
	}}
	tr.Protocols.SetHTTP1(version == config.ProtocolHTTP1)
	tr.Protocols.SetUnencryptedHTTP2(version == config.ProtocolHTTP2)
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// startPairing runs a proxy between a client and a server that speak the given versions.
func startPairing(t testing.TB, pair pairing, h http.HandlerFunc) (*testProxy, *http.Client) {
	t.Helper()
	v := vhost("web.mesh.internal", "web")
	v.Routes[0].Timeout = time.Minute // what the tests send takes a busy machine a while
	l := httpConfig(freeAddr(t), v)
	l.HTTP.Protocol = pair.down
	c := cluster("web", plainServer(t, h))
	c.Protocol = pair.up
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(c)}, func(o *proxy.Options) { o.DrainTime = 2 * time.Second })
	return p, p.plainClient(pair.down)
}

const pairURL = "http://web.mesh.internal"

// waitStreams waits until clients have so many streams.
func (p *testProxy) waitStreams(want int) {
	p.t.Helper()
	for range 500 {
		if p.Streams() == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Errorf("%d streams of clients are not given back", p.Streams())
}

// echo answers with what it was sent, and with what it says of it in fields and trailers.
func echo(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Trailer", "X-Sum")
	w.Header().Set("X-Proto", r.Proto)
	w.Header().Set("X-Length", strconv.FormatInt(r.ContentLength, 10))
	sum := sha256.New()
	_, err := io.Copy(io.MultiWriter(w, sum), r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("X-Sum", fmt.Sprintf("%x", sum.Sum(nil)))
	if r.Trailer.Get("X-Told") != "" {
		w.Header().Set(http.TrailerPrefix+"X-Told", r.Trailer.Get("X-Told"))
	}
}

// TestEveryPairingKeepsContentAndTrailers: bodies of every length and framing, and trailers of both directions, arrive as they
// were sent whatever the versions of HTTP on both sides are.
func TestEveryPairingKeepsContentAndTrailers(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			_, client := startPairing(t, pair, echo)
			for _, size := range []int{0, 1, 1000, 16 << 10, 64 << 10, 65<<10 + 7, 1 << 20, 5 << 20} {
				for _, known := range []bool{true, false} {
					body := pattern(size)
					req, _ := http.NewRequest(http.MethodPost, pairURL+"/echo", bytes.NewReader(body))
					if !known {
						req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), -1
						req.Trailer = http.Header{"X-Told": {"by the client"}}
					}
					resp, err := client.Do(req)
					if err != nil {
						t.Fatalf("%d bytes, known %v: %v", size, known, err)
					}
					got, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || !bytes.Equal(got, body) || resp.StatusCode != 200 {
						t.Fatalf("%d bytes, known %v: %d, %d bytes came back, %v", size, known, resp.StatusCode, len(got), err)
					}
					if want := fmt.Sprintf("%x", sha256.Sum256(body)); resp.Trailer.Get("X-Sum") != want {
						t.Errorf("%d bytes, known %v: trailer %q", size, known, resp.Trailer)
					}
					if !known && resp.Trailer.Get("X-Told") != "by the client" {
						t.Errorf("%d bytes: the request's trailer is lost: %v", size, resp.Trailer)
					}
					if want := map[config.Protocol]string{config.ProtocolHTTP1: "HTTP/1.1", config.ProtocolHTTP2: "HTTP/2.0"}[pair.up]; resp.Header.Get("X-Proto") != want {
						t.Errorf("the host was asked in %s", resp.Header.Get("X-Proto"))
					}
				}
			}
		})
	}
}

// TestEveryPairingKeepsHeads: methods, statuses, bodiless responses, lengths, repeated fields, cookies and informational
// responses mean the same on both sides.
func TestEveryPairingKeepsHeads(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			_, client := startPairing(t, pair, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["X-Two"] = []string{"a", "b"}
				w.Header().Set("X-Method", r.Method)
				w.Header().Set("X-Cookie", r.Header.Get("Cookie"))
				w.Header().Set("X-Seen", strings.Join(r.Header["X-Many"], "|"))
				w.Header().Set("X-Host", r.Host)
				status, _ := strconv.Atoi(r.URL.Query().Get("status"))
				if status == 103 {
					w.Header().Set("Link", "</a>; rel=preload")
					w.WriteHeader(103)
					status = 200
				}
				w.WriteHeader(status)
				if status != 204 && status != 304 {
					_, _ = io.WriteString(w, "body")
				}
			})
			for _, method := range []string{"GET", "HEAD", "DELETE", "PATCH", "PURGE"} {
				for _, status := range []int{200, 204, 304, 404, 503, 103} {
					hints := 0
					ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil }})
					req, _ := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s/?status=%d", pairURL, status), nil)
					req.Header["X-Many"] = []string{"1", "2"}
					req.Header.Set("Cookie", "a=b; c=d")
					resp, err := client.Do(req)
					if err != nil {
						t.Fatalf("%s %d: %v", method, status, err)
					}
					body, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					want := "body"
					if method == "HEAD" || status == 204 || status == 304 {
						want = ""
					}
					h := resp.Header
					if wantStatus := status; err != nil || string(body) != want || status != 103 && resp.StatusCode != wantStatus {
						t.Errorf("%s %d: %d %q %v", method, status, resp.StatusCode, body, err)
					}
					if h.Get("X-Method") != method || len(h["X-Two"]) != 2 || h.Get("X-Cookie") != "a=b; c=d" || h.Get("X-Seen") != "1|2" || h.Get("X-Host") != "web.mesh.internal" {
						t.Errorf("%s %d: %v", method, status, h)
					}
					if status == 103 && hints != 1 {
						t.Errorf("%s: %d informational responses", method, hints)
					}
				}
			}
		})
	}
}

// TestEveryPairingStreams: what is sent in pieces arrives in pieces, in both directions at once, and a client that goes away is
// seen by the host.
func TestEveryPairingStreams(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			gone := make(chan struct{}, 1)
			_, client := startPairing(t, pair, func(w http.ResponseWriter, r *http.Request) {
				for i := range 1000 {
					if _, err := fmt.Fprintf(w, "data: %d\n\n", i); err != nil {
						break
					}
					_ = http.NewResponseController(w).Flush()
					select {
					case <-r.Context().Done():
						gone <- struct{}{}
						return
					case <-time.After(10 * time.Millisecond):
					}
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, pairURL+"/events", nil)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, len("data: 0\n\ndata: 1\n\n"))
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "data: 0\n\ndata: 1\n\n" {
				t.Errorf("%q %v", buf, err)
			}
			cancel()
			if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
				t.Errorf("the rest: %v", err)
			}
			select {
			case <-gone:
			case <-time.After(10 * time.Second):
				t.Error("the host was not told that the client went away")
			}
		})
	}
}

// TestEveryPairingHoldsBack: a reader that stops holds its sender back, however much that has to say, and gets everything in the
// end.
func TestEveryPairingHoldsBack(t *testing.T) {
	const size = 64 << 20
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			var mu sync.Mutex
			sent := 0
			p, client := startPairing(t, pair, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Trailer", "X-End")
				defer w.Header().Set("X-End", "yes")
				chunk := make([]byte, 64<<10)
				for range size / len(chunk) {
					if _, err := w.Write(chunk); err != nil {
						return
					}
					mu.Lock()
					sent += len(chunk)
					mu.Unlock()
				}
			})
			resp, err := client.Get(pairURL + "/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			last := -1
			for { // until the sender stands still
				mu.Lock()
				now := sent
				mu.Unlock()
				if now == last && now > 0 {
					break
				}
				last = now
				time.Sleep(300 * time.Millisecond)
			}
			if last >= size {
				t.Errorf("the host sent all %d bytes to a client that reads nothing", last)
			}
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size || resp.Trailer.Get("X-End") != "yes" {
				t.Errorf("%d bytes, %v, %v", n, err, resp.Trailer)
			}
			p.waitStat("http.outbound.downstream_rq_active", "0")
			p.waitStreams(0)
		})
	}
}

// TestEveryPairingAtOnce: many requests at a time, of which some are cut off by their client, each get their own answer.
func TestEveryPairingAtOnce(t *testing.T) {
	for _, pair := range pairings {
		t.Run(pair.name, func(t *testing.T) {
			p, client := startPairing(t, pair, echo)
			var all sync.WaitGroup
			for i := range 40 {
				all.Go(func() {
					for j := range 25 {
						body := strings.Repeat(fmt.Sprint(i, "-", j, " "), 1+i*j)
						ctx, cancel := context.WithCancel(t.Context())
						if j%8 == 7 {
							time.AfterFunc(time.Duration(i)*100*time.Microsecond, cancel)
						}
						req, _ := http.NewRequestWithContext(ctx, http.MethodPut, pairURL+"/echo", strings.NewReader(body))
						resp, err := client.Do(req)
						if err == nil {
							var got []byte
							if got, err = io.ReadAll(resp.Body); err == nil && string(got) != body {
								t.Errorf("%d bytes were sent, %d came back", len(body), len(got))
							}
							resp.Body.Close()
						}
						if err != nil && ctx.Err() == nil {
							t.Error(err)
						}
						cancel()
					}
				})
			}
			all.Wait()
			p.waitStat("cluster.web.upstream_rq_active", "0")
			p.waitStat("http.outbound.downstream_rq_active", "0")
		})
	}
}
