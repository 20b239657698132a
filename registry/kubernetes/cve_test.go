package kubernetes_test

import (
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/kubernetes"
)

// Whoever stands for the API server, or before it, does not get the token sent elsewhere, nor into an error, nor our
// memory (CVE-2022-29153, CVE-2026-26998, CVE-2022-23469), and what is no answer publishes nothing.
func TestCVEClass12_HostileServersLeadNowhere(t *testing.T) {
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
		"an error in the watch": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("watch") == "" {
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
				return
			}
			w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf;stream=watch")
			status := &meta.Status{Status: "Failure", Reason: "InternalError", Code: 500, Message: r.Header.Get("Authorization") + strings.Repeat("x", 1<<20)}
			object, _ := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Status"}, Raw: must(status.Marshal())}).Marshal()
			event := &meta.WatchEvent{Type: "ERROR", Object: runtime.RawExtension{Raw: append([]byte("k8s\x00"), object...)}}
			frame := must(event.Marshal())
			_, _ = w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(frame))))
			_, _ = w.Write(frame)
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
			var told atomic.Bool // the token
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				told.Store(told.Load() || r.Header.Get("Authorization") == "Bearer "+secret)
				answer(w, r)
			}))
			defer server.Close()
			v, err := firstView(t, kubeconfig(t, func(c *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
				c.Server, c.CertificateAuthorityData, u.Token = server.URL, authority(server), secret
			}))
			if !told.Load() {
				t.Error("the server was not told the token, which it should not show")
			}
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

// No error tells a secret of a kubeconfig that cannot be read (CVE-2022-23469).
func TestCVEClass27_BrokenKubeconfigIsNotShown(t *testing.T) {
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

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

// authority is what signed a server's certificate.
func authority(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}

// kubeconfig writes a file with one context, which change changes.
func kubeconfig(t *testing.T, change func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo)) kubernetes.Config {
	t.Helper()
	cluster, user := &clientcmdapi.Cluster{Server: "https://127.0.0.1:1"}, &clientcmdapi.AuthInfo{Token: "s3cret"}
	change(cluster, user)
	config := clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": cluster}, AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": user},
		Contexts: map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}}, CurrentContext: "x",
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(config, path); err != nil {
		t.Fatal(err)
	}
	return kubernetes.Config{Kubeconfig: path}
}

// Nobody is believed, and told the token, whose certificate is not verified, whatever the kubeconfig says
// (CVE-2018-19653, CVE-2025-66491); and no address in it is repeated with its password (CVE-2022-23469).
func TestCVEClass19_TLSIsVerified(t *testing.T) {
	var reached atomic.Int32
	count := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	server, plain := httptest.NewTLSServer(count), httptest.NewServer(count)
	defer server.Close()
	defer plain.Close()
	for name, test := range map[string]struct {
		change func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo)
		want   string
	}{
		"unknown authority": {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.Server = server.URL }, "set certificate-authority"},
		"left unverified": {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
			c.Server, c.InsecureSkipTLSVerify = server.URL, true
		}, "insecure-skip-tls-verify"},
		"in plaintext": {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.Server = "http://192.0.2.1:1" }, "want https://"},
		"without a scheme": {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) {
			c.Server = strings.TrimPrefix(plain.URL, "http://127.0.0.1")
		}, "want https://"},
		"a token in plaintext":   {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.Server = plain.URL }, "or no token"},
		"user in the address":    {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.Server = "https://u:s3cret@127.0.0.1:1" }, "without a user"},
		"an address that is bad": {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.Server = "https://u:s3cret@h:%zz" }, "want https://host:port"},
		"a proxy that is bad":    {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.ProxyURL = "http://u:s3cret@h:%zz" }, "proxy-url"},
		"a proxy without scheme": {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.ProxyURL = "u:s3cret@h:1" }, "proxy-url"},
		"another proxy":          {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.ProxyURL = "ftp://u:s3cret@h:1" }, "proxy-url"},
		"a proxy that is away":   {func(c *clientcmdapi.Cluster, _ *clientcmdapi.AuthInfo) { c.ProxyURL = "http://u:s3cret@127.0.0.1:1" }, "refused"},
		"a password":             {func(_ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) { u.Username, u.Password = "u", "s3cret" }, "username and password"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := firstView(t, kubeconfig(t, test.change))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v, want %q and no secret", err, test.want)
			}
		})
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// A kubeconfig does not make the control plane run programs (SSRF and more by config, CVE-2026-41413 in kind).
func TestCVEClass12_NoProgramIsRun(t *testing.T) {
	ran := filepath.Join(t.TempDir(), "ran")
	for name, change := range map[string]func(*clientcmdapi.Cluster, *clientcmdapi.AuthInfo){
		"exec": func(_ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
			u.Token = ""
			u.Exec = &clientcmdapi.ExecConfig{APIVersion: "client.authentication.k8s.io/v1", Command: "touch", Args: []string{ran}, InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
		},
		"exec beside a token": func(_ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
			u.Exec = &clientcmdapi.ExecConfig{APIVersion: "client.authentication.k8s.io/v1", Command: "touch", Args: []string{ran}, InteractiveMode: clientcmdapi.NeverExecInteractiveMode}
		},
		"auth-provider": func(_ *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
			u.AuthProvider = &clientcmdapi.AuthProviderConfig{Name: "gcp", Config: map[string]string{"cmd-path": "touch", "cmd-args": ran}}
		},
	} {
		if _, err := firstView(t, kubeconfig(t, change)); err == nil || !strings.Contains(err.Error(), "exec or auth-provider") {
			t.Errorf("%s: got %v, want that it is refused", name, err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program was run")
	}
}

// A token that cannot be read is never "no token" (CVE-2026-54762).
func TestCVEClass26_NoTokenNoRequest(t *testing.T) {
	var reached atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer server.Close()
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "\n", "lines": "s3cret\ns3cret", "none": ""} {
		path := filepath.Join(dir, name)
		if name != "none" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := firstView(t, kubeconfig(t, func(c *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) {
			c.Server, c.CertificateAuthorityData, u.Token, u.TokenFile = server.URL, authority(server), "", path
		}))
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want an error that does not show the file", name, err)
		}
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}
