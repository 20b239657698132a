package controlplane_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/dnsserver"
	"github.com/hostmesh/hostmesh/dnsserver/dnstap"
	"github.com/hostmesh/hostmesh/dnsserver/forward"
	"github.com/hostmesh/hostmesh/dnsserver/transfer"
	"github.com/hostmesh/hostmesh/dnsserver/tsig"
	"github.com/hostmesh/hostmesh/registry"
)

// lookUpSigned returns an answer to a query with DO.
func lookUpSigned(t *testing.T, server, name string, qtype uint16) *dns.Msg {
	t.Helper()
	client := dns.Client{Timeout: 5 * time.Second, UDPSize: 1232}
	r, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, qtype).SetEdns0(1232, true), server)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestZoneIsSigned shows that keys are made at the first start, kept, readable by nobody else, and that they sign.
func TestZoneIsSigned(t *testing.T) {
	dir := t.TempDir()
	var first string
	for range 2 {
		t.Run("start", func(t *testing.T) {
			names := freeAddr(t)
			r := start(t, controlplane.Options{DNS: controlplane.DNS{Listen: []string{names}, Keys: dir}})
			r.registry.views <- web(registry.Healthy)
			eventually(t, "web is answered", func() bool { return len(lookUp(t, names, "web.mesh.internal.", dns.TypeA).Answer) == 1 })
			info, err := os.Stat(filepath.Join(dir, "dnssec-mesh.internal.keys"))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("keys: %v, %v, want mode 0600", info, err)
			}
			keys := lookUpSigned(t, names, "mesh.internal.", dns.TypeDNSKEY).Answer
			if len(keys) != 3 {
				t.Fatalf("%v, want a KSK, a ZSK and a signature", keys)
			}
			if got := keys[0].String() + keys[1].String(); first == "" {
				first = got
			} else if got != first {
				t.Errorf("after a restart the keys are %s, want %s", got, first)
			}
			answer := lookUpSigned(t, names, "web.mesh.internal.", dns.TypeA).Answer
			sig, ok := answer[len(answer)-1].(*dns.RRSIG)
			if !ok {
				t.Fatalf("%v is not signed", answer)
			}
			for _, rr := range keys {
				if key, ok := rr.(*dns.DNSKEY); ok && key.KeyTag() == sig.KeyTag {
					if err := sig.Verify(key, answer[:1]); err != nil {
						t.Error(err)
					}
					return
				}
			}
			t.Errorf("no key of tag %d in %v", sig.KeyTag, keys)
		})
	}
}

func TestZoneThatIsNotSigned(t *testing.T) {
	names := freeAddr(t)
	r := start(t, controlplane.Options{DNS: controlplane.DNS{Listen: []string{names}}})
	r.registry.views <- web(registry.Healthy)
	eventually(t, "web is answered", func() bool { return len(lookUpSigned(t, names, "web.mesh.internal.", dns.TypeA).Answer) == 1 })
}

