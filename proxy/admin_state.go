package proxy

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/health"
	"github.com/hostmesh/hostmesh/proxy/upstream"
	"github.com/hostmesh/hostmesh/proxy/upstream/balance"
)

// The JSON forms of Envoy's admin messages (envoy.admin.v3), as far as there is something to say.
type (
	jsonSocketAddress struct {
		Address string `json:"address"`
		Port    uint16 `json:"port_value"`
	}
	jsonAddress struct {
		Socket *jsonSocketAddress `json:"socket_address,omitempty"`
		Pipe   *jsonPipe          `json:"pipe,omitempty"`
	}
	jsonPipe struct {
		Path string `json:"path"`
	}
	jsonListener struct {
		Name  string      `json:"name"`
		Local jsonAddress `json:"local_address"`
		Error string      `json:"bind_error,omitempty"` // ours: why nobody is listening there yet
	}
	jsonStat struct {
		Type  string `json:"type,omitempty"`
		Name  string `json:"name"`
		Value string `json:"value,omitempty"`
	}
	jsonLocality struct {
		Region  string `json:"region,omitempty"`
		Zone    string `json:"zone,omitempty"`
		SubZone string `json:"sub_zone,omitempty"`
	}
	jsonHost struct {
		Address  jsonAddress  `json:"address"`
		Stats    []jsonStat   `json:"stats"`
		Health   jsonHealth   `json:"health_status"`
		Rate     *jsonPercent `json:"success_rate,omitempty"`
		Local    *jsonPercent `json:"local_origin_success_rate,omitempty"`
		Weight   uint32       `json:"weight"`
		Hostname string       `json:"hostname,omitempty"`
		Priority uint32       `json:"priority,omitempty"`
		Locality jsonLocality `json:"locality"`
	}
	jsonThreshold struct {
		Priority       string `json:"priority,omitempty"`
		MaxConnections uint32 `json:"max_connections,omitempty"`
		MaxPending     uint32 `json:"max_pending_requests,omitempty"`
		MaxRequests    uint32 `json:"max_requests,omitempty"`
		MaxRetries     uint32 `json:"max_retries,omitempty"`
	}
	jsonBreakers struct {
		Thresholds []jsonThreshold `json:"thresholds"`
	}
	jsonCluster struct {
		Name              string       `json:"name"`
		AddedViaAPI       bool         `json:"added_via_api"`
		Hosts             []jsonHost   `json:"host_statuses,omitempty"`
		Breakers          jsonBreakers `json:"circuit_breakers"`
		ObservabilityName string       `json:"observability_name"`
	}
)

func addressOf(a config.Address) jsonAddress {
	if a.IsUnix() {
		return jsonAddress{Pipe: &jsonPipe{a.Path}}
	}
	return jsonAddress{Socket: &jsonSocketAddress{a.IP.Addr().String(), a.IP.Port()}}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	_ = e.Encode(v)
}

func (a *admin) listeners(w http.ResponseWriter, r *http.Request) {
	all := a.p.binder.listeners()
	if r.URL.Query().Get("format") == "json" {
		out := []jsonListener{}
		for _, at := range all {
			l := jsonListener{Name: at.served.cfg.Name, Local: addressOf(at.addr)}
			if !at.bound {
				l.Error = at.reason()
			}
			out = append(out, l)
		}
		writeJSON(w, map[string]any{"listener_statuses": out})
		return
	}
	for _, at := range all {
		if at.bound {
			fmt.Fprintf(w, "%s::%s\n", at.served.cfg.Name, at.addr)
		} else {
			fmt.Fprintf(w, "%s::%s::not bound: %s\n", at.served.cfg.Name, at.addr, at.reason())
		}
	}
}

func (at *binding) reason() string {
	if at.err == nil {
		return "not tried yet"
	}
	return at.err.Error()
}

func (a *admin) serverInfo(w http.ResponseWriter, _ *http.Request) {
	state, _ := a.p.state()
	uptime := strconv.Itoa(int(time.Since(a.p.started).Seconds())) + "s"
	writeJSON(w, map[string]any{
		"version":              a.p.opts.Version,
		"state":                state,
		"uptime_current_epoch": uptime,
		"uptime_all_epochs":    uptime,
		"hot_restart_version":  "disabled",
		"command_line_options": map[string]any{"concurrency": len(a.p.workers), "drain_time": strconv.FormatFloat(a.p.opts.ListenerDrainTime.Seconds(), 'f', -1, 64) + "s"},
		"node":                 map[string]any{"id": a.p.opts.Node},
	})
}

func healthName(h config.Health) string {
	return [...]string{config.Healthy: "HEALTHY", config.Degraded: "DEGRADED", config.Unhealthy: "UNHEALTHY", config.Draining: "DRAINING"}[h]
}

// hostValue is a figure of a host by its name in /clusters.
type hostValue struct {
	name  string
	value uint64
	gauge bool
}

func hostValues(h *hostCounts) []hostValue {
	s := &h.stats
	return []hostValue{
		{"cx_active", uint64(h.conns), true},
		{"cx_connect_fail", s.ConnectFail, false},
		{"cx_total", s.ConnTotal, false},
		{"rq_active", uint64(h.active), true},
		{"rq_error", s.RequestErr, false},
		{"rq_success", s.RequestSuccess, false},
		{"rq_timeout", s.RequestTimeout, false},
		{"rq_total", s.RequestTotal, false},
	}
}

