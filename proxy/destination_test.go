package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/proxy"
	"github.com/hostmesh/hostmesh/proxy/config"
)

// passthrough is a cluster whose hosts are where clients want to go.
func passthrough(rules config.OriginalDst) *config.Cluster {
	c := cluster("web")
	if rules.Cleanup == 0 {
		rules.Cleanup = time.Hour
	}
	c.OriginalDst = &rules
	return c
}

// to sends a GET with these fields on a connection of its own.
func (p *testProxy) to(fields string) (status, body string) {
	p.t.Helper()
	out := p.raw("GET / HTTP/1.1\r\nHost: web.mesh.internal\r\nConnection: close\r\n" + fields + "\r\n")
	head, body, _ := strings.Cut(out, "\r\n\r\n")
	status, _, _ = strings.Cut(strings.TrimPrefix(head, "HTTP/1.1 "), " ")
	return status, body
}

func TestOriginalDstByField(t *testing.T) {
	a, b := newPatient(t, "a"), newPatient(t, "b")
	const name = "x-envoy-original-dst-host"
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(passthrough(config.OriginalDst{Header: name}))}, nil)
	for range 5 {
		for _, want := range []*patient{a, b} {
			if status, body := p.to(name + ": " + want.addr + "\r\n"); status != "200" || body != want.name {
				t.Errorf("%s: got %s %q", want.name, status, body)
			}
		}
	}
	if status, body := p.to(strings.ToUpper(name) + ": " + a.addr + "\r\n" + name + ": " + b.addr + "\r\n"); status != "200" || body != "a" {
		t.Errorf("the field twice: got %s %q", status, body)
	}
	// Nobody was redirected here, so without a usable field there is nowhere to go: least of all to the proxy itself.
	bad := []string{"nonsense", "127.0.0.1", "localhost:80", "[fe80::1%eth0]:80", "127.0.0.1:99999", strings.Repeat("1", 200)}
	for _, value := range bad {
		if status, _ := p.to(name + ": " + value + "\r\n"); status != "503" {
			t.Errorf("%q: got %s", value, status)
		}
	}
	for _, fields := range []string{"", name + ": 0.0.0.0:80\r\n", name + ": 127.0.0.1:0\r\n"} {
		if status, _ := p.to(fields); status != "503" {
			t.Errorf("%q: got %s", fields, status)
		}
	}
	if n := p.stat("cluster.web.original_dst_host_invalid"); n != fmt.Sprint(len(bad)) {
		t.Errorf("original_dst_host_invalid is %s", n)
	}
	if n := p.stat("cluster.web.membership_total"); n != "2" {
		t.Errorf("membership_total is %s", n)
	}
	all := p.adminGet("/clusters")
	for _, want := range []string{"web::" + a.addr + "::health_flags::healthy\n", "web::" + b.addr + "::rq_total::5\n"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
}

func TestOriginalDstByAuthorityAndPort(t *testing.T) {
	a := newPatient(t, "a")
	at := netip.MustParseAddrPort(a.addr)
	v := plain("web")
	v.Domains = []string{"*"}
	p := start(t, &config.Config{
		Listeners: []*config.Listener{httpConfig(freeAddr(t), v)}, Clusters: clusters(passthrough(config.OriginalDst{Header: ":authority", Port: at.Port()})),
	}, nil)
	if status, body, err := p.get(http.DefaultClient, "127.0.0.1:9", "/"); err != nil || status != 200 || body != "a" {
		t.Errorf("got %d %q, %v", status, body, err)
	}
}

// TestCVEClass12_ClientsNameNoHostUnlessTheyMay: without use_http_header a field leads nowhere, and no connection to the proxy
// itself is taken for one to somewhere else, which would be a loop.
func TestCVEClass12_ClientsNameNoHostUnlessTheyMay(t *testing.T) {
	a := newPatient(t, "a")
	l := httpConfig(freeAddr(t), plain("web"))
	l.OriginalDst = true
	p := start(t, &config.Config{Listeners: []*config.Listener{l}, Clusters: clusters(passthrough(config.OriginalDst{}))}, nil)
	for _, fields := range []string{"", "x-envoy-original-dst-host: " + a.addr + "\r\n"} {
		if status, body := p.to(fields); status != "503" {
			t.Errorf("%q: got %s %q", fields, status, body)
		}
	}
	if a.requests.Load() != 0 {
		t.Error("a client chose the host")
	}
}

