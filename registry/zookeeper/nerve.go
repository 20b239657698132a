package zookeeper

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/hostmesh/hostmesh/registry"
)

// nerve is the layout of SmartStack: <root>/<path of the service …>/<instance>_<sequence>, with a JSON of host and
// port. With use_path_encoding the node's name holds that JSON too, and is all that is read.
type nerve struct{}

const encodedPrefix = "base64_"

func (nerve) place(at []string) place {
	if len(at) > 1 && len(at) <= maxDepth && strings.HasPrefix(at[len(at)-1], encodedPrefix) {
		return named
	}
	return nested(at)
}

// report is what Nerve writes of an instance.
type report struct {
	Host   *string
	Port   number
	Name   textual
	Weight textual
	Labels map[string]json.RawMessage
}

func (nerve) decode(at []string, data []byte) (*registry.Entry, error) {
	last := at[len(at)-1]
	service, labels, err := serviceAt(at[:len(at)-1])
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(last, encodedPrefix) {
		if data, err = pathEncoded(last); err != nil {
			return nil, err
		}
	}
	var r report
	if err := decodeObject(data, &r); err != nil {
		return nil, err
	}
	if r.Host == nil || r.Port == 0 {
		return nil, wrong(kindAddress, "got no host or no port, want both")
	}
	for key, value := range scalars(r.Labels) {
		labels[key] = value
	}
	if r.Name != "" {
		labels["name"] = string(r.Name)
	}
	f := found{
		service: service, id: net.JoinHostPort(*r.Host, strconv.Itoa(int(r.Port))), host: *r.Host,
		ports: []foundPort{{number: int(r.Port)}}, weight: string(r.Weight), labels: labels,
		advice: "set host to one in the service's configuration of Nerve",
	}
	return f.entry()
}

// pathEncoded returns the JSON in a name base64_<length>_<URL-safe base64 of that length>_<sequence>.
func pathEncoded(name string) ([]byte, error) {
	length, rest, found := strings.Cut(strings.TrimPrefix(name, encodedPrefix), "_")
	n, err := strconv.Atoi(length)
	if !found || err != nil || n < 0 || n > len(rest) || !sequence.MatchString(rest[n:]) {
		return nil, errors.New("got another name, want base64_<length>_<base64>_<sequence>")
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(rest[:n], "="))
	if err != nil {
		return nil, fmt.Errorf("decode name: %w", err)
	}
	return data, nil
}
