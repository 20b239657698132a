package xds

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
)

const adminType = typePrefix + "envoy.admin.v3."

// The shapes of Envoy's admin API, as far as they are filled. The real messages are not linked: their descriptors
// would cost every idle proxy memory for a page that is rarely asked for. A test holds these against them.
type (
	configDump struct {
		Configs []any `json:"configs"`
	}
	bootstrapDump struct {
		Type        string          `json:"@type"`
		Bootstrap   json.RawMessage `json:"bootstrap"`
		LastUpdated string          `json:"last_updated"`
	}
	clustersDump struct {
		Type    string        `json:"@type"`
		Version string        `json:"version_info,omitempty"`
		Static  []clusterDump `json:"static_clusters,omitempty"`
		Active  []clusterDump `json:"dynamic_active_clusters,omitempty"`
		Warming []clusterDump `json:"dynamic_warming_clusters,omitempty"`
	}
	clusterDump struct {
		Version     string          `json:"version_info,omitempty"`
		Cluster     json.RawMessage `json:"cluster,omitempty"`
		LastUpdated string          `json:"last_updated,omitempty"`
		Error       *errorDump      `json:"error_state,omitempty"`
	}
	listenersDump struct {
		Type    string           `json:"@type"`
		Version string           `json:"version_info,omitempty"`
		Static  []staticListener `json:"static_listeners,omitempty"`
		Dynamic []listenerDump   `json:"dynamic_listeners,omitempty"`
	}
	staticListener struct {
		Listener    json.RawMessage `json:"listener"`
		LastUpdated string          `json:"last_updated"`
	}
	listenerDump struct {
		Name    string         `json:"name"`
		Active  *listenerState `json:"active_state,omitempty"`
		Warming *listenerState `json:"warming_state,omitempty"`
		Error   *errorDump     `json:"error_state,omitempty"`
	}
	listenerState struct {
		Version     string          `json:"version_info,omitempty"`
		Listener    json.RawMessage `json:"listener"`
		LastUpdated string          `json:"last_updated"`
	}
	routesDump struct {
		Type    string      `json:"@type"`
		Dynamic []routeDump `json:"dynamic_route_configs,omitempty"`
	}
	routeDump struct {
		Version     string          `json:"version_info,omitempty"`
		Route       json.RawMessage `json:"route_config,omitempty"`
		LastUpdated string          `json:"last_updated,omitempty"`
		Error       *errorDump      `json:"error_state,omitempty"`
	}
	endpointsDump struct {
		Type    string         `json:"@type"`
		Dynamic []endpointDump `json:"dynamic_endpoint_configs,omitempty"`
	}
	endpointDump struct {
		Version     string          `json:"version_info,omitempty"`
		Endpoint    json.RawMessage `json:"endpoint_config,omitempty"`
		LastUpdated string          `json:"last_updated,omitempty"`
		Error       *errorDump      `json:"error_state,omitempty"`
	}
	errorDump struct {
		Version string `json:"version_info,omitempty"`
		Last    string `json:"last_update_attempt"`
		Details string `json:"details"`
	}
)

// dumped is one resource of the store, or a refused one of which nothing was ever accepted.
type dumped struct {
	name, version, updated string
	body                   json.RawMessage
	err                    *errorDump
	pending                bool // accepted, and waiting for what it refers to
}

