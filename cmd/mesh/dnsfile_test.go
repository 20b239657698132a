package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/controlplane/zone"
	"github.com/hostmesh/hostmesh/dnsserver"
)

func TestDNSSectionIsTaken(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       controlplane.DNS
	}{
		{"nothing", "", controlplane.DNS{Listen: []string{"127.0.0.1:8053"}, Keys: "/state", TTL: 5, ApexTTL: 60, NegativeTTL: 1, RateLimit: 10_000}},
		{"all", `
dns:
  listen: [":53"]
  signed: false
  nameServers: [{name: ns1.mesh.internal, addresses: [192.0.2.53]}, {name: ns.example.org}]
  mailbox: ad.min@example.org
  ttl: 10s
  apexTTL: 1h
  negativeTTL: 2s
  control: [{name: cp1.mesh.internal, addresses: [192.0.2.10]}, {name: cp2.example.org, port: 15099}]
  reverse: [10.0.0.0/8, "2001:db8::/32"]
  provenance: true
  nsid: ns1
  rateLimit: 0
  trustSubnetFrom: [10.0.0.53/32]
  localities: [{subnet: 10.1.0.0/16, region: eu, zone: a, subZone: rack1}]
`, controlplane.DNS{
			Listen: []string{":53"}, Mailbox: `ad\.min.example.org`, TTL: 10, ApexTTL: 3600, NegativeTTL: 2, NSID: "ns1",
			NameServers: []dnsserver.NameServer{{Name: "ns1.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}, {Name: "ns.example.org"}},
			Control:     []zone.Control{{Name: "cp1.mesh.internal", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.10")}, Port: 15012}, {Name: "cp2.example.org", Port: 15099}},
			Reverse:     []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}, Provenance: true,
			SubnetFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.53/32")},
			Places:     []controlplane.Place{{Subnet: netip.MustParsePrefix("10.1.0.0/16"), Locality: dnsserver.Locality{Region: "eu", Zone: "a", SubZone: "rack1"}}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := decodeControlFile("control.yaml", []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.DNS.options("mesh.internal", "/state", slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDNSSectionsMistakesAreTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.yaml")
	text := `dns:
  listen: ["localhost:53", ":x"]
  tls: [":853"]
  certFile: /etc/hostmesh/dns.pem
  ttl: 0s
  apexTTL: 2h
  negativeTTL: 1500ms
  mailbox: hostmaster.example.org
  nsid: ` + strings.Repeat("x", 65) + `
  nameServers: [{name: ns.mesh.internal}, {name: "http://x", addresses: [0.0.0.0]}]
  trustSubnetFrom: [10.0.0.1/8]
  reverse: [10.0.0.0/9, 10.0.0.0/8, 10.0.0.0/8]
  control: [{name: cp1.mesh.internal}]
  localities:
    - {subnet: 10.1.0.0/16, region: eu}
    - {subnet: 10.1.0.0/16, zone: a}
    - {subnet: 10.1.2.0/16, region: eu}
    - {subnet: ten, region: eu}
  sign: true
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, structure, err := runMesh(t, "check", path)
	if err == nil {
		t.Error("it is right")
	}
	for _, want := range []string{`:18: dns.localities[3].subnet: got "ten"`, `:19: dns.sign: `} {
		if !strings.Contains(structure, path+want) {
			t.Errorf("no %q in:\n%s", want, structure)
		}
	}
	text = strings.ReplaceAll(strings.ReplaceAll(text, "  sign: true\n", ""), "    - {subnet: ten, region: eu}\n", "")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, _ := runMesh(t, "check", path)
	for _, want := range []string{
		`:2: dns.listen[0]: got "localhost:53", want IP:port`,
		`:2: dns.listen[1]: got ":x"`,
		`: dns.keyFile: got nothing, want a PEM file`,
		`:5: dns.ttl: got 0s, want whole seconds from 1s to 1h0m0s`,
		`:6: dns.apexTTL: got 2h0m0s`,
		`:7: dns.negativeTTL: got 1.5s`,
		`:8: dns.mailbox: got "hostmaster.example.org", want a mail address`,
		`:9: dns.nsid: got 65 bytes`,
		`:10: dns.nameServers[0].addresses: got none, want the addresses of a name in the zone`,
		`:10: dns.nameServers[1].name: got "http://x", want a domain name`,
		`:10: dns.nameServers[1].addresses[0]: got 0.0.0.0`,
		`:11: dns.trustSubnetFrom[0]: got 10.0.0.1/8, want 10.0.0.0/8`,
		`:12: dns.reverse[0]: got 10.0.0.0/9, want a prefix of whole labels`,
		`:12: dns.reverse[2]: got 10.0.0.0/8, want each prefix once`,
		`:13: dns.control[0].addresses: got none`,
		`:16: dns.localities[1].subnet: got 10.1.0.0/16, want a subnet of its own; localities[0] has that one`,
		`:16: dns.localities[1].region: got "", want the region`,
		`:17: dns.localities[2].subnet: got 10.1.2.0/16, want 10.1.0.0/16`,
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in:\n%s", want, stderr)
		}
	}
	if f, err := decodeControlFile("control.yaml", []byte("dns: {certFile: /x}\n")); err == nil || !strings.Contains(err.Error(), "without tls or https") {
		t.Errorf("%+v, %v", f.DNS, err)
	}
}

func TestTransfersMistakesAreTold(t *testing.T) {
	_, err := decodeControlFile("control.yaml", []byte(`dns:
  keys:
    - {name: transfer.example.org, algorithm: hmac-md5, secretFile: secret}
    - {name: Transfer.example.org., secretFile: /etc/hostmesh/secret}
  secondaries:
    - {address: ns2.example.org, key: transfer.example.org}
    - {address: 192.0.2.60}
    - {address: "192.0.2.60:53", key: other}
    - {address: 127.0.0.1}
`))
	for _, want := range []string{
		`:3: dns.keys[0].algorithm: got "hmac-md5", want hmac-sha256 or hmac-sha512`,
		`:3: dns.keys[0].secretFile: got "secret", want an absolute path`,
		`:4: dns.keys[1].name: got "Transfer.example.org.", want each name once`,
		`:6: dns.secondaries[0].address: got "ns2.example.org", want IP or IP:port`,
		`:7: dns.secondaries[1].key: got none, want the name of a key under dns.keys: without one, zones are copied to this host alone`,
		`:8: dns.secondaries[2].address: got 192.0.2.60:53, want each server once; secondaries[1] is that one`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	if strings.Contains(fmt.Sprint(err), "secondaries[3]") {
		t.Errorf("a secondary on this host is refused: %v", err)
	}
}

// TestTransferSecrets shows that a secret is read only from a file that nobody else may read, and is never told.
func TestTransferSecrets(t *testing.T) {
	const secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"good", secret + "\n", 0o600, ""},
		{"others may read it", secret, 0o640, "chmod 600"},
		{"no base64", "hunter2-hunter2-hunter2", 0o600, "no base64"},
		{"short", "aHVudGVyMg==", 0o600, "got a secret of 7 bytes, want 16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "secret")
			if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			f, err := decodeControlFile("control.yaml", fmt.Appendf(nil, "dns: {keys: [{name: a.example, secretFile: %s}], secondaries: [{address: 192.0.2.60, key: a.example}, {address: \"[::1]:5353\"}]}\n", path))
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.DNS.options("mesh.internal", "/state", slog.New(slog.DiscardHandler))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), c.text) {
					t.Errorf("%v, want %q, the file and not what it holds", err, c.want)
				}
				return
			}
			if err != nil || len(got.TransferKeys) != 1 || len(got.Secondaries) != 2 || got.Secondaries[0].Key != got.TransferKeys[0] || got.Secondaries[0].Addr.String() != "192.0.2.60:53" || got.Secondaries[1].Key != nil {
				t.Errorf("%+v, %v", got, err)
			}
			if text := fmt.Sprintf("%+v %#v", got, got); strings.Contains(text, "0123456789abcdef") || strings.Contains(text, secret) {
				t.Error("the secret is printed")
			}
		})
	}
}

func TestDNSCertificateThatIsNotThere(t *testing.T) {
	f, err := decodeControlFile("control.yaml", []byte("dns: {tls: [\":853\"], certFile: /no/cert.pem, keyFile: /no/key.pem}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.DNS.options("mesh.internal", "/state", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "/no/cert.pem") || !strings.Contains(err.Error(), "dns.certFile") {
		t.Errorf("got %v, want the file and the fields that name it", err)
	}
}

func TestQueryLogsMistakesAreTold(t *testing.T) {
	for text, want := range map[string]string{
		"{}":                             `dns.queryLog: got socket "" and file "", want one of them`,
		"{socket: /run/tap, file: /log}": `dns.queryLog: got socket "/run/tap" and file "/log", want one of them`,
		"{socket: tap}":                  `dns.queryLog.socket: got "tap", want an absolute path`,
		"{file: /log, fileBytes: 1}":     `dns.queryLog.fileBytes: got 1, want 1000000 or more`,
		"{file: /log, sample: 0}":        `dns.queryLog.sample: got 0, want of how many`,
		"{socket: /" + strings.Repeat("x", 107) + "}": `dns.queryLog.socket: got 108 bytes, want at most 107`,
	} {
		if _, err := decodeControlFile("control.yaml", []byte("dns:\n  queryLog: "+text+"\n")); err == nil || !strings.Contains(err.Error(), "control.yaml:2: "+want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}
