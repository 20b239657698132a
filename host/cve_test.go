package host

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/internal/hostfile"
)

// A check goes where its file says and nowhere else: the one who is checked cannot redirect it (CVE-2022-29153), nor does a
// path name another host.
func TestCVEClass12_ChecksAreNotRedirected(t *testing.T) {
	var reached atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Refresh", "0; url="+elsewhere.URL)
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	c := newChecks(t.Context(), nil)
	if _, err := c.once(t.Context(), &hostfile.Service{Check: &hostfile.Check{HTTP: "/x", Port: portOf(t, server.Listener.Addr()), Timeout: 5 * time.Second}}); err != nil {
		t.Error(err)
	}
	if reached.Load() != 0 {
		t.Error("the redirect was followed")
	}
	for _, path := range []string{"http://evil.example/", "@evil.example/", ".evil.example/", "/x HTTP/1.1", "/x#y", "x"} {
		if _, err := hostfile.Decode("f", []byte("service: web\nport: 80\ncheck: {http: '"+path+"'}\n")); err == nil {
			t.Errorf("a check of %q passes", path)
		}
	}
}

// A check reads little of an answer, however long that is (CVE-2026-26998).
func TestCVEClass18_ChecksReadLittle(t *testing.T) {
	var written atomic.Int64
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		chunk := make([]byte, 64<<10)
		for r.Context().Err() == nil && written.Load() < 1<<30 {
			n, err := w.Write(chunk)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}))
	defer server.Close()
	c := newChecks(t.Context(), nil)
	if _, err := c.once(t.Context(), &hostfile.Service{Check: &hostfile.Check{HTTP: "/", Port: portOf(t, server.Listener.Addr()), Timeout: 20 * time.Second}}); err != nil {
		t.Error(err)
	}
	<-ended
	if n := written.Load(); n > 64<<20 { // what sockets buffer is in it
		t.Errorf("the server could write %d bytes", n)
	}
}