// TestNearestComeFirst shows that a client is answered by where it is, or where a resolver that is trusted says its client is.
func TestNearestComeFirst(t *testing.T) {
	names := freeAddr(t)
	place := func(subnet, region string) controlplane.Place {
		return controlplane.Place{Subnet: netip.MustParsePrefix(subnet), Locality: dnsserver.Locality{Region: region}}
	}
	r := start(t, controlplane.Options{DNS: controlplane.DNS{
		Listen: []string{names}, Places: []controlplane.Place{place("127.0.0.0/8", "us"), place("198.51.100.0/24", "eu")},
		SubnetFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}})
	view := web(registry.Healthy)
	for i, region := range []string{"eu", "us", "ap"} {
		e := *view.Services[0].Endpoints[0]
		e.ID, e.Addr, e.Locality.Region = region, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), region
		view.Services[0].Endpoints = append(view.Services[0].Endpoints, &e)
	}
	view.Services[0].Endpoints = view.Services[0].Endpoints[1:]
	slices.SortFunc(view.Services[0].Endpoints, func(a, b *registry.Endpoint) int { return strings.Compare(a.ID, b.ID) })
	r.registry.views <- view
	eventually(t, "web is answered", func() bool { return len(lookUp(t, names, "web.mesh.internal.", dns.TypeA).Answer) == 3 })
	for subnet, want := range map[string]string{"": "192.0.2.1", "198.51.100.0": "192.0.2.0"} {
		for range 10 {
			m := new(dns.Msg).SetQuestion("web.mesh.internal.", dns.TypeA).SetEdns0(1232, false)
			if subnet != "" {
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: netip.MustParseAddr(subnet).AsSlice()}}
			}
			answer, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(m, names)
			if err != nil {
				t.Fatal(err)
			}
			if got := answer.Answer[0].(*dns.A).A.String(); got != want {
				t.Errorf("of subnet %q: %s comes first, want %s", subnet, got, want)
			}
		}
	}
}

// TestReverseZonesAreServed shows that an address leads to its name, by a zone of its own that is signed by keys of its own.
func TestReverseZonesAreServed(t *testing.T) {
	names, dir := freeAddr(t), t.TempDir()
	r := start(t, controlplane.Options{DNS: controlplane.DNS{Listen: []string{names}, Keys: dir, Reverse: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}})
	r.registry.views <- web(registry.Healthy)
	eventually(t, "the address is known", func() bool { return len(lookUp(t, names, "1.2.0.192.in-addr.arpa.", dns.TypePTR).Answer) == 1 })
	answer := lookUpSigned(t, names, "1.2.0.192.in-addr.arpa.", dns.TypePTR).Answer
	if ptr, ok := answer[0].(*dns.PTR); !ok || ptr.Ptr != "192-0-2-1.web.default.mesh.internal." {
		t.Errorf("it leads to %v", answer[0])
	}
	if sig, ok := answer[1].(*dns.RRSIG); !ok || sig.SignerName != "2.0.192.in-addr.arpa." {
		t.Errorf("it is signed by %v", answer[1])
	}
	var status controlplane.DNSStatus
	_, body := get(t, r.api, "/api/v1/dns", nil)
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatal(err)
	}
	if len(status.Zones) != 2 || status.Zones[0].Zone != "mesh.internal." || status.Zones[1].Zone != "2.0.192.in-addr.arpa." || len(status.Zones[1].Keys) != 2 {
		t.Errorf("the zones are %+v", status.Zones)
	}
}

// TestKeysThatAreTorn shows that keys which cannot be used take signatures away and nothing else, are not replaced, and are told.
func TestKeysThatAreTorn(t *testing.T) {
	names, dir := freeAddr(t), t.TempDir()
	file := filepath.Join(dir, "dnssec-mesh.internal.keys")
	if err := os.WriteFile(file, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, controlplane.Options{DNS: controlplane.DNS{Listen: []string{names}, Keys: dir}})
	r.registry.views <- web(registry.Healthy)
	eventually(t, "web is answered", func() bool { return len(lookUpSigned(t, names, "web.mesh.internal.", dns.TypeA).Answer) == 1 })
	if data, err := os.ReadFile(file); err != nil || string(data) != "torn" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	_, body := get(t, r.api, "/api/v1/dns", nil)
	var status controlplane.DNSStatus
	if err := json.Unmarshal([]byte(body), &status); err != nil || len(status.Zones) != 1 || !strings.Contains(status.Zones[0].Error, file) || len(status.Zones[0].Keys) != 0 {
		t.Errorf("%v, %+v, want an error with the file", err, status.Zones)
	}
	if _, metrics := get(t, r.api, "/metrics", nil); !strings.Contains(metrics, `hostmesh_dns_zone_signed{zone="mesh.internal."} 0`) {
		t.Error("the metrics do not tell it")
	}
}

