package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/controlplane/xds"
	"github.com/hostmesh/hostmesh/registry"
)

// answers is what a control plane with some trouble says, by path.
func answers(now time.Time) map[string]any {
	return map[string]any{
		"/api/v1/services": controlplane.Services{Number: 7, Services: []controlplane.ServiceSummary{{
			Name: registry.Name{Namespace: "default", Name: "web"}, Host: "web.default.mesh.internal", Address: netip.MustParseAddr("127.64.1.2"),
			Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}, Endpoints: 3, Serving: 2, Sources: []string{"dc1", "hosts"},
		}}},
		"/api/v1/endpoints": controlplane.Endpoints{Number: 7, Endpoints: []controlplane.ServiceEndpoint{{
			Service: registry.Name{Namespace: "default", Name: "web"},
			Endpoint: &registry.Endpoint{
				ID: "a", Addr: netip.MustParseAddr("192.0.2.1"), Ports: []registry.EndpointPort{{Name: "", Number: 8080}}, Weight: 1,
				Health: registry.Healthy, Sources: []string{"dc1"}, Labels: map[string]string{"version": "1.10", "a": "yes"},
			},
		}, {
			Service: registry.Name{Namespace: "default", Name: "web"},
			Endpoint: &registry.Endpoint{
				ID: "b", Addr: netip.MustParseAddr("192.0.2.2"), Ports: []registry.EndpointPort{{Number: 8080}}, Weight: 1, Sources: []string{"dc1"},
				Doubt: &registry.Doubt{Since: now.Add(-30 * time.Second), Reason: "most left at once"},
			},
		}, {
			Service: registry.Name{Namespace: "default", Name: "web"}, Standby: true,
			Endpoint: &registry.Endpoint{ID: "c", Addr: netip.MustParseAddr("192.0.2.3"), Ports: []registry.EndpointPort{{Number: 8080}}, Weight: 1, Sources: []string{"old"}},
		}, {
			Service: registry.Name{Namespace: "default", Name: "web"},
			Endpoint: &registry.Endpoint{
				ID: "d", Addr: netip.MustParseAddr("192.0.2.4"), Ports: []registry.EndpointPort{{Number: 8080}}, Weight: 1, Sources: []string{"dc1"}, Host: "h4",
				Health: registry.Unhealthy, Unreachable: &registry.Unreachable{Since: now.Add(-5 * time.Second), Host: "h4", Reason: "connection refused"},
			},
		}}},
		"/api/v1/conflicts": controlplane.Conflicts{Number: 7, Conflicts: []controlplane.ServiceConflict{{
			Service: registry.Name{Namespace: "default", Name: "web"},
			Conflict: registry.Conflict{
				What: "label", Object: "v", Sides: []registry.Side{{Source: "dc1", Says: "1"}, {Source: "old", Says: "2"}}, Endpoints: []string{"a"}, More: 2, Text: "…",
			},
		}}},
		"/api/v1/registries/dc1/accept": controlplane.Accepted{Registry: "dc1", Released: 2},
		"/api/v1/proxies": controlplane.Proxies{Number: 7, Proxies: []xds.ClientStatus{{
			NodeID: "h1", Kind: "proxy", Connected: now.Add(-90 * time.Second),
			Types: []xds.TypeStatus{{Type: "CDS", Sent: 7, Acked: 7}, {Type: "EDS", Sent: 7, Acked: 5}, {Type: "LDS", Sent: 6, Nack: &xds.Nack{Reason: "no such filter", Number: 6, Time: now}}},
		}}},
		"/api/v1/registries": controlplane.Registries{Number: 7, Time: now, Registries: []registry.SourceStatus{
			{Name: "dc1", Kind: "consul", State: registry.Stale, Error: "no leader", ErrorSince: now.Add(-2 * time.Minute), LastView: now.Add(-3 * time.Hour), FromSeal: true, Services: 1, Endpoints: 3, Doubted: 2, DoubtedSince: now.Add(-30 * time.Second), DoubtReason: "most left at once"},
			{Name: "static", Kind: "file", State: registry.Synced, LastView: now, Problems: []registry.Problem{{Object: "a.yaml:3", Reason: "got x, want y"}}},
		}},
	}
}

