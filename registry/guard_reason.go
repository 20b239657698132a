package registry

import "time"

// quietAfter is how long nothing more is doubted until the reasons of what was tell the whole; after Window they do anyhow.
const quietAfter = time.Second

// account is what was doubted for one thing, in views that came one soon after the other.
type account struct {
	losses []*loss
	lost   int    // the most of any view
	reason string // with that number
}

// doubtAll doubts losses for one thing: "endpoints" or "services" of the source, or a service by name. lost is the number
// in reason. What was doubted for it a moment ago, when the number was less, gets the last reason later.
func (g *guard) doubtAll(now time.Time, thing string, losses []*loss, lost int, reason string) {
	if len(g.accounts) == 0 {
		g.opened = now
	}
	a := g.accounts[thing]
	if a == nil {
		a = &account{}
		g.accounts[thing] = a
	}
	if lost >= a.lost {
		a.lost, a.reason = lost, reason
	}
	for _, l := range losses {
		if l.state != doubted || !l.until.IsZero() {
			g.doubt(now, l, reason)
			a.losses = append(a.losses, l)
		}
	}
	g.quiet = earlier(now.Add(quietAfter), g.opened.Add(g.rules.Window)) // some source always loses something
}

// tellWhole gives what was doubted together the reason that tells the whole: that of the source's endpoints, which counts
// those of single services too, before others. It is done once, for a burst can be long.
func (g *guard) tellWhole() {
	whole := g.accounts["endpoints"]
	for _, a := range g.accounts {
		if whole != nil {
			a.reason = whole.reason
		}
		for _, l := range a.losses {
			if l.state != doubted || !l.until.IsZero() || g.struck(l) || l.endpoint.Doubt.Reason == a.reason {
				continue
			}
			e := *l.endpoint
			e.Doubt = &Doubt{Since: e.Doubt.Since, Reason: a.reason}
			l.endpoint = &e
			g.dirty[l.service.Name] = struct{}{}
		}
	}
	g.accounts, g.quiet = make(map[string]*account), time.Time{}
}
