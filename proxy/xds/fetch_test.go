package xds

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// patientCluster and patientListener have their own initial_fetch_timeout.
func patientCluster(t *testing.T, name, fetch string) *discoveryv3.Resource {
	return resourceOf(t, name, "1", fromYAML(t, new(clusterv3.Cluster), fmt.Sprintf("name: %s\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}, initial_fetch_timeout: %s}}\n", name, fetch)))
}

func patientListener(t *testing.T, name string, port int, fetch string) *discoveryv3.Resource {
	text := hcmYAML
	for old, own := range map[string]string{
		"name: x": "name: " + name, "port_value: 80": fmt.Sprint("port_value: ", port), "config_source: {ads: {}}": "config_source: {ads: {}, initial_fetch_timeout: " + fetch + "}",
	} {
		text = strings.Replace(text, old, own, 1)
	}
	return resourceOf(t, name, "1", fromYAML(t, new(listenerv3.Listener), text))
}

// TestInitialFetchTimeoutOfEndpoints: it is how long endpoints are waited for. 0 is for ever: at the start for everything, and later
// for the cluster alone.
func TestInitialFetchTimeoutOfEndpoints(t *testing.T) {
	for _, c := range []struct {
		fetch string
		waits time.Duration // 0: for ever
	}{{"3s", 3 * time.Second}, {"60s", time.Minute}, {"0s", 0}} {
		t.Run(c.fetch, func(t *testing.T) {
			s := newTold(t)
			s.tell(listeners, list(listenerNamed(t, "l", 1, "r")))
			s.tell(clusters, list(patientCluster(t, "silent", c.fetch)))
			s.tell(routeTables, list(routesNamed(t, "r", "1", "silent")))
			if c.waits == 0 {
				if got := s.after(time.Hour); got.Clusters["silent"].Assigned || len(got.Listeners) != 0 || s.whole(s.now) || !s.pending() {
					t.Error("the wait ended")
				}
				s.tell(endpoints, list(endpointsNamed(t, "silent", "1", 80)))
			} else {
				if got := s.after(c.waits - 1); got.Clusters["silent"].Assigned || len(got.Listeners) != 0 || s.whole(s.now) {
					t.Error("the wait ended early")
				}
				s.after(1)
			}
			if got := s.after(0); !got.Clusters["silent"].Assigned || len(got.Listeners) != 1 || !s.whole(s.now) {
				t.Error("the wait does not end")
			}
			// Now it serves: nobody else waits for longer than usual.
			s.tell(clusters, list(patientCluster(t, "later", c.fetch)))
			s.tell(listeners, list(listenerNamed(t, "m", 2, "r")))
			usual := fetchTimeout
			if c.waits > 0 {
				usual = min(usual, c.waits)
			}
			if got := s.after(usual - 1); len(got.Listeners) != 1 {
				t.Error("the new listener did not wait")
			}
			if got := s.after(1); len(got.Listeners) != 2 || got.Clusters["later"].Assigned != (c.waits == usual) || !s.whole(s.now) {
				t.Errorf("%d listeners, assigned %v", len(got.Listeners), got.Clusters["later"].Assigned)
			}
		})
	}
}

// TestInitialFetchTimeoutOfRoutes: a new listener whose routes do not come in time is served without any, as in Envoy, and with
// them when they come; one that serves keeps its routes.
func TestInitialFetchTimeoutOfRoutes(t *testing.T) {
	for _, c := range []struct {
		fetch string
		waits time.Duration
	}{{"3s", 3 * time.Second}, {"null", fetchTimeout}, {"0s", 0}} {
		t.Run(c.fetch, func(t *testing.T) {
			s := newTold(t)
			s.tell(clusters, nil)
			s.tell(listeners, list(patientListener(t, "l", 1, c.fetch)))
			if c.waits == 0 {
				if got := s.after(time.Hour); len(got.Listeners) != 0 || !s.pending() {
					t.Error("the wait ended")
				}
			} else {
				if got := s.after(c.waits - 1); len(got.Listeners) != 0 || !s.pending() {
					t.Error("the wait ended early")
				}
				got := s.after(1)
				if len(got.Listeners) != 1 || len(got.Listeners[0].HTTP.Routes.VirtualHosts) != 0 || s.pending() {
					t.Fatalf("%d listeners, or routes", len(got.Listeners))
				}
				if again := s.after(time.Second); again.Listeners[0] != got.Listeners[0] {
					t.Error("it is another one after a while")
				}
				if got := s.tell(listeners, list(patientListener(t, "l", 2, c.fetch))); got.Listeners[0].Addresses[0].Port() != 2 {
					t.Error("a change of the listener waits")
				}
			}
			if got := s.tell(routeTables, list(routesNamed(t, "r", "1", "a"))); len(got.Listeners) != 1 || leads(got) != "a" {
				t.Error("the routes have come, and are not served")
			}
			next := listenerNamed(t, "l", 3, "other")
			before := s.current.Listeners[0]
			s.tell(listeners, list(next))
			if got := s.after(time.Hour); got.Listeners[0] != before {
				t.Error("a listener that serves lost its routes")
			}
		})
	}
}

// TestInitialFetchTimeoutOfClusters is about the bootstrap's own.
func TestInitialFetchTimeoutOfClusters(t *testing.T) {
	b, err := parseBootstrap("b", []byte(strings.Replace(strings.Replace(bootstrapYAML, "cds_config: {ads: {}", "cds_config: {initial_fetch_timeout: 2s, ads: {}", 1), "lds_config: {ads: {}", "lds_config: {initial_fetch_timeout: 0s, ads: {}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s := newStore(rules{schema: newSchema()}, b, now)
	s.opened = now
	for _, c := range []struct {
		after               time.Duration
		clusters, listeners bool
	}{{2*time.Second - 1, false, false}, {2 * time.Second, true, false}, {time.Hour, true, false}} {
		if cds, lds := s.told(clusters, now.Add(c.after)), s.told(listeners, now.Add(c.after)); cds != c.clusters || lds != c.listeners {
			t.Errorf("after %v: %v, %v", c.after, cds, lds)
		}
	}
}
