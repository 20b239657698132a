package proxy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// recordedLines are what the stock Envoy wrote of some requests, by format and request.
type recordedLines struct {
	Text     map[string]string
	JSON     map[string]map[string]any
	Requests map[string]string
	Lines    map[string]map[string]string
	TCP      map[string]string
}

func readRecorded(t *testing.T) *recordedLines {
	t.Helper()
	data, err := os.ReadFile("testdata/accesslog-envoy-1.40.json")
	if err != nil {
		t.Fatal(err)
	}
	r := &recordedLines{}
	if err := json.Unmarshal(data, r); err != nil {
		t.Fatal(err)
	}
	return r
}

// logs is an access log for each format, in files of dir.
func (r *recordedLines) logs(dir string) []config.AccessLog {
	var logs []config.AccessLog
	for _, omit := range []bool{false, true} {
		suffix := ""
		if omit {
			suffix = ".omit"
		}
		for name, text := range r.Text {
			logs = append(logs, config.AccessLog{Path: filepath.Join(dir, name+suffix), Format: &config.LogFormat{Text: text + "\n", OmitEmpty: omit}})
		}
		for name, format := range r.JSON {
			logs = append(logs, config.AccessLog{Path: filepath.Join(dir, name+suffix), Format: &config.LogFormat{JSON: format, OmitEmpty: omit}})
		}
	}
	return logs
}