func serve(t *testing.T) string {
	t.Helper()
	all := answers(time.Now())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := all[r.URL.Path]
		if !ok || r.URL.Query().Get("service") == "wbe" {
			w.WriteHeader(http.StatusNotFound)
			answer = controlplane.APIError{Error: "no service default/wbe"}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func mesh(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := GetCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(context.Background())
	return out.String(), err
}

func TestGetTables(t *testing.T) {
	server := serve(t)
	for what, want := range map[string]string{
		"services": "NAMESPACE  NAME  SERVING  PORTS    ADDRESS     SOURCES    CONFLICTS\n" +
			"default    web   2/3      80/http  127.64.1.2  dc1,hosts  -\n",
		"endpoints": "SERVICE      ADDRESS         HEALTH                   WEIGHT  HOST  SOURCES  LABELS\n" +
			"default/web  192.0.2.1:8080  healthy                  1       -     dc1      a=yes,version=1.10\n" +
			"default/web  192.0.2.2:8080  unknown (doubted)        1       -     dc1      -\n" +
			"default/web  192.0.2.3:8080  unknown (standby)        1       -     old      -\n" +
			"default/web  192.0.2.4:8080  unhealthy (unreachable)  1       h4    dc1      -\n" +
			"\n1 doubted for 30s: dc1: most left at once\n  they are kept and served; mesh registry accept dc1 lets them go\n" +
			"\nunreachable for 5s: host h4 died: connection refused\n  they are served again when the host lives, or takes connections there\n",
		"conflicts": "SERVICE      CONFLICT  TAKEN   OTHERS  ENDPOINTS\n" +
			"default/web  label v   dc1: 1  old: 2  3\n",
		"proxies": "ID  KIND   STATE      SINCE  CDS      EDS            LDS      RDS\n" +
			"h1  proxy  connected  1m30s  current  waits for ACK  REFUSED  -\n" +
			"\nh1 refused LDS of 6, 0s ago: no such filter\n",
		"registries": "NAME    KIND    STATE   SERVICES  ENDPOINTS  LAST VIEW       PROBLEMS  DOUBTED\n" +
			"dc1     consul  stale   1         3          3h00m (sealed)  -         2\n" +
			"static  file    synced  0         0          0s              1         -\n" +
			"\ndc1 is stale for 2m00s: no leader\n  its last view is kept and served\n" +
			"\ndc1: 2 endpoints that it does not report any more are kept, for 30s: most left at once\n  mesh registry accept dc1 lets them go\n\nstatic: a.yaml:3: got x, want y\n",
	} {
		t.Run(what, func(t *testing.T) {
			got, err := mesh(t, what, "--server", server)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("mesh get %s (-want +got):\n%s", what, diff)
			}
		})
	}
}

func TestRegistryAccept(t *testing.T) {
	server := serve(t)
	var out bytes.Buffer
	cmd := RegistryCommand()
	cmd.SetArgs([]string{"accept", "dc1", "--server", server})
	cmd.SetOut(&out)
	if err := cmd.ExecuteContext(t.Context()); err != nil || out.String() != "2 endpoints of dc1 left\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs([]string{"accept", "dc2", "--server", server})
	if err := cmd.ExecuteContext(t.Context()); err == nil {
		t.Error("a registry that is not there is accepted")
	}
}

func TestGetJSONAndYAMLSayTheSame(t *testing.T) {
	server := serve(t)
	for _, what := range []string{"services", "endpoints", "proxies", "registries"} {
		asJSON, err := mesh(t, what, "--server", server, "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		asYAML, err := mesh(t, what, "--server", server, "-o", "yaml")
		if err != nil {
			t.Fatal(err)
		}
		var fromJSON, fromYAML any
		if err := yaml.Unmarshal([]byte(asJSON), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal([]byte(asYAML), &fromYAML); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
			t.Errorf("%s: JSON and YAML differ:\n%s", what, diff)
		}
		if strings.ContainsAny(asYAML, "{}") {
			t.Errorf("%s: YAML in flow style:\n%s", what, asYAML)
		}
	}
}

func TestGetErrorsSayWhatToDo(t *testing.T) {
	server := serve(t)
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no control plane", []string{"services", "--server", "127.0.0.1:1"}, "--server or MESH_SERVER says where"},
		{"unknown service", []string{"endpoints", "wbe", "--server", server}, "no service default/wbe"},
		{"unknown format", []string{"services", "--server", server, "-o", "xml"}, "want table, json or yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := mesh(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestManyReasonsOfDoubtAreShort(t *testing.T) {
	now := time.Now()
	var all []controlplane.ServiceEndpoint
	doubted := func(n int, reason string, sources ...string) {
		for range n {
			all = append(all, controlplane.ServiceEndpoint{Endpoint: &registry.Endpoint{
				Sources: sources, Doubt: &registry.Doubt{Since: now.Add(time.Duration(len(all)-60) * time.Second), Reason: reason},
			}})
		}
	}
	doubted(1, "one", "dc1")
	doubted(2, "two", "dc1")
	doubted(3, "three", "dc1")
	doubted(4, "four", "dc1")
	doubted(1, "five", "dc1")
	doubted(1, "both", "dc1", "dc2")
	var out strings.Builder
	explainDoubts(&out, now, all)
	want := `
11 doubted for 1m00s: dc1: four; three; two; and 2 more reasons
  they are kept and served; mesh registry accept dc1 lets them go

1 doubted for 49s: dc1,dc2: both
  they are kept and served; mesh registry accept dc1, and accept dc2 lets them go
`
	if out.String() != want {
		t.Errorf("got %s\nwant %s", out.String(), want)
	}
}

func TestAnEndpointSaysAllThatKeepsTrafficFromIt(t *testing.T) {
	e := &registry.Endpoint{Health: registry.Unhealthy, Doubt: &registry.Doubt{}, Unreachable: &registry.Unreachable{}}
	if got := state(controlplane.ServiceEndpoint{Standby: true, Endpoint: e}); got != "unhealthy (standby, unreachable, doubted)" {
		t.Errorf("got %q", got)
	}
}

func TestASlipInASubcommandFails(t *testing.T) {
	for word, cmd := range map[string]*cobra.Command{"endpoint": GetCommand(), "accpet": RegistryCommand(), "satus": DNSCommand()} {
		cmd.SetArgs([]string{word})
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), `unknown command "`+word+`"`) {
			t.Errorf("%s: %v, want it refused", word, err)
		}
	}
}