// TestSecondariesAreTold shows that a secondary is told of a change with the snapshot's number, gets the zone by its key, and that
// the API and the metrics know what it has.
func TestSecondariesAreTold(t *testing.T) {
	key, err := tsig.NewKey("transfer.example.", "hmac-sha256", []byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"transfer.example.": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
	told := make(chan *dns.Msg, 100)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secondary := &dns.Server{PacketConn: conn, TsigSecret: secrets, MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetReply(m)
		if w.TsigStatus() == nil && m.IsTsig() != nil {
			told <- m
			reply.SetTsig("transfer.example.", dns.HmacSHA256, 300, time.Now().Unix())
		}
		_ = w.WriteMsg(reply)
	})}
	go func() { _ = secondary.ActivateAndServe() }()
	t.Cleanup(func() { _ = secondary.Shutdown() })
	names := freeAddr(t)
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	r := start(t, controlplane.Options{DNS: controlplane.DNS{
		Listen: []string{names}, Keys: t.TempDir(), TransferKeys: []*tsig.Key{key}, Secondaries: []transfer.Secondary{{Addr: at, Key: key}},
	}})
	r.registry.views <- web(registry.Healthy)
	eventually(t, "web is answered", func() bool { return len(lookUp(t, names, "web.mesh.internal.", dns.TypeA).Answer) == 1 })
	soa := lookUp(t, names, "mesh.internal.", dns.TypeSOA).Answer[0].(*dns.SOA)
	for m := range told {
		if hint := m.Answer[0].(*dns.SOA); hint.Serial == soa.Serial {
			break
		}
	}
	q := new(dns.Msg).SetAxfr("mesh.internal.").SetTsig("transfer.example.", dns.HmacSHA256, 300, time.Now().Unix())
	records, err := (&dns.Transfer{TsigSecret: secrets}).In(q, names)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for e := range records {
		if e.Error != nil {
			t.Fatal(e.Error)
		}
		n += len(e.RR)
	}
	if n < 10 {
		t.Errorf("%d records are copied", n)
	}
	number := fmt.Sprint(soa.Serial)
	eventually(t, "the API knows what it has", func() bool {
		_, body := get(t, r.api, "/api/v1/dns", nil)
		var status controlplane.DNSStatus
		if err := json.Unmarshal([]byte(body), &status); err != nil || len(status.Secondaries) != 1 {
			t.Fatal(err, body)
		}
		s := status.Secondaries[0]
		return s.Serial == soa.Serial && s.Notified == soa.Serial && s.Error == "" && s.Key == "transfer.example." && status.Number == uint64(soa.Serial)
	})
	_, metrics := get(t, r.api, "/metrics", nil)
	for _, name := range []string{"serial", "notified_serial"} {
		line := regexp.MustCompile(`hostmesh_dns_secondary_` + name + `\{secondary="` + regexp.QuoteMeta(at.String()) + `",zone="mesh.internal."\} (\S+)`).FindStringSubmatch(metrics)
		value, _ := strconv.ParseFloat(strings.Join(line[min(len(line), 1):], ""), 64)
		if fmt.Sprint(uint32(value)) != number {
			t.Errorf("%s: %v, want %s", name, line, number)
		}
	}
}

