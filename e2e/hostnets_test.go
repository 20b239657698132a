package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSystemdHostNetworkManagerDig: on a host whose network NetworkManager manages, the mesh's names lead through the proxy and all others do not,
// by systemd-resolved and by NetworkManager's dnsmasq, as docs/dns-host.md has it, and after NetworkManager was restarted.
func TestSystemdHostNetworkManagerDig(t *testing.T) {
	h := startSystemd(t)
	h.install(t)
	h.startNames(t)
	// NetworkManager has its dnsmasq ask by the link: where all other names go is beyond it.
	const beyond = "10.77.7.1"
	static := shortDir(t)
	p := newParts(t, fmt.Sprintf("  - name: static\n    file: {path: %s}\n", static))
	writeFile(t, filepath.Join(static, "web.yaml"), "service: web\nport: 80\nendpoints: [{address: 192.0.2.7}]\n")
	p.configureDNS(t, "signed: false, ")
	file, err := os.ReadFile(p.controlFile)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, p.controlFile, "domain: beyond.test\n"+strings.Replace(string(file), p.dns, beyond+":53", 1))
	p.startControl(t)
	h.put(t, "/etc/NetworkManager/conf.d/dns.conf", "[main]\ndns=systemd-resolved\n")
	h.run(t, `
systemctl enable --now mesh-proxy.service mesh-resolve.service
systemctl unmask NetworkManager.service
systemctl start NetworkManager.service
nmcli device set eth0 managed yes
nmcli connection add type ethernet con-name wired ifname eth0 ipv4.method manual ipv4.addresses "$(ip -4 -br address show eth0 | awk '{print $3}')" ipv4.dns `+beyond+` ipv6.method disabled
nmcli connection up wired`)
	names := func() {
		t.Helper()
		h.says(t, `getent hosts web.mesh.internal | grep -E '^127\.(6[4-9]|[7-9]|1[01][0-9]|12[0-7])'`, "web.mesh.internal")
		h.says(t, "getent hosts web.beyond.test", "192.0.2.7")
		h.says(t, "curl -sS -m 5 http://web.mesh.internal/", "web v1")
	}
	names()
	h.says(t, "resolvectl dns eth0", beyond)
	h.says(t, "mesh dns doctor web", "web.mesh.internal")
	h.run(t, "rm -f /etc/systemd/resolved.conf.d/other.conf; systemctl restart NetworkManager; nmcli connection down wired; nmcli connection up wired; nmcli general reload")
	names()
	h.says(t, "nmcli -f DEVICE,STATE device", "mesh0")
	if state := h.run(t, "nmcli -g GENERAL.STATE device show mesh0"); !strings.Contains(state, "unmanaged") && !strings.Contains(state, "externally") {
		t.Errorf("NetworkManager has mesh0 %s", state)
	}

	h.put(t, "/etc/NetworkManager/conf.d/dns.conf", "[main]\ndns=dnsmasq\nrc-manager=file\n")
	h.put(t, "/etc/NetworkManager/dnsmasq.d/mesh.conf", "server=/mesh.internal/127.15.0.53\n")
	h.run(t, `
systemctl disable --now mesh-resolve.service
systemctl disable --now systemd-resolved.service
rm -f /etc/resolv.conf
systemctl restart NetworkManager
nmcli connection up wired`)
	h.says(t, "cat /etc/resolv.conf", "nameserver 127.0.0.1\n")
	names()
	h.says(t, "mesh dns doctor web", "web.mesh.internal")
	h.run(t, "systemctl stop mesh-proxy")
	h.fails(t, "timeout 3 getent hosts shop.mesh.internal") // dnsmasq remembers web
	h.says(t, "getent hosts web.beyond.test", "192.0.2.7")
}

// TestSystemdHostNetworkdDig: where systemd-networkd runs, the link is its own, and does what mesh-resolve.service does.
func TestSystemdHostNetworkdDig(t *testing.T) {
	h := startSystemd(t)
	h.install(t)
	h.startNames(t)
	h.run(t, `
mkdir -p /etc/systemd/network
cp /etc/systemd/system/mesh0* /etc/systemd/network/
systemctl enable --now mesh-proxy.service systemd-networkd.service`)
	names := func() {
		t.Helper()
		h.says(t, "getent hosts web.mesh.internal", "127.")
		h.says(t, "getent hosts web.other.test", "127.0.0.1")
		h.says(t, "curl -sS -m 5 http://web.mesh.internal/", "web v1")
	}
	names()
	h.says(t, "mesh dns doctor web", "web.mesh.internal")
	h.run(t, "systemctl restart systemd-networkd systemd-resolved; resolvectl flush-caches")
	names()
	h.run(t, "systemctl stop mesh-proxy; resolvectl flush-caches")
	h.fails(t, "timeout 3 getent hosts web.mesh.internal")
	h.says(t, "getent hosts shop.other.test", "127.0.0.1")
}
