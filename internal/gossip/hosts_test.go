package gossip

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestLives gives a control node's table what memberlist tells, one event after the other.
func TestLives(t *testing.T) {
	now := time.Unix(1000, 0)
	lives := []meta{{}, {Host: "h", Role: Proxy, Incarnation: 1}, {Host: "h", Role: Proxy, Incarnation: 2}}
	leaving := func(m meta) meta {
		m.Leaving, m.Sequence = true, 1
		return m
	}
	for _, c := range []struct {
		name   string
		events string // +1 life 1 is there, -1 it is gone, ~1 it tells that it leaves (as a hint), ≈1 the same by gossip
		want   string // state and life after each event
	}{
		{"dies and returns", "+1 -1 +2", "alive1 dead1 alive2"},
		{"returns before it was found dead", "+1 +2 -1", "alive1 alive2 alive2"},
		{"the same life returns", "+1 -1 +1", "alive1 dead1 alive1"},
		{"leaves", "+1 ~1 -1", "alive1 leaving1 left1"},
		{"leaves, told by gossip", "+1 ≈1 -1", "alive1 leaving1 left1"},
		{"an older meta after the hint", "+1 ~1 +1", "alive1 leaving1 leaving1"},
		{"leaves while the life before is not found dead", "+1 +2 ~2 -2 -1", "alive1 alive2 leaving2 left2 left2"},
		{"dies while the life before is not found dead", "+1 +2 -2 -1", "alive1 alive2 alive1 dead1"},
		{"clock set back", "+2 +1 -2", "alive2 alive2 alive1"},
		{"clock set back, news before the death, by gossip", "+2 +1 ≈1 -2", "alive2 alive2 alive2 leaving1"},
		{"clock set back, news before the death, as a hint", "+2 +1 ~1 +1 -2", "alive2 alive2 alive2 alive2 leaving1"},
		{"clock set back, after the death", "+2 -2 +1", "alive2 dead2 alive1"},
		{"gone before it was known", "-1 +1", " alive1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tb := newTable(meta{Host: "c", Role: Control, Incarnation: 9})
			var got []string
			for _, event := range strings.Fields(c.events) {
				life := lives[event[len(event)-1]-'0']
				switch strings.TrimRight(event, "12") {
				case "+":
					tb.joined(member(life, 1), now)
				case "-":
					tb.gone(member(life, 1), now)
				case "~":
					tb.hinted(leaving(life), now)
				case "≈":
					tb.joined(member(leaving(life), 1), now)
				}
				text := ""
				for _, h := range tb.list(now) {
					text = fmt.Sprintf("%v%d", h.State, h.Incarnation)
				}
				got = append(got, text)
			}
			if got := strings.Join(got, " "); got != c.want {
				t.Errorf("%s: got %q, want %q", c.events, got, c.want)
			}
		})
	}
}

func TestTwoNodesClaimOneHost(t *testing.T) {
	now := time.Unix(1000, 0)
	tb := newTable(meta{Host: "c", Role: Control, Incarnation: 1})
	a, b := meta{Host: "h", Role: Proxy, Incarnation: 1}, meta{Host: "h", Role: Proxy, Incarnation: 2}
	tb.joined(member(a, 1), now)
	tb.joined(member(b, 2), now)
	if h := tb.list(now)[0]; h.Incarnation != 2 || h.Rival.IsValid() {
		t.Errorf("got %+v, want the later life and no rival so soon", h)
	}
	if h := tb.list(now.Add(rivalAfter))[0]; h.Rival != netip.MustParseAddrPort("127.0.0.1:1") {
		t.Errorf("rival %v, want the other node", h.Rival)
	}
	tb.gone(member(a, 1), now)
	if h := tb.list(now.Add(rivalAfter))[0]; h.State != Alive || h.Rival.IsValid() {
		t.Errorf("got %+v, want it alive without a rival", h)
	}
}