// ConfigDump returns what is known in the JSON form of Envoy's /config_dump?include_eds, resources sorted by name.
func (c *Client) ConfigDump() ([]byte, error) {
	boot, err := c.options.Bootstrap.proto()
	if err != nil {
		return nil, err
	}
	bootJSON, err := messageJSON(boot)
	if err != nil {
		return nil, err
	}
	var all [kinds][]dumped
	for k := range kinds {
		if all[k], err = c.dump(k); err != nil {
			return nil, err
		}
	}
	started := stamp(c.started)
	cds := clustersDump{Type: adminType + "ClustersConfigDump", Version: c.typeVersion(clusters)}
	lds := listenersDump{Type: adminType + "ListenersConfigDump", Version: c.typeVersion(listeners)}
	if err := dumpStatic(boot, started, &cds, &lds); err != nil {
		return nil, err
	}
	for _, d := range all[clusters] {
		out := clusterDump{d.version, d.body, d.updated, d.err}
		if d.pending {
			cds.Warming = append(cds.Warming, out)
		} else {
			cds.Active = append(cds.Active, out)
		}
	}
	for _, d := range all[listeners] {
		out := listenerDump{Name: d.name, Error: d.err}
		if state := (&listenerState{d.version, d.body, d.updated}); d.pending {
			out.Warming = state
		} else if d.body != nil {
			out.Active = state
		}
		lds.Dynamic = append(lds.Dynamic, out)
	}
	rds, eds := routesDump{Type: adminType + "RoutesConfigDump"}, endpointsDump{Type: adminType + "EndpointsConfigDump"}
	for _, d := range all[routeTables] {
		rds.Dynamic = append(rds.Dynamic, routeDump{d.version, d.body, d.updated, d.err})
	}
	for _, d := range all[endpoints] {
		eds.Dynamic = append(eds.Dynamic, endpointDump{d.version, d.body, d.updated, d.err})
	}
	out, err := json.MarshalIndent(configDump{[]any{
		bootstrapDump{adminType + "BootstrapConfigDump", bootJSON, started}, cds, lds, rds, eds,
	}}, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode config dump: %w", err)
	}
	return append(out, '\n'), nil
}

func dumpStatic(boot *bootstrapv3.Bootstrap, started string, cds *clustersDump, lds *listenersDump) error {
	for _, m := range boot.GetStaticResources().GetClusters() {
		body, err := typedJSON(m)
		if err != nil {
			return err
		}
		cds.Static = append(cds.Static, clusterDump{Cluster: body, LastUpdated: started})
	}
	for _, m := range boot.GetStaticResources().GetListeners() {
		body, err := typedJSON(m)
		if err != nil {
			return err
		}
		lds.Static = append(lds.Static, staticListener{body, started})
	}
	return nil
}

func (c *Client) typeVersion(k kind) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.store.types[k].version
}

// dump lists the resources of a kind. The store is only held while its pointers are copied.
func (c *Client) dump(k kind) ([]dumped, error) {
	c.mu.Lock()
	t := c.store.types[k]
	have, rejected := maps.Clone(t.have), maps.Clone(t.rejected)
	pending := map[string]bool{}
	for name := range have {
		switch k {
		case clusters:
			pending[name] = !c.store.clusters[name].Assigned
		case listeners:
			_, active := c.store.published[name]
			pending[name] = !active
		}
	}
	c.mu.Unlock()
	names := map[string]bool{}
	for name := range have {
		names[name] = true
	}
	for name := range rejected {
		names[name] = true
	}
	var out []dumped
	for _, name := range slices.Sorted(maps.Keys(names)) {
		d := dumped{name: name, pending: pending[name]}
		if res := have[name]; res != nil {
			body, err := anyJSON(&anypb.Any{TypeUrl: k.typeURL(), Value: res.raw})
			if err != nil {
				return nil, fmt.Errorf("encode %s %q: %w", k, name, err)
			}
			d.body, d.version, d.updated = body, res.version, stamp(res.updated)
		}
		if r, refused := rejected[name]; refused {
			d.err = &errorDump{r.version, stamp(r.at), r.reason}
		}
		out = append(out, d)
	}
	return out, nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func messageJSON(m proto.Message) (json.RawMessage, error) {
	out, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return redact(out)
}

// typedJSON is a message with its @type.
func typedJSON(m proto.Message) (json.RawMessage, error) {
	a, err := anypb.New(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return anyJSON(a)
}

// anyJSON is what an Any holds. If it holds, somewhere, a type that is not linked, it is shown in base64.
func anyJSON(a *anypb.Any) (json.RawMessage, error) {
	if out, err := messageJSON(a); err == nil {
		return out, nil
	}
	out, err := json.Marshal(map[string]string{"@type": a.GetTypeUrl(), "value": base64.StdEncoding.EncodeToString(a.GetValue())})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", a.GetTypeUrl(), err)
	}
	return out, nil
}
