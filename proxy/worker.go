package proxy

import (
	crand "crypto/rand"
	"crypto/tls"
	"math/rand/v2"
	"time"

	"github.com/hostmesh/hostmesh/proxy/certificate"
	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/http2"
	"github.com/hostmesh/hostmesh/proxy/loop"
	"github.com/hostmesh/hostmesh/proxy/message"
	"github.com/hostmesh/hostmesh/proxy/upstream"
)

// worker is one loop with all that is its own. Everything in it belongs to the loop's goroutine.
type worker struct {
	loop   *loop.Loop
	loops  int // how many workers there are
	rand   *rand.Rand
	source *rand.ChaCha8

	config    *config.Config
	clusters  map[string]*upstream.Cluster // those that were used
	breakers  *upstream.Breakers           // of all workers
	shared    map[string]*upstream.Shared  // of all workers; clusters that are not in it have nothing to share
	slot      int                          // the number of this worker
	acceptors map[config.Address]*acceptor
	steering  *steering // nil: nothing is steered here
	arena     upstream.Arena
	certs     *certificate.Store
	http      map[string]*httpStats
	tcp       map[string]*tcpStats
	prefaces  prefaceStats
	http2     http2.Counts // of clients' connections
	logs      map[*sink]*logBuffer
	kept      []*kept // free
	nextConn  uint64  // identity of the next connection; those of the loops interleave

	global  *limit // of all workers
	peers   []*worker
	shed    shed
	refused map[*refused]struct{}

	leaving []*acceptor // removed, with connections that are ending

	plans  plans
	hashed []byte   // scratch, for values that are hashed
	values [][]byte // scratch

	exchanges   []*exchange // free
	lanes       []*lane     // free
	fresh       []*lane     // whose exchanges begin when a session has been told everything
	extra, path []byte      // scratch
	attempt     []byte      // scratch
	edit        message.Edit
	reply       message.Head
	clock       wallClock

	draining  bool
	drainIdle time.Duration
	flushLook time.Duration // between two looks whether a client takes its last response
	drainTime time.Duration // for connections of listeners and chains that left the configuration
}

func newWorker(loops int, drainTime time.Duration, breakers *upstream.Breakers, certs *certificate.Store) (*worker, error) {
	l, err := loop.New()
	if err != nil {
		return nil, err
	}
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails (its documentation)
	source := rand.NewChaCha8(seed)
	return &worker{
		loop: l, loops: loops, source: source, rand: rand.New(source), config: &config.Config{},
		clusters: map[string]*upstream.Cluster{}, breakers: breakers, acceptors: map[config.Address]*acceptor{},
		http: map[string]*httpStats{}, tcp: map[string]*tcpStats{}, logs: map[*sink]*logBuffer{}, refused: map[*refused]struct{}{}, drainIdle: time.Second, drainTime: drainTime,
		certs: certs, flushLook: flushTime / flushLooks,
	}, nil
}

// uses are what connections are for, as certificates know it.
var uses = [...]certificate.Use{
	upstream.ForBytes: certificate.ForBytes, upstream.ForHTTP1: certificate.ForHTTP1, upstream.ForHTTP2: certificate.ForHTTP2, upstream.ForHTTP: certificate.ForHTTP,
}

// cluster returns the worker's part of a cluster, nil if there is none of that name.
func (w *worker) cluster(name string) *upstream.Cluster {
	if c := w.clusters[name]; c != nil {
		return c
	}
	cfg := w.config.Clusters[name]
	if cfg == nil {
		return nil
	}
	c := w.planned(cfg)
	c.UseArena(&w.arena)
	c.Join(w.breakers)
	c.Share(w.shared[name], w.slot)
	c.Originate(func(e *config.Endpoint, use upstream.Use) *tls.Config {
		return w.certs.Client(c.Config(), e, uses[use])
	}, handshakeCounter)
	w.clusters[name] = c
	return c
}

// update takes a new configuration: the clusters named in changed differ from those before, and the addresses in replaced
// serve something else.
func (w *worker) update(cfg *config.Config, changed []string, replaced map[config.Address]*reception) {
	w.config = cfg
	for addr, r := range replaced {
		if a := w.acceptors[addr]; a != nil {
			a.serve(r)
		}
	}
	if len(w.shared) > 0 { // a cluster that left and came back as it was has other facts
		for name, c := range w.clusters {
			c.Share(w.shared[name], w.slot)
		}
	}
	for _, name := range changed {
		c := w.clusters[name]
		if c == nil {
			continue
		}
		next := cfg.Clusters[name]
		if next == nil {
			delete(w.clusters, name)
			c.Close()
			continue
		}
		c.Share(w.shared[name], w.slot)
		c.UpdatePlanned(w.plans[name])
	}
}

// startDrain lets every connection end with its present or next request.
func (w *worker) startDrain(idle time.Duration) {
	w.draining, w.drainIdle = true, idle
	for _, a := range w.acceptors {
		a.drainClients()
	}
}

// connections counts what is still open.
func (w *worker) connections() int {
	n := 0
	for _, a := range w.acceptors {
		n += a.active
	}
	for _, a := range w.leaving {
		n += a.active
	}
	return n
}

// shutdown closes everything.
func (w *worker) shutdown() {
	if w.steering != nil {
		w.steering.close()
	}
	for addr, a := range w.acceptors {
		a.shutdown()
		delete(w.acceptors, addr)
	}
	for len(w.leaving) > 0 {
		w.leaving[0].shutdown()
	}
	for r := range w.refused {
		r.close()
	}
	for name, c := range w.clusters {
		c.Close()
		delete(w.clusters, name)
	}
	for _, b := range w.logs {
		b.flush()
	}
}

const hexDigits = "0123456789abcdef"

// appendUUID writes a random UUID (RFC 9562 version 4). Its bits come from a cipher that the kernel's randomness seeded.
func (w *worker) appendUUID(b []byte) []byte {
	hi, lo := w.source.Uint64(), w.source.Uint64()
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 2<<62
	for i := range 16 {
		if i == 8 || i == 12 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[hi>>(60-4*i)&15])
	}
	b = append(b, '-')
	for i := range 16 {
		if i == 4 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[lo>>(60-4*i)&15])
	}
	return b
}

// wallClock keeps the date and the time of day in the forms that headers and logs have.
type wallClock struct {
	readAt  int64 // on the loop's clock
	base    time.Time
	second  int64 // unix, of the texts
	date    []byte
	stampOf int64  // unix, of stamp
	stamp   []byte // up to the seconds
}

// read brings the clock up to date; it looks at the system's at most four times a second.
func (k *wallClock) read(l *loop.Loop) {
	if k.date != nil && l.Now()-k.readAt < int64(250*time.Millisecond) {
		return
	}
	k.readAt, k.base = l.Now(), time.Now().UTC()
	if s := k.base.Unix(); s != k.second || k.date == nil {
		k.second = s
		k.date = k.base.AppendFormat(k.date[:0], "Mon, 02 Jan 2006 15:04:05 GMT")
	}
}

// date is the value of the date field.
func (w *worker) date() []byte {
	w.clock.read(w.loop)
	return w.clock.date
}