func (a *admin) clusters(w http.ResponseWriter, r *http.Request) {
	cfg := a.p.opts.Config.Load()
	if cfg == nil {
		cfg = &config.Config{}
	}
	counts := a.p.gather(r.Context())
	asJSON := r.URL.Query().Get("format") == "json"
	statuses := []jsonCluster{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Clusters)) {
		c := cfg.Clusters[name]
		if asJSON {
			statuses = append(statuses, clusterJSON(c, a.hosts(c, counts.clusters[name]), counts.clusters[name]))
		} else {
			writeCluster(w, c, a.hosts(c, counts.clusters[name]), counts.clusters[name])
		}
	}
	if asJSON {
		writeJSON(w, map[string]any{"cluster_statuses": statuses})
	}
}

// hosts are those of a cluster; counts may be nil.
func (a *admin) hosts(c *config.Cluster, counts *clusterCounts) []fleetHost {
	hosts := a.p.fleet.hosts(c)
	if c.OriginalDst == nil || counts == nil {
		return hosts
	}
	for _, addr := range slices.SortedFunc(maps.Keys(counts.hosts), config.Address.Compare) {
		e := &config.Endpoint{Addr: addr, Weight: 1}
		hosts = append(hosts, fleetHost{Host: health.Host{Endpoint: e}, rate: -1, localRate: -1})
	}
	return hosts
}

func clusterJSON(c *config.Cluster, hosts []fleetHost, counts *clusterCounts) jsonCluster {
	out := jsonCluster{Name: c.Name, AddedViaAPI: true, ObservabilityName: c.Name, Breakers: jsonBreakers{[]jsonThreshold{
		{"DEFAULT", c.MaxConnections, c.MaxPending, c.MaxRequests, c.MaxRetries},
	}}}
	for _, known := range hosts {
		e := known.Endpoint
		h := jsonHost{
			Address: addressOf(e.Addr), Health: known.json(), Rate: percent(known.rate), Local: percent(known.localRate), Weight: e.Weight, Hostname: e.Hostname,
			Priority: e.Priority, Locality: jsonLocality(e.Locality),
		}
		for _, v := range hostValues(counts.host(e.Addr)) {
			s := jsonStat{Name: v.name}
			if v.value != 0 {
				s.Value = strconv.FormatUint(v.value, 10)
			}
			if v.gauge {
				s.Type = "GAUGE"
			}
			h.Stats = append(h.Stats, s)
		}
		out.Hosts = append(out.Hosts, h)
	}
	return out
}

func writeCluster(w http.ResponseWriter, c *config.Cluster, hosts []fleetHost, counts *clusterCounts) {
	fmt.Fprintf(w, "%s::observability_name::%s\n", c.Name, c.Name)
	fmt.Fprintf(w, "%s::default_priority::max_connections::%d\n", c.Name, c.MaxConnections)
	fmt.Fprintf(w, "%s::default_priority::max_pending_requests::%d\n", c.Name, c.MaxPending)
	fmt.Fprintf(w, "%s::default_priority::max_requests::%d\n", c.Name, c.MaxRequests)
	fmt.Fprintf(w, "%s::default_priority::max_retries::%d\n", c.Name, c.MaxRetries)
	fmt.Fprintf(w, "%s::added_via_api::true\n", c.Name)
	for _, known := range hosts {
		e := known.Endpoint
		at := c.Name + "::" + e.Addr.String()
		for _, v := range hostValues(counts.host(e.Addr)) {
			fmt.Fprintf(w, "%s::%s::%d\n", at, v.name, v.value)
		}
		fmt.Fprintf(w, "%s::hostname::%s\n", at, e.Hostname)
		fmt.Fprintf(w, "%s::health_flags::%s\n", at, known.text())
		fmt.Fprintf(w, "%s::weight::%d\n", at, e.Weight)
		fmt.Fprintf(w, "%s::region::%s\n", at, e.Locality.Region)
		fmt.Fprintf(w, "%s::zone::%s\n", at, e.Locality.Zone)
		fmt.Fprintf(w, "%s::sub_zone::%s\n", at, e.Locality.SubZone)
		fmt.Fprintf(w, "%s::canary::false\n", at)
		fmt.Fprintf(w, "%s::priority::%d\n", at, e.Priority)
		fmt.Fprintf(w, "%s::success_rate::%g\n", at, known.rate)
		fmt.Fprintf(w, "%s::local_origin_success_rate::%g\n", at, known.localRate)
	}
}

// clusterCounts are the counts of a cluster, summed over the loops.
type clusterCounts struct {
	stats  upstream.Stats
	gauges upstream.Gauges
	plan   *balance.Plan
	hosts  map[config.Address]*hostCounts
}

type hostCounts struct {
	stats         upstream.HostStats
	active, conns int
}

// host returns the counts of a host; those of one that no loop has used are zero. c may be nil.
func (c *clusterCounts) host(addr config.Address) *hostCounts {
	if c != nil {
		if h := c.hosts[addr]; h != nil {
			return h
		}
	}
	return &hostCounts{}
}
