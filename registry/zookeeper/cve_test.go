package zookeeper

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// watched returns how a Watch ends that can only fail, and all that it logs.
func watched(t *testing.T, cfg Config) (log string, err error) {
	t.Helper()
	var text bytes.Buffer
	r, err := New(cfg, slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = r.Watch(ctx, func(v registry.View) { t.Errorf("published %v", v) })
	if ctx.Err() != nil {
		t.Fatalf("Watch did not end by itself: %v", err)
	}
	return text.String(), err
}

func passwordAt(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An instance cannot say that it is at the caller's own address, or at everybody's, in whatever way that is written.
func TestCVEClass12_AddressesLeadToOneHost(t *testing.T) {
	for _, addr := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "::ffff:224.0.0.1", "ff02::1", "fe80::1%eth0", "127.1", "0x7f.1", "169.254.169.254.nip.io"} {
		object := fmt.Sprintf(`{"host":%q,"port":1}`, addr)
		encoded := base64.URLEncoding.EncodeToString([]byte(object))
		for at, layoutAndData := range map[string][2]string{
			"web/1":                   {layoutCurator, fmt.Sprintf(`{"address":%q,"port":1}`, addr)},
			"web/services/i_":         {layoutNerve, object},
			"web/member_":             {layoutServerset, `{"serviceEndpoint":` + object + `}`},
			"com.acme.Web/providers/": {layoutDubbo, ""},
			"web/":                    {layoutNerve, ""},
		} {
			name, data := layoutAndData[0], layoutAndData[1]
			switch {
			case name == layoutDubbo:
				at += url.QueryEscape("tri://" + net.JoinHostPort(addr, "1") + "/com.acme.Web")
			case data == "":
				at += fmt.Sprintf("base64_%d_%s_", len(encoded), encoded)
			}
			cfg := Config{Layout: name, Root: "/root"}.withDefaults()
			tr := newTree(&cfg, layoutNamed(name), &session{})
			tr.decode(&node{path: "/root/" + at, parent: &node{}}, []byte(data))
			view := tr.assembly.View()
			for _, s := range view.Services {
				if len(s.Endpoints) > 0 {
					t.Errorf("%s, layout %s: got endpoints %v", addr, name, s.Endpoints)
				}
			}
			if len(view.Problems) != 1 {
				t.Errorf("%s, layout %s: got problems %v, want one", addr, name, view.Problems)
			}
		}
	}
}

// What a server or a node says without end is an error before it fills the memory (CVE-2026-26998).
func TestCVEClass18_AnswersAreBounded(t *testing.T) {
	t.Run("children", testChildrenAreBounded)
	t.Run("data", testDataIsBounded)
	t.Run("lengths", testLengthsAreNotBelieved)
}

func testChildrenAreBounded(t *testing.T) {
	cfg := Config{}.withDefaults()
	parent := &node{path: cfg.Root, place: directory}
	many := make([]string, maxNodes)
	for i := range many {
		many[i] = "x"
	}
	for name, test := range map[string]struct {
		children []string
		stat     zk.Stat
		want     string
	}{
		"too many children":          {many, zk.Stat{NumChildren: maxNodes}, "more than 1000000 nodes"},
		"fewer than it counts":       {[]string{"a"}, zk.Stat{NumChildren: 2}, "the server counts 2"},
		"a negative count":           {nil, zk.Stat{NumChildren: -1}, "the server counts -1"},
		"a child without a name":     {[]string{""}, zk.Stat{NumChildren: 1}, "no node may be called"},
		"a child in another's place": {[]string{"web/1"}, zk.Stat{NumChildren: 1}, "no node may be called"},
	} {
		tr := newTree(&cfg, curator{}, &session{})
		tr.nodes[parent.path] = parent
		if err := tr.list(parent, answer{children: test.children, stat: &test.stat}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func testDataIsBounded(t *testing.T) {
	cfg := Config{}.withDefaults()
	parent := &node{path: cfg.Root, place: directory}
	deep := strings.Repeat("[", maxData/2)
	for layout, data := range map[string]string{
		layoutCurator: `{"address":"10.0.0.1","port":1,"payload":` + deep, layoutNerve: `{"host":"10.0.0.1","port":1,"labels":{"a":` + deep,
		layoutServerset: `{"serviceEndpoint":` + deep,
	} {
		tr := newTree(&cfg, layoutNamed(layout), &session{})
		tr.decode(&node{path: "/services/web/i_", parent: parent}, []byte(data))
		tr.decode(&node{path: "/services/web/j_", parent: parent}, make([]byte, maxData+1))
		view := tr.assembly.View()
		if len(view.Problems) != 2 || view.Problems[0].Kind != kindSyntax || view.Problems[1].Kind != kindSize {
			t.Errorf("layout %s, too deep and too long: got problems %v", layout, view.Problems)
		}
	}
}

// The lengths in an answer are believed only as far as the answer goes.
func testLengthsAreNotBelieved(t *testing.T) {
	number := func(n int64) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, n := range []int64{-1 << 31, -1000, -2, 1, 1 << 20, 1<<31 - 1} {
		if isBuffer(number(n), true) || isStrings(number(n)) || isStrings(slices.Concat(number(1), number(n))) {
			t.Errorf("length %d is believed", n)
		}
		stat := make([]byte, statSize)
		for what, body := range map[string][]byte{
			"data":           slices.Concat(appendMultiHeader(nil, opGetData, false, 0), number(n), stat),
			"children":       slices.Concat(appendMultiHeader(nil, opGetChildrenOnly, false, 0), number(n), appendMultiHeader(nil, opGetData, false, 0), number(-1), stat),
			"a child's name": slices.Concat(appendMultiHeader(nil, opGetChildrenOnly, false, 0), number(1), number(n), appendMultiHeader(nil, opGetData, false, 0), number(-1), stat),
		} {
			a := answer{node: &node{place: map[bool]place{true: instance, false: directory}[what == "data"]}}
			p := parts{rest: append(body, appendMultiHeader(nil, opNone, true, -1)...)}
			if p.read(&a); p.ended() {
				t.Errorf("%s of length %d is believed: %+v", what, n, a)
			}
		}
		if n < 0 || n > maxFrame { // of a whole answer: 16 MiB are taken, and not before the server has greeted
			if _, err := watched(t, Config{Servers: []string{stranger(t, slices.Concat(hello(), number(n)))}}); err == nil || !strings.Contains(err.Error(), "an answer of") {
				t.Errorf("an answer of length %d: %v", n, err)
			}
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%d bytes were allocated for lengths that are none", grown)
	}
}

// Nobody is believed, and told the password, whose certificate was not verified (CVE-2018-19653, CVE-2025-66491).
func TestCVEClass19_TLSIsVerified(t *testing.T) {
	certs, other := testbed.NewCerts(t), testbed.NewCerts(t)
	cert, err := tls.LoadX509KeyPair(certs.ServerCertFile, certs.ServerKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	var told atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			n, _ := conn.Read(make([]byte, 1))
			told.Add(int32(n))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"the system's authorities":    {func(c *Config) { c.TLS = true }, "unknown authority"},
		"another authority":           {func(c *Config) { c.CAFile = other.CAFile }, "unknown authority"},
		"another name":                {func(c *Config) { c.CAFile, c.ServerName = certs.CAFile, "zk.example.com" }, "zk.example.com"},
		"a file without an authority": {func(c *Config) { c.CAFile = passwordAt(t, "junk") }, "no certificate in it"},
		"an authority's name alone":   {func(c *Config) { c.ServerName = "localhost" }, "unknown authority"},
	} {
		cfg := Config{Servers: []string{listener.Addr().String()}, Username: "mesh", PasswordFile: passwordAt(t, "hunter2")}
		test.change(&cfg)
		if _, err := watched(t, cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	if n := told.Load(); n != 0 {
		t.Errorf("%d bytes were told to a server that was not verified", n)
	}
}

// A password that cannot be read is never "no password": world:anyone may see less, or more (CVE-2026-54762).
func TestCVEClass26_NoPasswordNoRequest(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for what, path := range map[string]string{
		"no file": filepath.Join(t.TempDir(), "none"), "empty": passwordAt(t, "\n"), "two lines": passwordAt(t, "hunter2\nmore"),
		"a NUL": passwordAt(t, "hunter2\x00"), "a directory": t.TempDir(), "large": passwordAt(t, strings.Repeat("hunter2", maxPassword)),
	} {
		log, err := watched(t, Config{Servers: []string{listener.Addr().String()}, Username: "mesh", PasswordFile: path})
		if err == nil || !strings.Contains(err.Error(), "read password") || strings.Contains(err.Error()+log, "hunter2") {
			t.Errorf("%s: %v, want an error that does not show the file", what, err)
		}
	}
	_ = listener.(*net.TCPListener).SetDeadline(time.Now().Add(100 * time.Millisecond)) // one that was made waits already
	if conn, err := listener.Accept(); err == nil {
		_ = conn.Close()
		t.Error("a connection was made")
	}
}

// No error and no log shows the password, whatever the server makes of it: not when it refuses it, nor when it sends it
// back (CVE-2022-23469).
func TestCVEClass27_ErrorsShowNoSecret(t *testing.T) {
	const password = "hunter2-hunter2"
	secret := append([]byte("mesh:"), password...)
	synced := frame(2, 0, append([]byte{0, 0, 0, 5}, "/root"...)...)
	refusedAll := binary.BigEndian.AppendUint32(appendMultiHeader(nil, opNone, false, codeNoAuth), 0xffffff9a)
	for name, answers := range map[string][]byte{
		"refused":             slices.Concat(hello(), frame(1, -115)),
		"an unknown code":     slices.Concat(hello(), frame(1, -4711)),
		"sent back":           slices.Concat(hello(), frame(1, 0, secret...)),
		"sent back as a size": slices.Concat(hello(), secret),
		"no permission": slices.Concat(hello(), frame(1, 0), synced, frame(xidOurs+1, 0, 0, 0, 0, 0),
			frame(xidOurs+2, 0, slices.Concat(refusedAll, refusedAll, appendMultiHeader(nil, opNone, true, -1))...)),
		"then silence": slices.Concat(hello(), frame(1, 0)),
	} {
		log, err := watched(t, Config{Servers: []string{stranger(t, answers)}, Root: "/root", Username: "mesh", PasswordFile: passwordAt(t, password)})
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		for _, text := range []string{err.Error(), log} {
			if strings.Contains(text, password[:7]) || strings.Contains(text, base64.StdEncoding.EncodeToString(secret)[:12]) {
				t.Errorf("%s: the password is in %q", name, text)
			}
		}
		t.Logf("%s: %v", name, err)
	}
}
