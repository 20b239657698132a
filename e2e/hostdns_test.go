package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// nameHost is a mesh host that answers names, with the control plane that it asks.
type nameHost struct {
	parts
	static string
}

const hostDNS = "127.15.0.53"

func newNameHost(t testing.TB, more string) nameHost {
	t.Helper()
	h := nameHost{static: shortDir(t)}
	h.parts = newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", h.static))
	writeFile(t, h.proxyFile, fmt.Sprintf("node: {id: test}\ncontrol: %s\nadmin: %s\noutbound: %s\nstate: %s/proxy\nservices: %s/services.d\ndns: {}\n%s",
		h.xds, h.admin, h.outbound, h.dir, h.dir, more))
	return h
}

// add has a service run at a port of its own.
func (h nameHost) add(t testing.TB, service string, port int) {
	t.Helper()
	at := testbed.FreePort(t)
	start(t, service, bin(t, "mesh"), "demo", service, "--listen", fmt.Sprintf("127.0.0.1:%d", at))
	writeFile(t, filepath.Join(h.static, service+".yaml"),
		fmt.Sprintf("service: %s\nport: %d\nprotocol: http\nendpoints: [{address: 127.0.0.1, port: %d}]\n", service, port, at))
}

// dig asks the host as its programs do.
func (h nameHost) dig(t testing.TB, args ...string) string {
	t.Helper()
	out, _ := run(t, append([]string{"dig", "@" + hostDNS, "+tries=1", "+time=2", "+norecurse"}, args...)...)
	return out
}

// has waits until an answer has a text.
func (h nameHost) has(t testing.TB, what string, args ...string) string {
	t.Helper()
	var out string
	eventually(t, 30*time.Second, strings.Join(args, " ")+" is answered with "+what, func() error {
		if out = h.dig(t, args...); !strings.Contains(out, what) {
			return errors.New(out)
		}
		return nil
	})
	return out
}

