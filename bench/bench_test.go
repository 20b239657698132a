package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// proxyTo is a proxy that does what the peers do; change may spoil it.
func proxyTo(t *testing.T, backend netip.AddrPort, change func(http.Header)) netip.AddrPort {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: backend.String()}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 16},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
			r.Out.Host = r.In.Host
			r.Out.Header.Set("X-Request-Id", "1")
			change(r.Out.Header)
		},
	})
	t.Cleanup(proxy.Close)
	return netip.MustParseAddrPort(proxy.Listener.Addr().String())
}

func TestLoad(t *testing.T) {
	for _, size := range []int{128, 16 << 10, 1 << 20} {
		l, err := newLoad(size, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		addr := proxyTo(t, l.addr, func(http.Header) {})
		if err := l.connect(addr, 8); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			n, err := l.run(300 * time.Millisecond)
			if err != nil || n < 8 {
				t.Fatalf("size %d: %d requests answered, %v", size, n, err)
			}
		}
		l.disconnect()
	}
}

func TestLoadKeepsItsPace(t *testing.T) {
	l, err := newLoad(128, 500)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	addr := proxyTo(t, l.addr, func(http.Header) {})
	if err := l.connect(addr, 32); err != nil {
		t.Fatal(err)
	}
	n, err := l.run(400 * time.Millisecond)
	if err != nil || n == 0 || n > 200 {
		t.Errorf("%d requests answered, %v; want at most 200", n, err)
	}
}

func TestLoadRefusesLessWork(t *testing.T) {
	for _, name := range []string{"X-Request-Id", "X-Forwarded-For"} {
		l, err := newLoad(128, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		addr := proxyTo(t, l.addr, func(h http.Header) { h.Del(name) })
		if err := l.connect(addr, 1); err != nil {
			t.Fatal(err)
		}
		if n, err := l.run(5 * time.Second); err == nil || !strings.Contains(err.Error(), strings.ToLower(name)) {
			t.Errorf("without %s: %d requests answered, %v", name, n, err)
		}
	}
}

func TestLoadRefusesWrongAnswers(t *testing.T) {
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
	}{
		{"status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }},
		{"length", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("short")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.handle)
			defer server.Close()
			l, err := newLoad(128, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if err := l.connect(netip.MustParseAddrPort(server.Listener.Addr().String()), 1); err != nil {
				t.Fatal(err)
			}
			if n, err := l.run(5 * time.Second); err == nil {
				t.Errorf("%d requests answered, want an error", n)
			}
		})
	}
}

func TestCPUTime(t *testing.T) {
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 20*time.Millisecond; {
	}
	after, err := cpuTime(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("%v after %v, %v", after, before, err)
	}
	if _, err := cpuTime(1 << 28); err == nil {
		t.Error("a process that is not there has a processor time")
	}
}

func TestSummary(t *testing.T) {
	peers := []*peer{{name: "ours"}, {name: reference}}
	us := func(v ...int) (s []sample) {
		for _, v := range v {
			s = append(s, sample{cpu: time.Duration(v) * time.Microsecond})
		}
		return s
	}
	records := summarise("w", peers, [][]sample{us(5, 12, 6), us(10, 12, 10)})
	r := records[0]
	if r.Value != 6 || r.Ratio != 0.6 || r.Min != 0.5 || r.Max != 1 || r.Unit != "µs/request" {
		t.Errorf("ours: %+v", r)
	}
	if r := records[1]; r.Ratio != 1 || r.Value != 10 {
		t.Errorf("reference: %+v", r)
	}
	file := filepath.Join(t.TempDir(), "new", "results.jsonl")
	for range 2 {
		if err := appendRecords(file, records); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	var back record
	if err := json.Unmarshal(lines[0], &back); err != nil || len(lines) != 4 || back.Peer != "ours" || back.Ratio != 0.6 {
		t.Errorf("%d lines, first %+v, %v", len(lines), back, err)
	}
}

func TestConfigurations(t *testing.T) {
	s := settings{
		Dir: "/d", Listen: netip.MustParseAddrPort("127.0.0.1:1"), Backend: netip.MustParseAddrPort("127.0.0.1:2"),
		Admin: netip.MustParseAddrPort("127.0.0.1:3"), LogSink: netip.MustParseAddrPort("127.0.0.1:4"), AccessLog: "/d/log", ErrorLogFile: "/d/err",
	}
	for _, pr := range products("bin") {
		file, err := writeConfig(t.TempDir(), &pr, s)
		if err != nil {
			t.Errorf("%s: %v", pr.name, err)
			continue
		}
		if b, _ := os.ReadFile(file); bytes.Contains(b, []byte("{{")) || !bytes.Contains(b, []byte("web.default.mesh.internal")) {
			t.Errorf("%s: %s", pr.name, b)
		}
	}
}

func TestCommandLine(t *testing.T) {
	var out bytes.Buffer
	if err := run([]string{"-list"}, &out); err != nil || strings.Count(out.String(), "\n") != len(works()) {
		t.Errorf("-list: %v\n%s", err, &out)
	}
	if err := run([]string{"-work", "nothing"}, &out); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("unknown work: %v", err)
	}
	if chosen, err := choose("http1-16k,http1-128"); err != nil || len(chosen) != 2 || chosen[0].name != "http1-16k" {
		t.Errorf("choose: %v, %v", chosen, err)
	}
}
