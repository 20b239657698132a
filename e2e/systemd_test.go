package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// systemdHost is a Debian host of its own, with systemd as its first process.
type systemdHost struct{ dir string }

func startSystemd(t *testing.T) systemdHost {
	t.Helper()
	h := systemdHost{dir: shortDir(t)}
	t.Setenv("HOSTS_DIR", h.dir)
	t.Cleanup(func() { _ = exec.Command("./hosts.sh", "down").Run() })
	for _, args := range [][]string{{"./hosts.sh", "rootfs"}, {"./hosts.sh", "up", "1"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	return h
}

// try runs a script in the host.
func (h systemdHost) try(script string) (string, error) {
	cmd := exec.Command("./hosts.sh", "run", "h1", "bash", "-ec", script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), errors.New(err.Error() + "\n" + string(out))
	}
	return string(out), nil
}

func (h systemdHost) run(t testing.TB, script string) string {
	t.Helper()
	out, err := h.try(script)
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return out
}

// says waits until a script's output has a text.
func (h systemdHost) says(t testing.TB, script, want string) {
	t.Helper()
	eventually(t, 30*time.Second, script+" says "+want, func() error {
		out, err := h.try(script)
		if err == nil && !strings.Contains(out, want) {
			err = errors.New(out)
		}
		return err
	})
}

// fails runs a script that has to end unsuccessfully.
func (h systemdHost) fails(t testing.TB, script string) {
	t.Helper()
	if out, err := h.try(script); err == nil {
		t.Errorf("%s succeeds: %s", script, out)
	}
}

func (h systemdHost) put(t testing.TB, path, text string) {
	t.Helper()
	cmd := exec.Command("./hosts.sh", "run", "h1", "sh", "-c", `mkdir -p "$(dirname "$0")" && cat >"$0"`, path)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
}

// install puts the programs and the units where a package would.
func (h systemdHost) install(t testing.TB) {
	t.Helper()
	for _, name := range []string{"mesh", "mesh-proxy"} {
		data, err := os.ReadFile(bin(t, name))
		if err != nil {
			t.Fatal(err)
		}
		h.put(t, "/usr/bin/"+name, string(data))
	}
	units, err := filepath.Glob("../systemd/mesh*")
	if err != nil {
		t.Fatal(err)
	}
	for _, unit := range units {
		data, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		h.put(t, "/etc/systemd/system/"+filepath.Base(unit), string(data))
	}
	h.run(t, "chmod 755 /usr/bin/mesh /usr/bin/mesh-proxy; useradd -r -s /usr/sbin/nologin hostmesh; systemctl daemon-reload; mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf")
}

// startNames has a control plane and services web and shop, and a server of other names, 127.0.0.9, which systemd-resolved asks for all.
func (h systemdHost) startNames(t testing.TB) {
	t.Helper()
	h.put(t, "/etc/hostmesh/proxy.yaml", "node: {id: h1}\ncontrol: unix:/run/control/xds.sock\nadminSocket: /run/hostmesh/admin.sock\ndns: {}\n")
	h.put(t, "/etc/hostmesh/control.yaml", "state: /var/lib/control\nlisten: {xds: [\"unix:/run/control/xds.sock\"]}\ndns: {listen: [\"127.0.0.1:8053\"]}\nregistries: [{name: static, file: {path: /etc/hostmesh/static.d}}]\n")
	h.put(t, "/etc/hostmesh/other.yaml", "domain: other.test\nstate: /var/lib/other\nlisten: {xds: [\"unix:/run/other.sock\"], http: \"127.0.0.1:25014\"}\ndns: {listen: [\"127.0.0.9:53\"], signed: false}\nregistries: [{name: static, file: {path: /etc/hostmesh/static.d}}]\n")
	h.put(t, "/etc/hostmesh/static.d/web.yaml", "service: web\nport: 80\nprotocol: http\nendpoints: [{address: 127.0.0.1, port: 18081}]\n")
	h.put(t, "/etc/hostmesh/static.d/shop.yaml", "service: shop\nport: 8080\nprotocol: http\nendpoints: [{address: 127.0.0.1, port: 18082}]\n")
	h.put(t, "/etc/systemd/resolved.conf.d/other.conf", "[Resolve]\nDNS=127.0.0.9\nDNSSEC=no\n") // where all other names go
	h.run(t, `
install -d -o hostmesh /run/control
systemd-run -q --unit=control -p User=hostmesh -p StateDirectory=control mesh control --config /etc/hostmesh/control.yaml
systemd-run -q --unit=other -p StateDirectory=other mesh control --config /etc/hostmesh/other.yaml
systemd-run -q --unit=web mesh demo web --listen 127.0.0.1:18081
systemd-run -q --unit=shop mesh demo shop --listen 127.0.0.1:18082
systemctl restart systemd-resolved`)
}

// TestSystemdHostNamesDig: on a real host, systemd-resolved sends mesh-proxy the mesh's names and nothing else, the kernel steers
// connections, and what the host itself runs on the same ports neither answers for a service nor is in anybody's way.
func TestSystemdHostNamesDig(t *testing.T) {
	h := startSystemd(t)
	h.install(t)
	h.startNames(t)
	h.run(t, `
printf '[Service]\nExecStart=/usr/bin/mesh demo app --listen %%I\n' >/etc/systemd/system/app@.service
systemctl daemon-reload
systemctl start app@:80 app@:8080
systemctl enable --now mesh-steer.socket mesh-steer.service mesh-proxy.service mesh-resolve.service`)
	h.says(t, "getent hosts web.mesh.internal", "127.")
	h.says(t, "getent hosts web.other.test", "127.0.0.1")
	calls := func() {
		t.Helper()
		h.says(t, "curl -sS -m 5 http://web.mesh.internal/", "web v1")
		h.says(t, "curl -sS -m 5 http://shop.mesh.internal:8080/", "shop v1")
		h.says(t, "curl -sS -m 5 http://127.0.0.1:8080/", "app v1")
	}
	calls()
	h.says(t, "mesh dns doctor web", "steers connections")
	h.run(t, "systemctl restart app@:80 app@:8080")
	calls()
	h.fails(t, "curl -sS -m 5 telnet://web.mesh.internal:22 </dev/null")
	h.run(t, "systemctl reload mesh-proxy")
	calls()

	// Without the proxy its names fail at once, all others work, and nobody answers in a service's place.
	web := strings.Fields(h.run(t, "getent hosts web.mesh.internal"))[0]
	h.run(t, "systemctl stop mesh-proxy; resolvectl flush-caches")
	h.fails(t, "timeout 2 getent hosts web.mesh.internal")
	h.says(t, "getent hosts shop.other.test", "127.0.0.1")
	h.fails(t, "curl -sS -m 1 http://"+web+"/")
	h.fails(t, "mesh dns doctor web")
	h.run(t, "systemctl start mesh-proxy")
	calls()

	// Nothing is left behind.
	h.run(t, "systemctl disable --now mesh-resolve.service mesh-steer.service mesh-steer.socket; systemctl restart mesh-proxy")
	h.fails(t, "ip link show mesh0")
	h.fails(t, "ls /sys/fs/bpf/hostmesh/steer")
	h.fails(t, "getent hosts web.mesh.internal")
	h.says(t, "getent hosts web.other.test", "127.0.0.1")
	h.fails(t, "mesh dns doctor")
}
