package gossip

import (
	"fmt"
	"strings"
	"time"

	ring "github.com/hostmesh/hostmesh/internal/gossip"
)

const (
	doubtWindow  = 10 * time.Second
	doubtMinimum = 3 // hosts; of two, either may well die alone
)

// effect is what a host's state makes of its endpoints' health.
type effect uint8

const (
	asAnnounced effect = iota
	draining
	unhealthy
)

// judged is a host and what its state means.
type judged struct {
	host   ring.Host
	effect effect
	dead   bool // it is known to be away: its death is not doubted
}

// judgement is what an observer makes of the ring.
type judgement struct {
	hosts  []judged // those that are to be seen, sorted by id
	forget []string
	doubt  string    // why deaths are not believed, "" when they are
	next   time.Time // when time alone changes something; far away when it does not
}

// observer decides what the deaths that it sees mean. It is pure: time and hosts are given to it.
type observer struct {
	reap    time.Duration
	doubted map[string]bool // dead hosts that are not believed to be
}

func newObserver(reap time.Duration) *observer {
	return &observer{reap: reap, doubted: map[string]bool{}}
}

// judge looks at the hosts as the ring reports them now.
//
// When more than a third of the hosts fell silent within ten seconds it is likelier that the observer lost its network:
// their endpoints stay as they were until enough of them are back. After the time that removes a dead host's endpoints
// they are called unhealthy, which a proxy with nothing better still uses, but none is removed in doubt.
func (o *observer) judge(all []ring.Host, now time.Time) judgement {
	j := judgement{next: now.Add(24 * time.Hour)}
	j.doubt = o.weigh(all, now)
	for _, h := range all {
		var until time.Time
		what := judged{host: h}
		switch h.State {
		case ring.Leaving:
			what.effect = draining
		case ring.Left:
			what.effect, until = draining, h.Since.Add(linger)
		case ring.Dead:
			until = h.Since.Add(o.reap)
			what.dead = !o.doubted[h.ID]
			if !o.doubted[h.ID] || !now.Before(until) {
				what.effect = unhealthy
			}
		}
		switch {
		case until.IsZero() || now.Before(until):
			if !until.IsZero() && until.Before(j.next) {
				j.next = until
			}
		case o.doubted[h.ID]:
		default:
			j.forget = append(j.forget, h.ID)
			continue
		}
		j.hosts = append(j.hosts, what)
	}
	return j
}

// weigh decides which deaths are in doubt, and tells why.
func (o *observer) weigh(all []ring.Host, now time.Time) string {
	var suspects []string
	alive := 0
	for _, h := range all {
		switch {
		case h.State == ring.Alive || h.State == ring.Leaving:
			alive++
		case h.State == ring.Dead && (o.doubted[h.ID] || now.Sub(h.Since) < doubtWindow):
			suspects = append(suspects, h.ID)
		}
	}
	clear(o.doubted)
	total := alive + len(suspects)
	if total < doubtMinimum || 3*len(suspects) <= total {
		return ""
	}
	for _, id := range suspects {
		o.doubted[id] = true
	}
	shown := suspects[:min(len(suspects), 5)]
	more := ""
	if len(shown) < len(suspects) {
		more = ", …"
	}
	return fmt.Sprintf("%d of %d hosts fell silent at about the same time (%s%s): maybe this control node is the one that is cut off; their endpoints are kept as they were",
		len(suspects), total, strings.Join(shown, ", "), more)
}
