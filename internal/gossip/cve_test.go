package gossip

import (
	"crypto/sha256"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A body counts only as what the host announces whose digest it has, and only if it was asked for; a node is named after
// its host; nobody announces into the namespace of hosts. Who may be which host is the shared key's matter until hosts
// have identities: who has the key can be any host, which two that claim one show as rivals (CVE-2021-38698, CVE-2023-2816).
func TestCVEClass22_AnnouncementsAreTheHostsOwn(t *testing.T) {
	now := time.Unix(1000, 0)
	n, err := newNode(Options{HostID: "control", Role: Control, Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	mine, d, err := encodeAnnouncement(announcement("web"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	others, od, err := encodeAnnouncement(announcement("web"), "h2")
	if err != nil {
		t.Fatal(err)
	}
	body := func(id string) *Announcement {
		for _, h := range n.table.list(now) {
			if h.ID == id {
				return h.Body
			}
		}
		return nil
	}
	// h2 announces the digest of a body that says that it is h1's.
	n.table.joined(member(meta{Host: "h2", Role: Proxy, Incarnation: 1, Digest: d}, 2), now)
	n.table.due(now, 8, nobackoff)
	n.receive(bodyMessage(d, mine))
	if body("h2") != nil {
		t.Error("h2 announces as h1")
	}
	// A body that nobody asked for, and one with another's digest.
	n.table.joined(member(meta{Host: "h1", Role: Proxy, Incarnation: 1, Digest: d}, 1), now)
	n.receive(bodyMessage(od, others))
	n.table.due(now, 8, nobackoff)
	n.receive(bodyMessage(d, others))
	if body("h1") != nil || body("h2") != nil {
		t.Error("a body with another's digest counts")
	}
	// A hint does not make a host, nor another life of one.
	n.receive(hintMessage(meta{Host: "h3", Role: Proxy, Incarnation: 1, Sequence: 9}))
	n.receive(hintMessage(meta{Host: "h1", Role: Proxy, Incarnation: 7, Sequence: 9, Leaving: true}))
	if hosts := n.table.list(now); len(hosts) != 2 || hosts[0].Incarnation != 1 || hosts[0].State != Alive {
		t.Errorf("hosts %+v, want h1 and h2 as gossip told of them", hosts)
	}
	forged := member(meta{Host: "h4", Role: Proxy, Incarnation: 1}, 4)
	forged.Name = "h1@1"
	if (*delegate)(n).NotifyAlive(forged) == nil {
		t.Error("a node with another's name is taken")
	}
	for what, change := range map[string]func(*Announcement){
		"the namespace of hosts": func(a *Announcement) { a.Instances[0].Namespace = "host" },
		"a wildcard address":     func(a *Announcement) { a.Instances[0].Address = netip.IPv4Unspecified() },
		"a mapped address":       func(a *Announcement) { a.Instances[0].Address = netip.MustParseAddr("::ffff:0.0.0.0") },
		"a multicast address":    func(a *Announcement) { a.Instances[0].Address = netip.MustParseAddr("224.0.0.1") },
		"all weight":             func(a *Announcement) { a.Instances[0].Weight = 1 << 31 },
	} {
		a := announcement("web")
		change(&a)
		if a.check() == nil {
			t.Errorf("%s: announced", what)
		}
	}
	n.receive(bodyMessage(d, mine))
	if d != sha256.Sum256(mine) || body("h1") == nil {
		t.Error("its own body does not count")
	}
}

// Without its keys a node does not start: there is no plaintext instead (CVE-2026-54762).
func TestCVEClass26_NoKeysNoGossip(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := strings.Repeat("c2VjcmV0", 5)
	for what, path := range map[string]string{
		"no file": filepath.Join(dir, "none"), "empty": file("empty", "", 0o600), "comments only": file("comment", "# none\n\n", 0o600),
		"no key": file("bad", secret+"!", 0o600), "short": file("short", "c2VjcmV0", 0o600), "readable by all": file("open", secret, 0o644), "a directory": dir,
	} {
		n, err := Listen(Options{HostID: "h1", Role: Proxy, Config: Config{Bind: netip.MustParseAddrPort("127.0.0.1:0"), KeyFile: path}})
		if err == nil {
			_ = n.Close()
			t.Errorf("%s: it starts", what)
		} else if strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("%s: the error shows the key: %v", what, err)
		}
	}
	if n, err := Listen(Options{HostID: "h1", Role: Proxy, Config: Config{Bind: netip.MustParseAddrPort("0.0.0.0:0")}}); err == nil {
		_ = n.Close()
		t.Error("plaintext beyond loopback")
	}
}
