package consul

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/registry"
)

// TestRefusedAnswers gives get what is no answer of Consul's, or none to trust.
func TestRefusedAnswers(t *testing.T) {
	header := func(key, value string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			if value == "" {
				w.Header().Del(key)
			} else {
				w.Header().Set(key, value)
			}
		}
	}
	for name, test := range map[string]struct {
		change func(http.ResponseWriter)
		body   string
		want   string
	}{
		"html":             {change: header("Content-Type", "text/html"), body: "<html>Log in</html>", want: `content type "text/html"`},
		"no content type":  {change: header("Content-Type", "x"), body: "[]", want: "content type"},
		"no index":         {change: header("X-Consul-Index", ""), body: "[]", want: "X-Consul-Index"},
		"wrong index":      {change: header("X-Consul-Index", "-3"), body: "[]", want: "X-Consul-Index"},
		"no leader":        {change: header("X-Consul-KnownLeader", "false"), body: "[]", want: "knows no leader"},
		"leader unknown":   {change: header("X-Consul-KnownLeader", ""), body: "[]", want: "knows no leader"},
		"too stale":        {change: header("X-Consul-LastContact", "10001"), body: "[]", want: "heard of its leader 10.001s ago"},
		"status 500":       {change: func(w http.ResponseWriter) { w.WriteHeader(500) }, body: "rpc error\nsecond line", want: `status 500: "rpc error\nsecond line"`},
		"status 302":       {change: func(w http.ResponseWriter) { w.Header().Set("Location", "/login"); w.WriteHeader(302) }, want: "status 302"},
		"status 403":       {change: func(w http.ResponseWriter) { w.WriteHeader(403) }, body: "Permission denied", want: "permission lost: status 403"},
		"truncated":        {body: `[{"Node":`, want: "unexpected EOF"},
		"cut on the way":   {change: header("Content-Length", "100"), body: "[", want: "unexpected EOF"},
		"empty":            {body: "", want: "EOF"},
		"long error":       {change: func(w http.ResponseWriter) { w.WriteHeader(500) }, body: strings.Repeat("x", 1<<20), want: "status 500"},
		"larger than ever": {body: `["` + strings.Repeat("x", maxBody) + `"]`, want: "larger than 64 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("X-Consul-Index", "7")
				w.Header().Set("X-Consul-LastContact", "0")
				w.Header().Set("X-Consul-KnownLeader", "true")
				if test.change != nil {
					test.change(w)
				}
				_, _ = w.Write([]byte(test.body))
			}))
			defer server.Close()
			_, err := clientFor(t, Config{Address: server.URL}).get(t.Context(), query{path: "/v1/health/service/x", index: 3, wait: time.Minute}) // who is slow to read 64 MiB may take it
			if err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 1000 {
				t.Fatalf("got error %.1000v, want %q", err, test.want)
			}
			if got, want := errors.Is(err, registry.ErrPermission), name == "status 403"; got != want {
				t.Errorf("is ErrPermission: %t, want %t", got, want)
			}
		})
	}
}

func TestIndexZeroIsOne(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Consul-Index", "0")
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Consul-LastContact", "0")
		w.Header().Set("X-Consul-KnownLeader", "true")
		_, _ = w.Write([]byte("[]"))
	}))
	defer server.Close()
	a, err := clientFor(t, Config{Address: server.URL}).get(t.Context(), query{path: "/v1/health/service/x"})
	if err != nil || a.index != 1 {
		t.Fatalf("got index %d, %v, want 1", a.index, err)
	}
	if got := nextIndex(9, 3); got != 0 {
		t.Errorf("after an index that went backwards: got %d, want 0", got)
	}
}

func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := &tokenFile{path: path}
	if _, err := f.current(); err == nil {
		t.Error("a missing file is no error")
	}
	for _, bad := range []string{"", " \n", "two words", "secret\nX-Evil: 1", strings.Repeat("x", maxToken+1)} {
		write(bad)
		if got, err := f.current(); err == nil || len(bad) > 3 && strings.Contains(err.Error(), bad) {
			t.Errorf("token %.20q: got %.20q, %.100v, want an error that does not show it", bad, got, err)
		}
	}
	write("first\n")
	if got, err := f.current(); err != nil || got != "first" {
		t.Fatalf("got %q, %v", got, err)
	}
	write("second")
	if got, err := f.reread(); err != nil || got != "second" {
		t.Fatalf("got %q, %v", got, err)
	}
	write("")
	f.checked = time.Time{}
	if got, err := f.current(); err != nil || got != "second" {
		t.Fatalf("while the file is written: got %q, %v, want the last one", got, err)
	}
	var none *tokenFile
	if got, err := none.current(); err != nil || got != "" {
		t.Fatalf("got %q, %v, want no token", got, err)
	}
}
