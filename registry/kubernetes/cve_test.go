package kubernetes_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
)

// TestHostileServer stands for what may be between us and the API server: the token goes nowhere else and into no
// error, and what is no answer publishes nothing.
func TestHostileServer(t *testing.T) {
	const secret = "s3cret-token"
	var stolen atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stolen.Store(true) }))
	defer thief.Close()
	for name, answer := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, thief.URL, http.StatusFound) },
		"echo": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "refused: "+r.Header.Get("Authorization"))
		},
		"endless error": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			for junk := []byte(strings.Repeat("x", 1<<16)); ; {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		},
		"a page": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>log in first</html>") },
		"large frame": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("watch") == "" {
				w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
				return
			}
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf;stream=watch")
			_, _ = w.Write([]byte{0xff, 0xff, 0xff, 0xff})
			for junk := make([]byte, 1<<16); ; {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			config := clientcmdapi.Config{
				Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: server.URL}},
				AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: secret}},
				Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
				CurrentContext: "x",
			}
			path := filepath.Join(t.TempDir(), "kubeconfig")
			if err := clientcmd.WriteToFile(config, path); err != nil {
				t.Fatal(err)
			}
			v, err := firstView(t, kubernetes.Config{Kubeconfig: path})
			if err == nil || v.Services != nil {
				t.Fatalf("got %v, %v, want an error", v, err)
			}
			if text := err.Error(); strings.Contains(text, secret) || len(text) > 8<<10 {
				t.Errorf("the error has the token, or %d bytes: %.300s", len(text), text)
			}
			if name == "echo" && !errors.Is(err, registry.ErrPermission) {
				t.Errorf("got %v, want permission lost", err)
			}
			t.Logf("%.300v", err)
		})
	}
	if stolen.Load() {
		t.Error("a redirect was followed")
	}
}

// TestBrokenKubeconfig tells no secret of a file that cannot be read.
func TestBrokenKubeconfig(t *testing.T) {
	for _, text := range []string{
		"", "users: [{name: u, user: {token: {s3cret: s3cret}}}]", "token: s3cret\n\t- s3cret", "users: [{name: u, user: {client-key-data: s3cret}}]",
	} {
		path := filepath.Join(t.TempDir(), "kubeconfig")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := firstView(t, kubernetes.Config{Kubeconfig: path})
		if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: got %v, want an error that names the file and nothing in it", text, err)
		}
	}
}