// get asks a service by the name that this host answers.
func (h nameHost) get(host string) (string, error) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, hostDNS+":53")
	}}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: (&net.Dialer{Resolver: resolver}).DialContext,
	}}
	resp, err := client.Get("http://" + host + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func (h nameHost) gets(t testing.TB, host, want string) {
	t.Helper()
	eventually(t, 20*time.Second, host+" answers", func() error {
		got, err := h.get(host)
		if err == nil && got != want {
			return fmt.Errorf("got %q", got)
		}
		return err
	})
}

// TestHostNamesLeadThroughTheProxyNamespaceDig: a host's programs look a name up and call what it leads to; who is there, who is
// not, and who cannot be known are told apart; nothing of it needs the control plane once it was told.
func TestHostNamesLeadThroughTheProxyNamespaceDig(t *testing.T) {
	if testbed.InNamespace(t, "10.77.0.1") {
		return
	}
	h := newNameHost(t, "upstreams: [nothing]\n") // so that not even clusters come unasked
	h.add(t, "web", 80)
	writeFile(t, filepath.Join(h.static, "others.yaml"), `
service: clock
ports: [{name: ntp, port: 123, protocol: udp}]
endpoints: [{address: 10.77.0.1}, {address: 10.77.0.2}]
---
service: data/db
ports: [{name: sql, port: 5432}, {name: metrics, port: 9187, protocol: http}]
endpoints: [{address: 127.0.0.1}]
---
service: idle
ports: [{name: syslog, port: 514, protocol: udp}]
endpoints: []
`)
	control, proxy := h.startPair(t)
	web := strings.TrimSpace(strings.Split(h.has(t, "127.", "+short", "web.mesh.internal"), "\n")[0])
	if at, err := netip.ParseAddr(web); err != nil || !netip.MustParsePrefix("127.64.0.0/10").Contains(at) {
		t.Fatalf("web is at %q", web)
	}
	for _, c := range []struct{ name, rtype, want string }{
		{"web.default.mesh.internal", "A", web},
		{"WEB.Mesh.Internal", "A", web},
		{"web.mesh.internal", "AAAA", "status: NOERROR, id"},
		{"web.mesh.internal", "SRV", "0 0 80 web.mesh.internal."},
		{"db.data.mesh.internal", "SRV", "0 0 5432 db.data.mesh.internal."},
		{"clock.mesh.internal", "A", "10.77.0.2"},
		{"missing.mesh.internal", "A", "status: NXDOMAIN"},
		{"default.mesh.internal", "A", "status: NOERROR, id"},
		{"data.mesh.internal", "A", "status: NOERROR, id"},
		{"_http._tcp.web.mesh.internal", "SRV", "0 0 80 web.mesh.internal."},
		{"_sql._tcp.db.data.mesh.internal", "SRV", "0 0 5432 db.data.mesh.internal."},
		{"_metrics._tcp.db.data.mesh.internal", "SRV", "0 0 9187 db.data.mesh.internal."},
		{"_smtp._tcp.web.mesh.internal", "SRV", "status: NXDOMAIN"},
		{"_ntp._udp.clock.mesh.internal", "SRV", "EDE: 21"},
		{"idle.mesh.internal", "A", "SOA	localhost.host.mesh.internal."},
		{"a.web.default.mesh.internal", "A", "EDE: 21"},
		{"example.com", "A", "status: REFUSED"},
		{"mesh.internal", "SOA", "localhost.host.mesh.internal."},
	} {
		for _, transport := range []string{"+notcp", "+tcp"} {
			h.has(t, c.want, transport, c.name, c.rtype)
		}
	}
	if out := h.dig(t, "web.mesh.internal", "AAAA"); !strings.Contains(out, "ANSWER: 0") {
		t.Errorf("an address of IPv6:\n%s", out)
	}
	h.gets(t, "web.mesh.internal", "web v1\n")
	if out, code := run(t, "curl", "-sS", "--resolve", "web.mesh.internal:80:"+web, "http://web.mesh.internal/"); code != 0 || out != "web v1\n" {
		t.Errorf("curl: exit %d, %s", code, out)
	}

	h.add(t, "missing", 8080)
	h.has(t, "127.", "+short", "missing.mesh.internal")
	h.gets(t, "missing.mesh.internal:8080", "missing v1\n")
	if err := os.Remove(filepath.Join(h.static, "missing.yaml")); err != nil {
		t.Fatal(err)
	}
	h.has(t, "status: NXDOMAIN", "missing.mesh.internal")

	eventually(t, 20*time.Second, "the proxy has sealed its configuration", func() error {
		data, err := os.ReadFile(filepath.Join(h.dir, "proxy", "proxy-config.sealed"))
		for _, name := range []string{"web", "clock", "idle"} {
			if err == nil && !strings.Contains(string(data), name+".default.mesh.internal") {
				err = errors.New(name + " is not in it yet")
			}
		}
		if err == nil && strings.Contains(string(data), "missing.default.mesh.internal") {
			err = errors.New("missing is in it still")
		}
		return err
	})
	control.kill()
	h.has(t, "is away", "other.mesh.internal")
	for _, end := range []func(){proxy.kill, func() { proxy.stop(20 * time.Second) }} {
		end()
		proxy = h.startProxy(t)
		h.has(t, web, "+short", "web.mesh.internal")
		h.has(t, "10.77.0.1", "+short", "clock.mesh.internal")
		h.has(t, "SOA\tlocalhost.host.mesh.internal.", "idle.mesh.internal")
		h.has(t, "0 0 5432 db.data.mesh.internal.", "_sql._tcp.db.data.mesh.internal", "SRV")
		h.gets(t, "web.mesh.internal", "web v1\n")
		if out := h.dig(t, "missing.mesh.internal"); !strings.Contains(out, "SERVFAIL") {
			t.Errorf("of what is not known it is said:\n%s", out)
		}
	}
	// An upgrade answers on, without a gap, and the control plane's next word is heard.
	asked := h.askOn(t, "web.mesh.internal.", web)
	upgrade(t, proxy)
	if n, failed := asked(); n < 100 || len(failed) > 0 {
		t.Errorf("of %d questions throughout an upgrade %d had no answer: %v", n, len(failed), errors.Join(failed[:min(len(failed), 5)]...))
	}
	h.has(t, web, "+short", "web.mesh.internal")
	h.startControl(t)
	h.has(t, "status: NXDOMAIN", "missing.mesh.internal")
	h.gets(t, "web.mesh.internal", "web v1\n")
}

// askOn asks for a name, over UDP and TCP, each time from another port, until it is told that it is enough. Nothing is asked twice, but what is
// asked over a connection that ends (RFC 7766 §6.2.4).
func (h nameHost) askOn(t testing.TB, name, want string) (enough func() (n int, failed []error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var askers sync.WaitGroup
	var n int
	var failed []error
	for _, network := range []string{"udp", "tcp"} {
		askers.Go(func() {
			for ctx.Err() == nil {
				m, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), hostDNS+":53")
				if network == "tcp" && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
					continue
				}
				if err == nil && (len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "\t"+want)) {
					err = fmt.Errorf("answered %v", m)
				}
				mu.Lock()
				if n++; err != nil {
					failed = append(failed, fmt.Errorf("%s: %w", network, err))
				}
				mu.Unlock()
			}
		})
	}
	time.Sleep(100 * time.Millisecond) // it is under way
	return func() (int, []error) {
		time.Sleep(500 * time.Millisecond) // and beyond the end of what it is asked for
		cancel()
		askers.Wait()
		return n, failed
	}
}

// upgrade has another process take over, which ends with the test.
func upgrade(t testing.TB, proxy *process) {
	t.Helper()
	if err := proxy.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "another process has taken over", func() error {
		_, after, ok := strings.Cut(proxy.text(), `msg="another process has taken over" pid=`)
		if !ok {
			return errors.New(tail(proxy.text(), 500))
		}
		pid, err := strconv.Atoi(strings.Fields(after)[0])
		if err == nil {
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
		}
		return err
	})
}

