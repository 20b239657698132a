package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestDNSOverTLSAndHTTPSKdig has mesh control serve what its file says, and another certificate as soon as its files are others:
// a client that trusts one of two authorities alone tells them apart.
func TestDNSOverTLSAndHTTPSKdig(t *testing.T) {
	p, _ := newOrders(t)
	tlsPort, httpsPort := testbed.FreePort(t), testbed.FreePort(t)
	authorities := map[string]*testbed.Authority{}
	for _, name := range []string{"one", "two"} {
		authorities[name] = testbed.NewAuthority(t)
		writeFile(t, filepath.Join(p.dir, name+".pem"), authorities[name].PEM())
	}
	install := func(name string) {
		cert, key := testbed.WritePair(t, p.dir, "next", authorities[name].Leaf("ns.mesh.internal"))
		for from, to := range map[string]string{cert: "dns.pem", key: "dns.key"} {
			if err := os.Rename(from, filepath.Join(p.dir, to)); err != nil {
				t.Fatal(err)
			}
		}
	}
	install("one")
	file, err := os.ReadFile(p.controlFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.controlFile, strings.Replace(string(file), "dns: {", fmt.Sprintf("dns: {tls: [\"127.0.0.1:%d\"], https: [\"127.0.0.1:%d\"], certFile: %s/dns.pem, keyFile: %s/dns.key, ",
		tlsPort, httpsPort, p.dir, p.dir), 1))
	p.startControl(t)
	ask := func(how, authority string, port int) error {
		out, err := runQuiet("kdig", "@127.0.0.1", "-p", fmt.Sprint(port), "+retry=0", "+timeout=5", how, "+tls-hostname=ns.mesh.internal",
			"+tls-ca="+filepath.Join(p.dir, authority+".pem"), "+short", "orders.mesh.internal", "A")
		if err == nil && strings.TrimSpace(out) != "127.0.0.1" {
			err = fmt.Errorf("it said %q", out)
		}
		return err
	}
	eventually(t, 30*time.Second, "orders is answered over TLS", func() error { return ask("+tls", "one", tlsPort) })
	for _, authority := range []string{"one", "two"} {
		install(authority)
		for how, port := range map[string]int{"+tls": tlsPort, "+https": httpsPort} {
			for _, trusted := range []string{"one", "two"} {
				if err := ask(how, trusted, port); (err == nil) != (trusted == authority) {
					t.Errorf("%s with a certificate of %s, to who trusts %s: %v", how, authority, trusted, err)
				}
			}
		}
	}
	for how, port := range map[string]int{"+tls": tlsPort, "+https": httpsPort} { // RFC 9103
		out, err := runQuiet("kdig", "@127.0.0.1", "-p", fmt.Sprint(port), "+retry=0", "+timeout=5", how, "+tls-hostname=ns.mesh.internal",
			"+tls-ca="+filepath.Join(p.dir, "two.pem"), "mesh.internal", "AXFR")
		copied := strings.Count(out, "\tSOA\t") == 2 && strings.Contains(out, "orders.mesh.internal.")
		if copied != (how == "+tls") {
			t.Errorf("the zone is copied with %s: %v, %v\n%s", how, copied, err, tail(out, 1000))
		}
	}
	status, code := run(t, bin(t, "mesh"), "dns", "status", "--server", p.api)
	for _, want := range []string{fmt.Sprintf("served over TLS at 127.0.0.1:%d", tlsPort), fmt.Sprintf("served over HTTPS at 127.0.0.1:%d", httpsPort)} {
		if code != 0 || !strings.Contains(status, want) {
			t.Errorf("mesh dns status: exit %d, no %q in\n%s", code, want, status)
		}
	}
	metrics, err := fetch(p.api, p.api, "/metrics")
	for _, want := range []string{`hostmesh_dns_queries_total{rcode="NOERROR",transport="https",type="A",zone="mesh.internal."}`, `transport="tls"`, "hostmesh_dns_signatures_total"} {
		if err != nil || !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics, %v", want, err)
		}
	}
}
