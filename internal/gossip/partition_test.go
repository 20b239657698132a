package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// tapped is the real transport, but it can be cut off from some addresses and keeps what it sends.
type tapped struct {
	memberlist.NodeAwareTransport
	cut  func(addr string) bool
	mu   sync.Mutex
	sent bytes.Buffer
}

func (w *tapped) record(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent.Write(b)
}

func (w *tapped) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	if w.cut != nil && w.cut(a.Addr) {
		return time.Now(), nil // lost on its way
	}
	w.record(b)
	return w.NodeAwareTransport.WriteToAddress(b, a)
}

func (w *tapped) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	if w.cut != nil && w.cut(a.Addr) {
		return nil, errors.New("no route")
	}
	conn, err := w.NodeAwareTransport.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	return &tappedConn{Conn: conn, to: w}, nil
}

type tappedConn struct {
	net.Conn
	to *tapped
}

func (c *tappedConn) Write(b []byte) (int, error) {
	c.to.record(b)
	return c.Conn.Write(b)
}

// tap starts a node over a tapped transport.
func tap(t *testing.T, o Options, cut func(string) bool) (*running, *tapped) {
	t.Helper()
	var w *tapped
	r := startWith(t, o, func(n *Node) {
		w = &tapped{NodeAwareTransport: n.udptcp, cut: cut}
		n.wire = w
	})
	return r, w
}

func TestNothingInPlaintext(t *testing.T) {
	t.Parallel()
	key := writeKey(t, 'k')
	control, fromControl := tap(t, Options{HostID: "secret-control", Role: Control, Config: Config{KeyFile: key}}, nil)
	c := seeds(control)
	c.KeyFile = key
	host, fromHost := tap(t, Options{HostID: "secret-host", Role: Proxy, Config: c}, nil)
	if err := host.Announce(announcement("secret-service")); err != nil {
		t.Fatal(err)
	}
	until(t, control, "the announcement", announces("secret-host", "secret-service"))
	plain := start(t, Options{HostID: "plain-control", Role: Control})
	_, fromPlain := tap(t, Options{HostID: "secret-plain", Role: Proxy, Config: seeds(plain)}, nil)
	until(t, plain, "the plain host", is("secret-plain", Alive))
	for _, w := range []*tapped{fromControl, fromHost} {
		w.mu.Lock()
		if w.sent.Len() == 0 || bytes.Contains(w.sent.Bytes(), []byte("secret-")) {
			t.Errorf("%d bytes sent, names among them: %v", w.sent.Len(), bytes.Contains(w.sent.Bytes(), []byte("secret-")))
		}
		w.mu.Unlock()
	}
	fromPlain.mu.Lock()
	defer fromPlain.mu.Unlock()
	if !bytes.Contains(fromPlain.sent.Bytes(), []byte("secret-plain")) {
		t.Error("without a key nothing was seen on the wire either: this test sees nothing")
	}
}

func TestPartition(t *testing.T) {
	t.Parallel()
	var parted atomic.Bool
	var control *running
	control, _ = tap(t, Options{HostID: "control", Role: Control}, func(string) bool { return parted.Load() })
	at := control.Addr().String()
	ids := []string{"h0", "h1", "h2", "h3"}
	var h *running
	for _, id := range ids {
		h, _ = tap(t, Options{HostID: id, Role: Proxy, Config: seeds(control)}, func(addr string) bool { return parted.Load() && addr == at })
		if err := h.Announce(announcement("web")); err != nil {
			t.Fatal(err)
		}
	}
	all := func(state State) func(map[string]Host) bool {
		return func(hosts map[string]Host) bool {
			for _, id := range ids {
				if hosts[id].State != state {
					return false
				}
			}
			return true
		}
	}
	until(t, control, "all hosts", all(Alive))
	for _, id := range ids {
		until(t, control, "its announcement", announces(id, "web"))
	}
	bodies := fmt.Sprintf("%p", control.Hosts()[0].Body)
	parted.Store(true)
	until(t, control, "that all seem dead", all(Dead))
	if err := h.Announce(announcement("changed")); err != nil {
		t.Fatal(err)
	}
	parted.Store(false)
	begin := time.Now()
	until(t, control, "all hosts again", all(Alive))
	t.Logf("healed after %v", time.Since(begin).Round(time.Millisecond))
	until(t, control, "what changed meanwhile", announces(ids[len(ids)-1], "changed"))
	if got := fmt.Sprintf("%p", control.Hosts()[0].Body); got != bodies {
		t.Error("an announcement that did not change was fetched again")
	}
}