// TestQueriesAreLoggedAndCounted shows that what is asked is in the log, and in the API and metrics that it is.
func TestQueriesAreLoggedAndCounted(t *testing.T) {
	names, file := freeAddr(t), filepath.Join(t.TempDir(), "log")
	log := dnstap.New(dnstap.Options{File: file, Log: slog.New(slog.DiscardHandler)})
	r := start(t, controlplane.Options{DNS: controlplane.DNS{Listen: []string{names}, QueryLog: log}})
	r.registry.views <- web(registry.Healthy)
	eventually(t, "web is answered", func() bool { return len(lookUp(t, names, "web.mesh.internal.", dns.TypeCAA).Ns) == 1 })
	eventually(t, "that is logged", func() bool {
		_, body := get(t, r.api, "/api/v1/dns", nil)
		var status controlplane.DNSStatus
		if err := json.Unmarshal([]byte(body), &status); err != nil || status.QueryLog == nil {
			t.Fatal(err, body)
		}
		return *status.QueryLog == controlplane.QueryLogStatus{Written: status.QueryLog.Written} && status.QueryLog.Written > 0
	})
	if data, err := os.ReadFile(file); err != nil || !strings.Contains(string(data), "\x03web\x04mesh\x08internal\x00") {
		t.Errorf("%q, %v", data, err)
	}
	_, metrics := get(t, r.api, "/metrics", nil)
	for _, want := range []string{
		`hostmesh_dns_queries_total{rcode="NOERROR",transport="udp",type="CAA",zone="mesh.internal."} 1`, "hostmesh_dns_query_log_up 1", "hostmesh_dns_query_log_dropped_total 0",
		"hostmesh_dns_ignored_total 0", "hostmesh_dns_refused_connections_total 0", "hostmesh_dns_socket_errors_total 0", "hostmesh_dns_panics_total 0",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

// TestOtherNamesAreForwarded shows that other names are asked of another server, also before there is a zone, and that the API and
// the metrics tell of it; our own names wait for the zone.
func TestOtherNamesAreForwarded(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	upstream := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(198, 51, 100, 1)}}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = upstream.ActivateAndServe() }()
	t.Cleanup(func() { _ = upstream.Shutdown() })
	at := netip.MustParseAddrPort(conn.LocalAddr().String())
	names := freeAddr(t)
	r := start(t, controlplane.Options{DNS: controlplane.DNS{
		Listen: []string{names}, ForwardFor: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Forward: forward.New(forward.Options{
			Upstreams: []forward.Upstream{{Addr: at, Timeout: 5 * time.Second}}, Own: []dnsserver.Name{"\x04mesh\x08internal\x00"},
			CacheBytes: 1 << 20, MaxTTL: time.Hour, Log: slog.New(slog.DiscardHandler),
		}),
	}})
	for range 2 {
		if m := lookUp(t, names, "www.example.org.", dns.TypeA); len(m.Answer) != 1 || !m.RecursionAvailable || m.Authoritative {
			t.Errorf("%v", m)
		}
	}
	if m := lookUp(t, names, "web.mesh.internal.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("before there is a zone: %v", m)
	}
	r.registry.views <- web(registry.Healthy)
	eventually(t, "web is answered", func() bool {
		m := lookUp(t, names, "web.mesh.internal.", dns.TypeA)
		return len(m.Answer) == 1 && m.Authoritative && m.Answer[0].(*dns.A).A.String() != "198.51.100.1"
	})
	_, body := get(t, r.api, "/api/v1/dns", nil)
	var status controlplane.DNSStatus
	if err := json.Unmarshal([]byte(body), &status); err != nil || status.Forward == nil || len(status.Forward.Upstreams) != 1 {
		t.Fatal(err, body)
	}
	if f := status.Forward; f.Upstreams[0] != (controlplane.UpstreamStatus{Address: at, Answers: 1}) || f.Hits != 1 || f.Misses != 1 || f.Entries != 1 {
		t.Errorf("%+v", f)
	}
	_, metrics := get(t, r.api, "/metrics", nil)
	for _, want := range []string{
		`hostmesh_dns_queries_total{rcode="NOERROR",transport="udp",type="A",zone="."} 2`, `hostmesh_dns_forward_answers_total{upstream="` + at.String() + `"} 1`,
		`hostmesh_dns_forward_upstream_up{upstream="` + at.String() + `"} 1`, `hostmesh_dns_forward_cache_total{result="hit"} 1`, `hostmesh_dns_forward_cache_entries 1`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}