var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`), "UUID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "127.0.0.1:PORT"},
	{regexp.MustCompile(`\b\d+ms`), "Nms"},
	{regexp.MustCompile(`connection refused`), "Connection refused"},
	{regexp.MustCompile(`connection_refused`), "Connection_refused"},
}

// masked is a line without what differs from run to run.
func masked(line string) string {
	for _, m := range masks {
		line = m.what.ReplaceAllString(line, m.with)
	}
	return line
}

// readLines reads a log that has n lines.
func readLines(t *testing.T, path string, n int) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(lines) != n {
		t.Fatalf("%s has %d lines, want %d: %q", path, len(lines), n, lines)
	}
	return lines
}

// goldenBackend answers as the one did that was behind the recorded Envoy.
func goldenBackend(conn net.Conn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		if req.URL.Path == "/die" {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-B: bee\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello")
	}
}

// TestAccessLogLinesAreEnvoys: the same requests and formats give the lines that the stock Envoy 1.40 wrote.
func TestAccessLogLinesAreEnvoys(t *testing.T) {
	recorded, dir := readRecorded(t), t.TempDir()
	route := func(name, path, cluster string) *config.Route {
		return &config.Route{Name: name, Path: path, Clusters: []config.WeightedCluster{{Name: cluster, Weight: 1}}, Timeout: 5 * time.Second}
	}
	l := httpConfig(freeAddr(t), &config.VirtualHost{Name: "v", Domains: []string{"web"}, Routes: []*config.Route{
		{Name: "direct", Path: "/direct", Direct: &config.DirectResponse{Status: 418, Body: "tea"}},
		route("dead", "/dead", "dead"), route("", "/empty", "empty"), route("", "/gone", "gone"), route("main", "/", "web"),
	}})
	l.HTTP.AccessLogs = recorded.logs(dir)
	p := start(t, &config.Config{
		Listeners: []*config.Listener{l},
		Clusters:  clusters(cluster("web", rawBackend(t, goldenBackend)), cluster("dead", freeAddr(t).String()), cluster("empty")),
	}, func(o *proxy.Options) { o.AccessLog, o.Loops = nil, 1 })
	var names []string
	for name := range recorded.Requests {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p.raw(recorded.Requests[name])
	}
	p.stop()
	for format, want := range recorded.Lines {
		for i, line := range readLines(t, filepath.Join(dir, format), len(names)) {
			if diff := cmp.Diff(want[names[i]], masked(line)); diff != "" {
				t.Errorf("format %s, request %s (-Envoy +this):\n%s", format, names[i], diff)
			}
		}
	}
}

// TestAccessLogLinesOfTCPAreEnvoys is the same for a TCP connection.
func TestAccessLogLinesOfTCPAreEnvoys(t *testing.T) {
	recorded, dir := readRecorded(t), t.TempDir()
	p := start(t, &config.Config{
		Listeners: []*config.Listener{{
			Name: "t", Addresses: []netip.AddrPort{freeAddr(t)},
			TCP: &config.TCP{StatPrefix: "t", Clusters: []config.WeightedCluster{{Name: "web", Weight: 1}}, IdleTimeout: time.Minute, AccessLogs: recorded.logs(dir)},
		}},
		Clusters: clusters(cluster("web", rawBackend(t, goldenBackend))),
	}, func(o *proxy.Options) { o.AccessLog = nil })
	conn := p.dial()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	p.waitStat("tcp.t.downstream_cx_active", "0")
	p.stop()
	for format, want := range recorded.TCP {
		if diff := cmp.Diff(want, masked(readLines(t, filepath.Join(dir, format), 1)[0])); diff != "" {
			t.Errorf("format %s (-Envoy +this):\n%s", format, diff)
		}
	}
}

// TestAccessLogFiltersChoose: several logs of a listener each take what they are about.
func TestAccessLogFiltersChoose(t *testing.T) {
	status := config.LogFilter{Kind: config.LogStatus, Op: config.LogAtLeast, Value: 500}
	marked := config.LogFilter{Kind: config.LogHeader, Header: config.HeaderMatch{Name: "x-log", Exact: "yes"}}
	format := func(tag string) *config.LogFormat {
		return &config.LogFormat{Text: tag + " %REQ(:PATH)% %REQ(X-LOG)%\n"}
	}
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.AccessLogs = []config.AccessLog{
		{Path: "/dev/stdout", Format: format("errors"), Filter: &status},
		{Path: "/dev/stdout", Format: format("both"), Filter: &config.LogFilter{Kind: config.LogAnd, Filters: []config.LogFilter{status, marked}}},
		{Path: "/dev/stdout", Format: format("any"), Filter: &config.LogFilter{Kind: config.LogOr, Filters: []config.LogFilter{status, marked}}},
		{Path: "/dev/stdout", Format: format("never"), Filter: &config.LogFilter{Kind: config.LogRuntime, Share: config.LogShare{Of: 100}}},
		{Path: "/dev/stdout", Filter: &config.LogFilter{Kind: config.LogFlags, Flags: []string{"NR"}}},
	}
	p := start(t, &config.Config{
		Listeners: []*config.Listener{l},
		Clusters: clusters(cluster("web", server(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/fails" {
				w.WriteHeader(500)
			}
		}))),
	}, func(o *proxy.Options) { o.Loops = 1 })
	for _, request := range []string{"/works", "/fails", "/works\nyes", "/fails\nyes"} {
		path, mark, _ := strings.Cut(request, "\n")
		p.raw("GET " + path + " HTTP/1.1\r\nHost: web.mesh.internal\r\nX-Log: " + mark + "\r\nConnection: close\r\n\r\n")
	}
	p.raw("GET /nowhere HTTP/1.1\r\nHost: nobody\r\nUser-Agent: a\"b\r\nConnection: close\r\n\r\n")
	p.stop()
	lines := strings.Split(p.log.String(), "\n")
	want := []string{"errors /fails ", "any /fails ", "any /works yes", "errors /fails yes", "both /fails yes", "any /fails yes"}
	if len(lines) != len(want)+2 {
		t.Fatalf("got %q", lines)
	}
	if diff := cmp.Diff(want, lines[:len(want)]); diff != "" {
		t.Error(diff)
	}
	if last := lines[len(want)]; !strings.Contains(last, `"GET /nowhere HTTP/1.1" 404 NR 0 0 `) || !strings.Contains(last, `"a\x22b"`) {
		t.Errorf("the default line of a filtered log is %q", last)
	}
}

// TestAccessLogIsReopened: after a rotation the lines go to a new file, and none is lost.
func TestAccessLogIsReopened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.AccessLogs = []config.AccessLog{{Path: path, Format: &config.LogFormat{Text: "%REQ(:PATH)%\n"}}}
	socket := filepath.Join(t.TempDir(), "admin.sock")
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", server(t, func(http.ResponseWriter, *http.Request) {})))},
		func(o *proxy.Options) { o.AccessLog, o.AdminSocket, o.Loops = nil, socket, 1 })
	request := func(i int) {
		p.raw(fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n\r\n", i))
	}
	ask := func(method string) int {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "%s /reopen_logs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", method)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := ask("GET"); got != http.StatusMethodNotAllowed {
		t.Errorf("GET is answered with %d", got)
	}
	request(1)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if got := ask("POST"); got != http.StatusOK {
		t.Errorf("POST is answered with %d", got)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the log is not opened again")
		}
	}
	request(2)
	p.stop()
	before, _ := os.ReadFile(path + ".1")
	after, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(after), "/2\n") || string(before)+string(after) != "/1\n/2\n" {
		t.Errorf("before %q, after %q, %v", before, after, err)
	}
}

// A client's text stays within its field of a line in any format (CVE-2024-37307, CVE-2025-25294).
func TestCVEClass27_FormattedLinesCannotBeForged(t *testing.T) {
	l := httpConfig(freeAddr(t), vhost("web.mesh.internal", "web"))
	l.HTTP.AccessLogs = []config.AccessLog{
		{Path: "/dev/stdout", Format: &config.LogFormat{Text: "T \"%REQ(X-A)%\" \"%REQ(:PATH)%\" \"%RESP(X-B)%\"\n"}},
		{Path: "/dev/stdout", Format: &config.LogFormat{JSON: map[string]any{"a": "%REQ(X-A)%", "path": "p %REQ(:PATH)%", "b": "%RESP(X-B):3%"}}},
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(cluster("web", rawBackend(t, func(conn net.Conn, r *bufio.Reader) {
		for readHead(r) != "" {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-B: \u009b\"}\\\u202e\r\nContent-Length: 0\r\n\r\n")
		}
	})))}, nil)
	for _, value := range []string{`"}` + "\t" + `{"a":1}`, `\`, "\u009b31m\u202e", "\xff\xfe", `\u000a`} {
		p.raw("GET /a\"b HTTP/1.1\r\nHost: web.mesh.internal\r\nX-A: " + value + "\r\nConnection: close\r\n\r\n")
	}
	p.stop()
	lines := strings.Split(strings.TrimSuffix(p.log.String(), "\n"), "\n")
	if len(lines) != 10 {
		t.Fatalf("%d lines, want 10: %q", len(lines), lines)
	}
	for _, line := range lines {
		if strings.ContainsFunc(line, func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("line %q", line)
		}
		if rest, isText := strings.CutPrefix(line, "T "); isText {
			if strings.Count(rest, `"`) != 6 {
				t.Errorf("line %q", line)
			}
			continue
		}
		var got map[string]string
		if err := json.Unmarshal([]byte(line), &got); err != nil || len(got) != 3 {
			t.Errorf("line %q: %v", line, err)
		}
	}
}