// withSocket is a command that is started as the service manager would, with a socket.
func withSocket(socket *os.File, argv ...string) *exec.Cmd {
	cmd := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh"}, argv...)...)
	cmd.ExtraFiles = []*os.File{socket}
	return cmd
}

// TestHostNamesAreSteeredNamespaceDig: where the kernel steers, services are reached on ports on which others of the host listen, and
// these restart as they please; what a service does not declare is refused; without the proxy nobody answers in its place.
func TestHostNamesAreSteeredNamespaceDig(t *testing.T) {
	if testbed.InNamespace(t, "10.77.0.1") {
		return
	}
	bpf := shortDir(t)
	if out, code := run(t, "mount", "-t", "bpf", "bpf", bpf); code != 0 {
		t.Fatal(out)
	}
	defer run(t, "umount", bpf)
	t.Setenv("GODEBUG", "multipathtcp=0") // the kernel steers to no other sockets
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.64.0.0:15001")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	defer socket.Close()
	if out, err := withSocket(socket, bin(t, "mesh"), "steer", "--pin", bpf+"/hostmesh/steer").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	h := newNameHost(t, "")
	writeFile(t, filepath.Join(h.dir, "services.d", "own.yaml"), "service: own\nport: 8080\n")
	h.add(t, "web", 80)
	h.add(t, "shop", 8080)
	wildcard := map[string]*process{}
	listen := func(at string) {
		wildcard[at] = start(t, "app "+at, bin(t, "mesh"), "demo", "app", "--listen", at)
		eventually(t, 20*time.Second, "the application listens", func() error { _, err := fetch("127.0.0.1"+at, "", "/"); return err })
	}
	listen(":80")
	listen(":8080")
	h.startControl(t)
	proxyCommand := []string{bin(t, "mesh-proxy"), "--config", h.proxyFile}
	proxy := startCommand(t, "mesh-proxy", withSocket(socket, proxyCommand...))
	calls := func() {
		h.gets(t, "web.mesh.internal", "web v1\n")
		h.gets(t, "shop.mesh.internal:8080", "shop v1\n")
	}
	calls()
	for at, app := range wildcard {
		app.kill()
		listen(at)
	}
	calls()
	if _, err := h.get("web.mesh.internal:22"); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("a port that nobody declares: %v", err)
	}
	eventually(t, 20*time.Second, "the log names the ports", func() error {
		if !strings.Contains(proxy.text(), "service=web.default.mesh.internal declared=[80]") {
			return errors.New(tail(proxy.text(), 500))
		}
		return nil
	})
	shop := strings.TrimSpace(h.dig(t, "+short", "shop.mesh.internal"))
	proxy.stop(20 * time.Second)
	client := &http.Client{Timeout: 300 * time.Millisecond}
	if resp, err := client.Get("http://" + shop + ":8080/"); err == nil {
		t.Errorf("without the proxy somebody answers: %v", resp)
		_ = resp.Body.Close()
	}
	proxy = startCommand(t, "mesh-proxy", withSocket(socket, proxyCommand...))
	calls()
	upgrade(t, proxy)
	calls()
	if out, code := run(t, bin(t, "mesh"), "steer", "--off", "--pin", bpf+"/hostmesh/steer"); code != 0 {
		t.Error(out)
	}
}

// TestHostNamesOfPortsThatOthersWantNamespaceDig: where addresses are bound, a port on which something of the host listens, or may
// listen, is left to it: it restarts while the proxy runs, and no name leads to it by mistake.
func TestHostNamesOfPortsThatOthersWantNamespaceDig(t *testing.T) {
	if testbed.InNamespace(t, "10.77.0.1") {
		return
	}
	h := newNameHost(t, "upstreams: [named]\n")
	writeFile(t, filepath.Join(h.dir, "services.d", "own.yaml"), "service: own\nport: 9000\n")
	for service, port := range map[string]int{"web": 80, "shop": 8080, "other": 9000, "named": 9090} {
		h.add(t, service, port)
	}
	app := start(t, "app", bin(t, "mesh"), "demo", "app", "--listen", ":8080")
	eventually(t, 20*time.Second, "the application listens", func() error { _, err := fetch("127.0.0.1:8080", "", "/"); return err })
	h.startPair(t)
	h.gets(t, "web.mesh.internal", "web v1\n")
	h.gets(t, "named.mesh.internal:9090", "named v1\n")
	for range 2 {
		h.has(t, "8080", "shop.mesh.internal")
		h.has(t, "SERVFAIL", "shop.mesh.internal")
		h.has(t, "default/own", "other.mesh.internal")
		app.kill()
		h.has(t, "SERVFAIL", "shop.mesh.internal") // its restart would fail
		app = start(t, "app", bin(t, "mesh"), "demo", "app", "--listen", ":8080")
		eventually(t, 20*time.Second, "the application listens again", func() error { _, err := fetch("127.0.0.1:8080", "", "/"); return err })
	}
}
