package gossip

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

func member(m meta, port uint16) *memberlist.Node {
	return &memberlist.Node{Name: m.name(), Addr: net.IPv4(127, 0, 0, 1), Port: port, Meta: m.encode()}
}

func nobackoff(int) time.Duration { return 0 }

func TestMetaFits(t *testing.T) {
	m := meta{Host: strings.Repeat("h", maxHostID), Role: Control, Leaving: true, Incarnation: 1<<64 - 1, Sequence: 1<<32 - 1, Digest: digest{31: 1}}
	b := m.encode()
	if len(b) > memberlist.MetaMaxSize {
		t.Errorf("the longest meta has %d bytes, memberlist takes %d", len(b), memberlist.MetaMaxSize)
	}
	got, err := decodeMeta(b)
	if err != nil || got != m {
		t.Errorf("decoded %+v, %v, want %+v", got, err, m)
	}
}

func FuzzMeta(f *testing.F) {
	f.Add(meta{Host: "h1", Role: Proxy, Incarnation: 5}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := decodeMeta(m.encode())
		if err != nil || again != m {
			t.Errorf("%+v became %+v, %v", m, again, err)
		}
	})
}

// FuzzReceive feeds a control node and a proxy what any member of the ring could send.
func FuzzReceive(f *testing.F) {
	body, d, err := encodeAnnouncement(announcement("web"), "h1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bodyMessage(d, body))
	f.Add(wantMessage(d, "control@1"))
	f.Add(hintMessage(meta{Host: "h1", Role: Proxy, Incarnation: 1, Sequence: 9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, role := range []Role{Proxy, Control} {
			n, err := newNode(Options{HostID: "self", Role: role, Incarnation: 1})
			if err != nil {
				t.Fatal(err)
			}
			n.table.joined(member(meta{Host: "h1", Role: Proxy, Incarnation: 1, Digest: d}, 1), time.Now())
			n.table.due(time.Now(), 1, nobackoff)
			n.receive(b)
			for _, h := range n.Hosts() {
				if h.Body != nil && !h.Current {
					t.Errorf("a body that was not announced was taken: %+v", h)
				}
			}
		}
	})
}

func FuzzAnnouncement(f *testing.F) {
	body, _, err := encodeAnnouncement(announcement("web", "api"), "h1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"version":1,"host":"h1","instances":[{"ports":[{}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAnnouncement(b, "h1")
		if err != nil {
			return
		}
		again, _, err := encodeAnnouncement(*a, "h1")
		if err != nil {
			t.Fatalf("decoded what cannot be announced: %v", err)
		}
		if _, err := decodeAnnouncement(again, "h1"); err != nil {
			t.Error(err)
		}
		if len(again) > maxBody || bytes.Contains(again, []byte("::ffff:")) {
			t.Errorf("bad announcement %s", again)
		}
	})
}

func TestHostileMessages(t *testing.T) {
	n, err := newNode(Options{HostID: "self", Role: Control, Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	body, d, err := encodeAnnouncement(announcement("web"), "h1")
	if err != nil {
		t.Fatal(err)
	}
	other, otherDigest, err := encodeAnnouncement(announcement("web"), "h2")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	n.receive(bodyMessage(d, body)) // before anybody announced it
	n.table.joined(member(meta{Host: "h1", Role: Proxy, Incarnation: 1, Digest: d}, 1), now)
	n.receive(bodyMessage(d, body)) // before it was asked for
	n.table.due(now, 1, nobackoff)
	n.receive(bodyMessage(d, append(bytes.Clone(body), ' ')))                                                 // another digest
	n.receive(bodyMessage(otherDigest, other))                                                                // of another host
	n.receive(hintMessage(meta{Host: "h3", Role: Proxy, Incarnation: 1, Sequence: 1}))                        // unknown to gossip
	n.receive(hintMessage(meta{Host: "h1", Role: Proxy, Incarnation: 9, Sequence: 1, Digest: otherDigest}))   // of another life
	n.receive(hintMessage(meta{Host: "h1", Role: Control, Incarnation: 1, Sequence: 1, Digest: otherDigest})) // of another role
	if hosts := n.Hosts(); len(hosts) != 1 || hosts[0].Body != nil || hosts[0].Incarnation != 1 {
		t.Fatalf("hosts %+v, want h1 without a body", hosts)
	}
	n.receive(bodyMessage(d, body))
	if hosts := n.Hosts(); !hosts[0].Current || hosts[0].Body == nil {
		t.Errorf("hosts %+v, want the body that was asked for", hosts)
	}
	// Announced by h1, but it says that it is of h2.
	n.receive(hintMessage(meta{Host: "h1", Role: Proxy, Incarnation: 1, Sequence: 2, Digest: otherDigest}))
	n.table.due(now, 1, nobackoff)
	n.receive(bodyMessage(otherDigest, other))
	if h := n.Hosts()[0]; h.Current || h.Body == nil || h.Body.Host != "h1" {
		t.Errorf("host %+v, want its last good body", h)
	}
}

func TestAnnounceRefuses(t *testing.T) {
	n, err := newNode(Options{HostID: "self", Role: Proxy, Incarnation: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Announcement){
		"a name that is no label": func(a *Announcement) { a.Instances[0].Service = "Web" },
		"twice":                   func(a *Announcement) { a.Instances = append(a.Instances, a.Instances[0]) },
		"no weight":               func(a *Announcement) { a.Instances[0].Weight = 0 },
		"no port":                 func(a *Announcement) { a.Instances[0].Ports = nil },
		"too large": func(a *Announcement) {
			a.Instances[0].Labels = map[string]string{"x": strings.Repeat("x", maxBody)}
		},
	} {
		a := announcement("web")
		change(&a)
		if err := n.Announce(a); err == nil {
			t.Errorf("%s: announced", name)
		}
	}
	if err := n.Announce(announcement("web")); err != nil {
		t.Error(err)
	}
}
