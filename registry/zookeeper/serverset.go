package zookeeper

import (
	"errors"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/hostmesh/hostmesh/registry"
)

// serverset is the layout of Twitter's ServerSets, which Finagle and Aurora write too: <root>/<path of the service …>/
// member_<sequence>, with a JSON of the endpoint and additional ones.
type serverset struct{}

func (serverset) place(at []string) place { return nested(at) }

// member is what is written of a ServerSet's member.
type member struct {
	ServiceEndpoint     *memberEndpoint
	AdditionalEndpoints map[string]memberEndpoint
	Status              string
	Shard               textual
}

type memberEndpoint struct {
	Host string
	Port number
}

func (serverset) decode(at []string, data []byte) (*registry.Entry, error) {
	service, labels, err := serviceAt(at[:len(at)-1])
	if err != nil {
		return nil, err
	}
	var m member
	if err := decodeObject(data, &m); err != nil {
		return nil, err
	}
	if m.ServiceEndpoint == nil || m.ServiceEndpoint.Host == "" {
		return nil, wrong(kindAddress, "got no serviceEndpoint with a host, want a ServerSet's member")
	}
	if m.Shard != "" {
		labels["shard"] = string(m.Shard)
	}
	main := *m.ServiceEndpoint
	f := found{
		service: service, id: net.JoinHostPort(main.Host, strconv.Itoa(int(main.Port))), host: main.Host, labels: labels,
		ports:  []foundPort{{number: int(main.Port)}},
		advice: "have the service announce one (Aurora: the scheduler's and agents' -hostname or -ip)",
	}
	var elsewhere error
	for _, name := range slices.Sorted(maps.Keys(m.AdditionalEndpoints)) {
		switch e := m.AdditionalEndpoints[name]; {
		case name == "":
		case e.Host != main.Host:
			elsewhere = wrong(kindAddress, "additional endpoint %.63q is at %.100q and not at %.100q, it is not used", name, e.Host, main.Host)
		default:
			f.ports = append(f.ports, foundPort{name: name, number: int(e.Port)})
		}
	}
	health, unknown := memberHealth(m.Status)
	f.health = health
	e, err := f.entry()
	return e, errors.Join(err, elsewhere, unknown)
}

// memberHealth is what a member says of itself. That it is alive is no check: it would say so until its session ends.
func memberHealth(status string) (registry.Health, error) {
	switch status {
	case "ALIVE", "WARNING", "":
		return registry.Unknown, nil
	case "STOPPING":
		return registry.Draining, nil
	case "DEAD", "STARTING", "STOPPED":
		return registry.Unhealthy, nil
	}
	return registry.Unhealthy, wrong(kindValue, "got status %.100q, want ALIVE; nothing is sent there", status)
}
