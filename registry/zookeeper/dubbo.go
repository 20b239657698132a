package zookeeper

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// dubbo is the layout of Dubbo's interface-level registry: <root>/<interface>/providers/<URL, percent-encoded>.
type dubbo struct{}

func (dubbo) place(at []string) place {
	switch {
	case len(at) == 1 && slices.Contains([]string{"config", "metadata", "mapping"}, at[0]):
		return ignored // Dubbo's own, beside the interfaces
	case len(at) < 2 || len(at) == 2 && at[1] == "providers":
		return directory
	case len(at) == 3 && at[1] == "providers":
		return named
	}
	return ignored
}

// dubboWeight is the weight of a provider that says none.
const dubboWeight = "100"

// dubboLabels are the parameters that say something to others than Dubbo's own clients.
var dubboLabels = []string{
	"application", "dubbo.tag", "environment", "group", "owner", "region", "release", "revision",
	"serialization", "subzone", "tag", "version", "zone",
}

func (dubbo) decode(at []string, _ []byte) (*registry.Entry, error) {
	if len(at) != 3 {
		return nil, errors.New("got an instance elsewhere, want <root>/<interface>/providers/<URL>")
	}
	text, err := url.QueryUnescape(at[2]) // Dubbo writes it with URLEncoder
	if err != nil {
		return nil, fmt.Errorf("decode name: %w", err)
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("got %.100q, want the URL of a provider", text)
	}
	if u.Scheme == "empty" {
		return &registry.Entry{Service: at[0]}, nil // says that there is none
	}
	params := u.Query()
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 {
		return nil, wrong(kindPort, "got port %.40q, want 1 to 65535", u.Port())
	}
	id := u.Host
	labels := make(map[string]string)
	for _, key := range dubboLabels {
		if value := params.Get(key); value != "" {
			labels[key] = value
		}
	}
	// One address may serve several groups and versions of an interface.
	for _, key := range []string{"group", "version"} {
		if labels[key] != "" {
			id += " " + key + "=" + labels[key]
		}
	}
	f := found{
		service: at[0], id: id, host: u.Hostname(), labels: labels,
		ports:  []foundPort{{number: int(port), protocol: dubboProtocol(u.Scheme)}},
		weight: dubboWeight,
		advice: "have the provider register one (DUBBO_IP_TO_REGISTRY, or dubbo.protocol.host)",
	}
	if weight := params.Get(weightLabel); weight != "" {
		f.weight = weight
	}
	if params.Get("disabled") == "true" || params.Get("enabled") == "false" {
		f.health = registry.Draining
	}
	return f.entry()
}

// dubboProtocol is what is spoken at a URL of that scheme.
func dubboProtocol(scheme string) registry.Protocol {
	switch strings.ToLower(scheme) {
	case "tri", "grpc":
		return registry.GRPC
	case "http", "rest", "hessian", "webservice":
		return registry.HTTP
	case "https":
		return registry.TLS
	}
	return registry.TCP
}
