package xds

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
)

var update = flag.Bool("update", false, "write the golden files anew")

var timestamps = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*Z"`)

// TestConfigDump holds the dump against the file and against Envoy's own messages.
func TestConfigDump(t *testing.T) {
	b, err := parseBootstrap("b", []byte(bootstrapYAML))
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Bootstrap: b})
	if err != nil {
		t.Fatal(err)
	}
	bad := clusterNamed(t, "bad", "9")
	bad.Resource.Value = mustWire(t, clusters, "name: bad\ntype: ORIGINAL_DST")
	now := time.Now()
	for _, m := range []struct {
		k         kind
		resources []*discoveryv3.Resource
	}{
		{clusters, list(clusterNamed(t, "a", "1"), clusterNamed(t, "warming", "1"), bad)},
		{endpoints, list(endpointsNamed(t, "a", "2", 80))},
		{listeners, list(listenerNamed(t, "in", 1, "r"), listenerNamed(t, "waits", 2, "nowhere"))},
		{routeTables, list(routesNamed(t, "r", "3", "a"))},
	} {
		err := c.store.apply(m.k, &discoveryv3.DeltaDiscoveryResponse{SystemVersionInfo: "7", Resources: m.resources}, now)
		if (err != nil) != (m.k == clusters) {
			t.Fatal(err)
		}
	}
	c.store.opened = now
	c.store.types[routeTables].wanted["nowhere"] = now.Add(time.Second) // later than the endpoints
	c.store.build(now.Add(fetchTimeout))                                // nobody answers for "warming"
	c.store.clusters["warming"].Assigned = false

	got, err := c.ConfigDump()
	if err != nil {
		t.Fatal(err)
	}
	dump := new(adminv3.ConfigDump)
	if err := protojson.Unmarshal(got, dump); err != nil {
		t.Fatalf("it is no ConfigDump of Envoy's: %v", err)
	}
	if err := dump.ValidateAll(); err != nil {
		t.Error(err)
	}
	lds := new(adminv3.ListenersConfigDump)
	if err := dump.GetConfigs()[2].UnmarshalTo(lds); err != nil {
		t.Fatal(err)
	}
	if d := lds.GetDynamicListeners(); len(d) != 2 || d[0].GetActiveState().GetVersionInfo() != "1" || d[1].GetWarmingState() == nil || len(lds.GetStaticListeners()) != 1 {
		t.Errorf("got listeners %v", lds)
	}
	golden := filepath.Join("testdata", "config_dump.json")
	got = timestamps.ReplaceAll(got, []byte(`"2026-01-01T00:00:00.000Z"`))
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-file +now; -update writes it):\n%s", golden, diff)
	}
}

func TestConfigDumpWithoutBootstrapFile(t *testing.T) {
	c, err := New(Options{Bootstrap: &Bootstrap{Control: "127.0.0.1:15010", Node: Node{ID: "n", Metadata: map[string]any{"upstreams": []any{"web"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.ConfigDump()
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(got, new(adminv3.ConfigDump)); err != nil {
		t.Error(err)
	}
	var shape struct {
		Configs []struct {
			Bootstrap struct {
				Node struct{ ID string }
			}
		}
	}
	if err := json.Unmarshal(got, &shape); err != nil || len(shape.Configs) != 5 || shape.Configs[0].Bootstrap.Node.ID != "n" {
		t.Errorf("got %s, %v", got, err)
	}
}

// TestCVEClass27_ConfigDumpHidesKeys: whoever reads the dump sees certificates and not their keys (CVE-2022-23469).
func TestCVEClass27_ConfigDumpHidesKeys(t *testing.T) {
	const secret, keys = "THE-SECRET", "TICKETS-"
	text := strings.Replace(tlsListener("", "", `session_ticket_keys: {keys: [{inline_string: "`+strings.Repeat(keys, 10)+`"}]}, `), "{filename: /key.pem}", "{inline_string: "+secret+"}", 1)
	bytes := strings.Replace(tlsListener("", "", ""), "{filename: /key.pem}", "{inline_bytes: "+base64.StdEncoding.EncodeToString([]byte(secret))+"}", 1)
	static := strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(text), "rds: {config_source: {ads: {}}, route_config_name: r}", "route_config: {name: r}"), "\n", "\n    ")
	b, err := parseBootstrap("b", []byte("static_resources:\n  listeners:\n  - "+static+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Bootstrap: b})
	if err != nil {
		t.Fatal(err)
	}
	sent := listenerNamed(t, "y", 1, "r")
	sent.Resource.Value = mustWire(t, listeners, strings.Replace(bytes, "name: x", "name: y", 1))
	if err := c.store.apply(listeners, &discoveryv3.DeltaDiscoveryResponse{Resources: list(sent)}, time.Now()); err != nil {
		t.Fatal(err)
	}
	got, err := c.ConfigDump()
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{secret, keys, base64.StdEncoding.EncodeToString([]byte(secret))} {
		if strings.Contains(string(got), hidden) {
			t.Errorf("%q is shown:\n%s", hidden, got)
		}
	}
	if n := strings.Count(string(got), redacted) + strings.Count(string(got), base64.StdEncoding.EncodeToString([]byte(redacted))); n != 5 || !strings.Contains(string(got), "/crt.pem") {
		t.Errorf("%d secrets are hidden, want 5:\n%s", n, got)
	}
	if err := protojson.Unmarshal(got, new(adminv3.ConfigDump)); err != nil {
		t.Errorf("it is no ConfigDump of Envoy's: %v", err)
	}
}
