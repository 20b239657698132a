package forward

import (
	"sync"
	"time"

	"github.com/hostmesh/hostmesh/dnsserver"
)

const (
	firstBackOff = time.Second
	mostBackOff  = 30 * time.Second
	mostSilent   = 3 // names that get no answer, and none other does meanwhile: then it is not the names
)

// health is what is known of how an upstream does. One that is down is asked after others; now and then one question that another
// answers is put to it as well, to see whether it is up again.
type health struct {
	mu     sync.Mutex
	last   time.Time               // guarded by mu: when it answered something
	names  map[dnsserver.Name]bool // guarded by mu: that have got no answer since
	down   string                  // guarded by mu: why it is down, "" while it is not
	downs  int                     // guarded by mu: how often it was found to be, in a row
	until  time.Time               // guarded by mu: not tried before then
	trying bool                    // guarded by mu
}

// heard notes an answer, whatever it says, and reports whether the upstream was down.
func (h *health) heard(now time.Time) (wasDown bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wasDown = h.down != ""
	h.last, h.names, h.down, h.downs, h.until, h.trying = now, nil, "", 0, time.Time{}, false
	return wasDown
}

// silent notes that a question got no answer, and reports whether the upstream is down since. At once it is when it cannot be reached. Else
// it may be the name's fault, so that it takes some of them; and it is no sign at all where the upstream has answered anything meanwhile.
func (h *health) silent(now, asked time.Time, name dnsserver.Name, why error, unreachable bool) (isDown bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trying = false
	if h.last.After(asked) || now.Before(h.until) {
		return false
	}
	if h.names == nil {
		h.names = map[dnsserver.Name]bool{}
	}
	if h.names[name] = true; h.down == "" && !unreachable && len(h.names) < mostSilent {
		return false
	}
	isDown = h.down == ""
	h.names, h.down = nil, why.Error()
	h.until = now.Add(min(firstBackOff<<min(h.downs, 5), mostBackOff))
	h.downs++
	return isDown
}

// why says why an upstream is down, "" when it is not.
func (h *health) why() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

// due reports whether an upstream that is down is to be tried; true is for one caller, who then has to tell what came of it.
func (h *health) due(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down == "" || h.trying || now.Before(h.until) {
		return false
	}
	h.trying = true
	return true
}
