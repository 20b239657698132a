package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/controlplane/xds"
	"github.com/hostmesh/hostmesh/registry"
)

// Whoever writes to a registry, or connects to xDS, cannot reach the terminal of the operator who looks: no escape
// sequence, no forged line, nothing that reads in another order (GHSA-xr7q-jx4m-x55m, CVE-2025-25294).
func TestCVEClass27_OutputCannotReachTheTerminal(t *testing.T) {
	const evil = "a\x1b[2J\x07\nforged line\tx\u009b31m\x7f\u202e\r\U000e0041z"
	all := map[string]any{
		"/api/v1/endpoints": controlplane.Endpoints{Endpoints: []controlplane.ServiceEndpoint{{Endpoint: &registry.Endpoint{
			ID: evil, Host: evil, Labels: map[string]string{evil: evil}, Sources: []string{evil}, Doubt: &registry.Doubt{Since: time.Now(), Reason: evil},
		}}}},
		"/api/v1/services": controlplane.Services{Services: []controlplane.ServiceSummary{{Host: evil, Sources: []string{evil}, Conflicts: []registry.Conflict{{What: evil, Object: evil, Text: evil}}}}},
		"/api/v1/proxies": controlplane.Proxies{Proxies: []xds.ClientStatus{{
			NodeID: evil, Cluster: evil, Types: []xds.TypeStatus{{Type: "CDS", Nack: &xds.Nack{Reason: evil}}},
		}}},
		"/api/v1/registries": controlplane.Registries{Registries: []registry.SourceStatus{{
			Name: "r", Error: evil, ErrorSince: time.Now(), SealRefused: evil, Problems: []registry.Problem{{Object: evil, Kind: evil, Reason: evil}},
			ProblemKinds: map[string]int{evil: 1}, Doubted: 1, DoubtedSince: time.Now(), DoubtReason: evil,
		}}},
		"/api/v1/conflicts": controlplane.Conflicts{Conflicts: []controlplane.ServiceConflict{{
			Service:  registry.Name{Namespace: evil, Name: evil},
			Conflict: registry.Conflict{What: evil, Object: evil, Sides: []registry.Side{{Source: evil, Says: evil}, {Source: evil, Says: evil}}, Text: evil},
		}}},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("service") {
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(controlplane.APIError{Error: evil})
			return
		}
		_ = json.NewEncoder(w).Encode(all[r.URL.Path])
	}))
	defer server.Close()
	at := strings.TrimPrefix(server.URL, "http://")
	clean := func(what, text string) {
		t.Helper()
		if i := strings.IndexFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s: %q at %d", what, text[i:min(i+8, len(text))], i)
		}
		if strings.Contains(text, "\nforged") {
			t.Errorf("%s has a forged line:\n%s", what, text)
		}
	}
	for _, what := range []string{"endpoints", "services", "proxies", "registries", "conflicts"} {
		for _, format := range []string{"table", "json", "yaml"} {
			out, err := mesh(t, what, "--server", at, "-o", format)
			if err != nil {
				t.Fatal(err)
			}
			clean(what+" as "+format, out)
			read := yaml.Unmarshal
			switch format {
			case "table":
				continue
			case "json":
				read = json.Unmarshal
			}
			var back any
			if err := read([]byte(out), &back); err != nil || len(out) < 10 {
				t.Errorf("%s as %s cannot be read: %v", what, format, err)
			}
		}
	}
	out, err := mesh(t, "endpoints", "--server", at, "-o", "json")
	var back controlplane.Endpoints
	if err != nil || json.Unmarshal([]byte(out), &back) != nil || back.Endpoints[0].ID != evil {
		t.Errorf("escaping changed what is said: %v\n%s", err, out)
	}
	out, err = mesh(t, "endpoints", "--server", at, "-o", "yaml")
	var same struct{ Endpoints []struct{ ID string } }
	if err != nil || yaml.Unmarshal([]byte(out), &same) != nil || same.Endpoints[0].ID != evil {
		t.Errorf("escaping changed what is said: %v\n%s", err, out)
	}
	_, err = mesh(t, "endpoints", "x", "--server", at)
	if err == nil {
		t.Fatal("no error")
	}
	clean("the error", err.Error())
}
