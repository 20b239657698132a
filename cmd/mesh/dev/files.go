package dev

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ports are those of design's surface, all moved by one offset so that several meshes fit on one machine.
type ports struct{ dns, xds, api, admin, outbound, gossipControl, gossipProxy, demo int }

func portsAt(offset int) ports {
	return ports{
		dns: 8053 + offset, xds: 15010 + offset, api: 15014 + offset, admin: 15000 + offset, outbound: 15001 + offset,
		gossipControl: 7947 + offset, gossipProxy: 7946 + offset, demo: 18081 + offset,
	}
}

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// demoInstance is one process of the demo application and the services.d file that announces it.
type demoInstance struct {
	name, service, version, calls string
	port                          int
}

func demoInstances(first int) []demoInstance {
	return []demoInstance{
		{name: "web-v1", service: "web", version: "v1", calls: "api", port: first},
		{name: "web-v2", service: "web", version: "v2", calls: "api", port: first + 1},
		{name: "api-v1", service: "api", version: "v1", port: first + 2},
	}
}

// write puts the configuration of the whole mesh below the directory, as an operator would write it by hand.
func (o Options) write(p ports) error {
	for _, dir := range []string{"services.d", "control", "proxy", "log"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, dir), 0o700); err != nil {
			return fmt.Errorf("prepare %s: %w", o.Dir, err)
		}
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	files := map[string]string{
		"gossip.key":   base64.StdEncoding.EncodeToString(key) + "\n",
		"control.yaml": o.controlFile(p),
		"proxy.yaml":   o.proxyFile(p),
	}
	if o.Demo {
		for _, d := range demoInstances(p.demo) {
			files["services.d/"+d.name+".yaml"] = d.serviceFile()
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(o.Dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

func (o Options) controlFile(p ports) string {
	var b strings.Builder
	fmt.Fprintf(&b, `domain: %s
state: %s
listen:
  xds: ["unix:%s", "%s"]
  http: %s
dns: {listen: ["%s"]}
registries:
  - name: hosts
    gossip: {bind: "%s", keyFile: %s}
`, o.Domain, filepath.Join(o.Dir, "control"), filepath.Join(o.Dir, "xds.sock"), loopback(p.xds), loopback(p.api), loopback(p.dns),
		loopback(p.gossipControl), filepath.Join(o.Dir, "gossip.key"))
	for _, r := range o.Registries {
		fmt.Fprintf(&b, "  - name: %s\n    %s\n", r.Name, r.YAML)
	}
	return b.String()
}

func (o Options) proxyFile(p ports) string {
	upstreams := `["*"]`
	if o.Demo {
		upstreams = `[web, api, "*"]`
	}
	return fmt.Sprintf(`node: {id: dev}
control: unix:%s
admin: %s
outbound: %s
upstreams: %s
services: %s
gossip: {bind: "%s", join: ["%s"], keyFile: %s}
state: %s
`, filepath.Join(o.Dir, "xds.sock"), loopback(p.admin), loopback(p.outbound), upstreams, filepath.Join(o.Dir, "services.d"),
		loopback(p.gossipProxy), loopback(p.gossipControl), filepath.Join(o.Dir, "gossip.key"), filepath.Join(o.Dir, "proxy"))
}

func (d demoInstance) serviceFile() string {
	return fmt.Sprintf(`service: %s
ports: [{name: http, port: 80, targetPort: %d, protocol: http}]
labels: {version: %s}
check: {http: /healthz, interval: 1s}
`, d.service, d.port, d.version)
}
