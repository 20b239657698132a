package demo

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAnswersNameTheInstanceAndWhatItCalled(t *testing.T) {
	api := httptest.NewServer(App{Name: "api", Version: "v1"}.handler())
	defer api.Close()
	for _, c := range []struct {
		name   string
		app    App
		path   string
		status int
		want   string
	}{
		{"alone", App{Name: "api", Version: "v2"}, "/", 200, "api v2\n"},
		{"calls", App{Name: "web", Version: "v1", Calls: "api.mesh.internal", Outbound: strings.TrimPrefix(api.URL, "http://")}, "/", 200, "web v1 ← api v1\n"},
		{"calls in vain", App{Name: "web", Version: "v1", Calls: "api.mesh.internal", Outbound: "127.0.0.1:1"}, "/", 502, "web v1: call api.mesh.internal: "},
		{"healthy all the same", App{Name: "web", Version: "v1", Calls: "api.mesh.internal", Outbound: "127.0.0.1:1"}, "/healthz", 200, "ok\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			c.app.handler().ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
			if w.Code != c.status || !strings.HasPrefix(w.Body.String(), c.want) {
				t.Errorf("got %d %q, want %d %q", w.Code, w.Body, c.status, c.want)
			}
		})
	}
}
