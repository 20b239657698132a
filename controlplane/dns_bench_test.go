package controlplane_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/registry"
)

// BenchmarkChangeAnswered is the time from a registry's event, one of whose 10,000 services of 10 endpoints has changed, until DNS answers
// with it over UDP: the Catalog's work, the zone's, that for proxies, and that of asking. A round is 300 changes.
func BenchmarkChangeAnswered(b *testing.B) {
	names := freeAddr(b)
	r := start(b, controlplane.Options{DNS: controlplane.DNS{Listen: []string{names}, Keys: b.TempDir()}})
	view := manyServices(10_000, 10)
	r.registry.views <- view
	eventually(b, "the last service is answered", func() bool {
		return len(lookUp(b, names, "service-09999.mesh.internal.", dns.TypeA).Answer) == 10
	})
	time.Sleep(2 * time.Second) // the first view's work is over
	conn, err := net.Dial("udp", names)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
	const pause = 70 * time.Millisecond // the Catalog puts what comes sooner after another change together
	var took []time.Duration
	for b.Loop() {
		for turn := range 300 {
			i, moved := turn*7919%len(view.Services), netip.AddrFrom4([4]byte{192, 0, byte(turn >> 8), byte(turn)})
			query, err := new(dns.Msg).SetQuestion(fmt.Sprintf("service-%05d.mesh.internal.", i), dns.TypeA).Pack()
			if err != nil {
				b.Fatal(err)
			}
			view = withMoved(view, i, moved)
			began := time.Now()
			r.registry.views <- view
			for !answers(b, conn, query, moved) {
			}
			took = append(took, time.Since(began))
			time.Sleep(pause)
		}
	}
	slices.Sort(took)
	for name, q := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99} {
		b.ReportMetric(float64(took[int(q*float64(len(took)))].Microseconds())/1000, name)
	}
}

// answers says whether the answer to a query has an address.
func answers(b *testing.B, conn net.Conn, query []byte, addr netip.Addr) bool {
	if _, err := conn.Write(query); err != nil {
		b.Fatal(err)
	}
	answer := make([]byte, 1232)
	n, err := conn.Read(answer)
	if err != nil {
		b.Fatal(err)
	}
	return bytes.Contains(answer[:n], addr.AsSlice())
}

func manyServices(services, endpoints int) (v registry.View) {
	for i := range services {
		s := &registry.Service{Name: registry.Name{Namespace: "default", Name: fmt.Sprintf("service-%05d", i)}, Ports: []registry.Port{{Name: "http", Number: 80, Protocol: registry.HTTP}}}
		for e := range endpoints {
			n := i*endpoints + e
			s.Endpoints = append(s.Endpoints, &registry.Endpoint{
				ID: fmt.Sprintf("%03d", e), Addr: netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}),
				Ports: []registry.EndpointPort{{Name: "http", Number: 8080}}, Weight: 1, Health: registry.Healthy,
			})
		}
		v.Services = append(v.Services, s)
	}
	return v
}

// withMoved is the view after the last endpoint of a service has got another address.
func withMoved(v registry.View, service int, to netip.Addr) registry.View {
	v.Services = slices.Clone(v.Services)
	next := *v.Services[service]
	next.Endpoints = slices.Clone(next.Endpoints)
	last := *next.Endpoints[len(next.Endpoints)-1]
	last.Addr = to
	next.Endpoints[len(next.Endpoints)-1] = &last
	v.Services[service] = &next
	return v
}