// TestOriginalDstForgets: hosts that nobody goes to any more are forgotten, those with connections are not, and a change of the
// configuration ends neither.
func TestOriginalDstForgets(t *testing.T) {
	a, b := newPatient(t, "a"), newPatient(t, "b")
	const name = "x-to"
	c := passthrough(config.OriginalDst{Header: name, Cleanup: 20 * time.Millisecond})
	l := []*config.Listener{httpConfig(freeAddr(t), plain("web"))}
	p := start(t, &config.Config{Listeners: l, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
	p.to(name + ": " + a.addr + "\r\n")
	p.to(name + ": " + freeAddr(t).String() + "\r\n") // nobody is there
	p.waitStat("cluster.web.membership_total", "1")
	next := *c
	next.MaxRequests = 77
	p.config.Set(&config.Config{Version: "2", Listeners: l, Clusters: clusters(&next)})
	for range 500 {
		if strings.Contains(p.adminGet("/clusters"), "max_requests::77\n") {
			break
		}
	}
	p.to(name + ": " + a.addr + "\r\n")
	p.to(name + ": " + b.addr + "\r\n")
	if n := p.stat("cluster.web.upstream_cx_total"); n != "3" && n != "2" { // the connection to nobody counts as well
		t.Errorf("%s connections", n)
	}
	if n := a.requests.Load(); n != 2 {
		t.Errorf("%d requests", n)
	}
	short := next
	short.IdleTimeout = 20 * time.Millisecond
	p.config.Set(&config.Config{Version: "3", Listeners: l, Clusters: clusters(&short)})
	// What is idle already keeps its time; a request renews it.
	for range 500 {
		p.to(name + ": " + a.addr + "\r\n")
		p.to(name + ": " + b.addr + "\r\n")
		if p.stat("cluster.web.upstream_cx_idle_timeout") != "0" {
			break
		}
		time.Sleep(30 * time.Millisecond)
	}
	p.waitStat("cluster.web.membership_total", "0")
}

// TestCVEClass25_DestinationsAreNotReachedInPlaintextAfterTLS: hosts that were made on demand outlive a configuration, the
// connections that it would not make do not.
func TestCVEClass25_DestinationsAreNotReachedInPlaintextAfterTLS(t *testing.T) {
	const name = "x-to"
	a := testbed.NewAuthority(t)
	bare, secure := newPatient(t, "bare"), newClinic(t, a.Leaf("b.mesh.internal"))
	l := []*config.Listener{httpConfig(freeAddr(t), plain("web"))}
	c := passthrough(config.OriginalDst{Header: name})
	p := start(t, &config.Config{Listeners: l, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
	if status, body := p.to(name + ": " + bare.addr + "\r\n"); status != "200" || body != "bare" {
		t.Fatalf("got %s %q", status, body)
	}
	next := *c
	originate(t, &next, a, a.Leaf("a.mesh.internal"), "b.mesh.internal")
	p.config.Set(&config.Config{Version: "2", Listeners: l, Clusters: clusters(&next)})
	p.waitStat("cluster.web.upstream_cx_active", "0")
	if status, body := p.to(name + ": " + bare.addr + "\r\n"); status != "503" {
		t.Errorf("a host without TLS: got %s %q", status, body)
	}
	if status, body := p.to(name + ": " + secure.addr + "\r\n"); status != "200" {
		t.Errorf("a host with TLS: got %s %q", status, body)
	}
}

// TestOriginalDstIsBounded: a client that names more hosts than anybody needs is told that there are none.
func TestOriginalDstIsBounded(t *testing.T) {
	const name, most = "x-to", 4096
	c := passthrough(config.OriginalDst{Header: name})
	c.ConnectTimeout = 50 * time.Millisecond
	p := start(t, &config.Config{Listeners: []*config.Listener{httpConfig(freeAddr(t), plain("web"))}, Clusters: clusters(c)}, func(o *proxy.Options) { o.Loops = 1 })
	conn := p.dial()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(conn)
	for i := range most + 100 {
		// Nobody listens there: the kernel says so at once.
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: web.mesh.internal\r\n%s: 127.1.%d.%d:9\r\n\r\n", name, i>>8, i&255)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 503 {
			t.Fatalf("got %d", resp.StatusCode)
		}
	}
	members := 0
	if _, err := fmt.Sscan(p.stat("cluster.web.membership_total"), &members); err != nil || members > most {
		t.Errorf("%d hosts are remembered, %v", members, err)
	}
}

func nft(t *testing.T, rules string) {
	t.Helper()
	cmd := exec.Command("/usr/sbin/nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
}

// TestOriginalDstOfRedirectedConnectionsNamespaceNft: what the kernel redirects to the proxy reaches whom the client meant, over
// IPv4 and IPv6, HTTP and TCP; and the log tells it.
func TestOriginalDstOfRedirectedConnectionsNamespaceNft(t *testing.T) {
	if testbed.InNamespace(t, "10.77.0.1", "10.77.0.2", "10.77.0.9", "fd77::1", "fd77::9") {
		return
	}
	// What the proxy itself connects to is not redirected: it does not come from .9.
	nft(t, `table inet t { chain out { type nat hook output priority -100;
ip saddr 10.77.0.9 tcp dport 80 redirect to :15001; ip saddr 10.77.0.9 tcp dport 81 redirect to :15002; ip6 saddr fd77::9 tcp dport 80 redirect to :15001; }; }`)
	for _, address := range []string{"10.77.0.1:80", "10.77.0.2:80", "[fd77::1]:80", "10.77.0.1:81"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(address, ":81") {
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(conn, address)
					conn.Close()
				}
			}()
			t.Cleanup(func() { l.Close() })
			continue
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, address) })}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { s.Close() })
	}
	addr := netip.MustParseAddrPort
	v := plain("web")
	v.Domains = []string{"*"}
	web := httpConfig(addr("127.0.0.1:15001"), v)
	web.Addresses = append(web.Addresses, addr("[::1]:15001"))
	web.OriginalDst = true
	web.HTTP.AccessLogs[0].Format = &config.LogFormat{Text: "%DOWNSTREAM_LOCAL_ADDRESS% %UPSTREAM_HOST%\n"}
	second := *web.HTTP // of a chain that is chosen by where clients were going, and by what they say
	second.ServerName = "second"
	web.Filters.InspectHTTP = true
	web.Chains = []*config.FilterChain{{HTTP: &second, Match: config.ChainMatch{Destinations: []netip.Prefix{netip.MustParsePrefix("10.77.0.2/32")}, Protocols: []string{"http/1.1"}}}}
	web.Otherwise, web.HTTP = &config.FilterChain{HTTP: web.HTTP}, nil
	tcp := &config.Listener{
		Name: "tcp", Addresses: []netip.AddrPort{addr("127.0.0.1:15002")}, OriginalDst: true,
		TCP: &config.TCP{StatPrefix: "tcp", Clusters: []config.WeightedCluster{{Name: "web", Weight: 1}}},
	}
	p := start(t, &config.Config{Listeners: []*config.Listener{web, tcp}, Clusters: clusters(passthrough(config.OriginalDst{}))}, nil)
	p.waitBound(addr("127.0.0.1:15002"))
	from := func(source string) *net.Dialer {
		return &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))}
	}
	for _, c := range []struct{ source, to string }{{"10.77.0.9", "10.77.0.1:80"}, {"10.77.0.9", "10.77.0.2:80"}, {"fd77::9", "[fd77::1]:80"}} {
		transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return from(c.source).DialContext(ctx, network, address)
		}}
		for range 4 {
			resp, err := (&http.Client{Transport: transport}).Get("http://" + c.to + "/")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			by := "envoy"
			if c.to == "10.77.0.2:80" {
				by = "second"
			}
			if string(body) != c.to || resp.Header.Get("Server") != by {
				t.Errorf("to %s: %d %q by %q", c.to, resp.StatusCode, body, resp.Header.Get("Server"))
			}
		}
		transport.CloseIdleConnections()
	}
	conn, err := from("10.77.0.9").Dial("tcp", "10.77.0.1:81")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "10.77.0.1:81" {
		t.Errorf("TCP: got %q, %v", got, err)
	}
	if n := p.stat("tcp.tcp.downstream_cx_total"); n != "1" {
		t.Errorf("%s connections through the proxy", n)
	}
	// Who comes to the proxy itself was not going anywhere else: no loop.
	if status, _ := p.to(""); status != "503" {
		t.Errorf("a connection that was not redirected: got %s", status)
	}
	p.stop()
	for _, to := range []string{"10.77.0.1:80", "10.77.0.2:80", "[fd77::1]:80"} {
		if want := to + " " + to + "\n"; !strings.Contains(p.log.String(), want) {
			t.Errorf("no %q in the log\n%s", want, p.log.String())
		}
	}
}
