package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

const (
	defaultAdmin  = "127.0.0.1:15000"
	gatherTimeout = 2 * time.Second // for a loop to tell its counts
)

// admin is the administration interface: Envoy's paths on a loopback address, where it only shows, and on a unix socket,
// where it also changes.
type admin struct {
	p     *Proxy
	tcp   net.Listener // nil: none
	local net.Listener // nil: none
	ceded atomic.Bool  // a successor serves on

	mu      sync.Mutex
	servers []*http.Server // guarded by mu
}

// newAdmin binds the addresses.
func newAdmin(p *Proxy) (*admin, error) {
	a := &admin{p: p}
	addr := p.opts.Admin
	if addr == "" {
		addr = defaultAdmin
	}
	if addr != "-" {
		at, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, fmt.Errorf("listen for admin: %w", err)
		}
		if !at.Addr().IsLoopback() {
			return nil, fmt.Errorf("listen for admin on %s: not a loopback address", addr)
		}
		if a.tcp, err = p.binder.sockets.takeAdmin(func(l loop.Listening) bool { return l.Addr == at }); err != nil {
			return nil, fmt.Errorf("listen for admin: %w", err)
		}
		if a.tcp == nil {
			if a.tcp, err = net.Listen("tcp", addr); err != nil {
				return nil, fmt.Errorf("listen for admin: %w", err)
			}
		}
	}
	if path := p.opts.AdminSocket; path != "" {
		local, err := p.binder.sockets.takeAdmin(func(l loop.Listening) bool { return l.Path == path })
		if err == nil && local == nil {
			local, err = listenUnix(path)
		}
		if err != nil {
			if a.tcp != nil {
				a.tcp.Close()
			}
			return nil, fmt.Errorf("listen for admin: %w", err)
		}
		a.local = local
	}
	return a, nil
}

// listenUnix binds a socket for its owner and group. What an earlier process left at the path is removed, unless
// somebody answers there.
func listenUnix(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			conn.Close()
			return nil, fmt.Errorf("bind %s: another process listens on it", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (a *admin) addr() string {
	if a.tcp == nil {
		return ""
	}
	return a.tcp.Addr().String()
}

// run serves until ctx ends.
func (a *admin) run(ctx context.Context) error {
	if start := a.p.opts.Start; start != nil { // until then the other process answers
		select {
		case <-start:
		case <-ctx.Done():
			a.close()
			return nil
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	mux := a.routes()
	serve := func(l net.Listener, h http.Handler) {
		if l == nil {
			return
		}
		s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
		a.mu.Lock()
		a.servers = append(a.servers, s)
		a.mu.Unlock()
		group.Go(func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) && !a.ceded.Load() {
				return fmt.Errorf("serve admin: %w", err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			// Whoever asked for an upgrade is to hear of its success.
			ended, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = s.Shutdown(ended)
			return s.Close()
		})
	}
	serve(a.tcp, readOnly(mux))
	serve(a.local, mux)
	return group.Wait()
}

// readOnly lets only requests through that show something and that a page of another site cannot have made: its name
// would stand in Host even if it resolves to this machine (DNS rebinding).
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopbackHost(r.Host) {
			http.Error(w, "the Host header names neither localhost nor a loopback address", http.StatusForbidden)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "read-only over TCP: use the admin socket (curl --unix-socket)", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func loopbackHost(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil && ip.IsLoopback()
}

// adminHelp is what there is.
const adminHelp = `admin commands are:
  /clusters: upstream cluster status (?format=json)
  /config_dump: the configuration as it was received
  /drain_listeners: close the listeners, let connections end (POST, admin socket only)
  /help: print out list of admin commands
  /listeners: print listener info (?format=json)
  /ready: print server state, return 200 if LIVE, otherwise return 503
  /reopen_logs: open the files of the access logs again (POST, admin socket only)
  /server_info: print server version/status information
  /stats: print server stats (?filter=regex, ?usedonly, ?format=prometheus)
  /stats/prometheus: print server stats in prometheus format
  /upgrade: start the program anew and have it take over all sockets (POST, admin socket only)
`

func (a *admin) routes() http.Handler {
	mux := http.NewServeMux()
	help := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" && r.URL.Path != "/help" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, "invalid path. "+adminHelp)
			return
		}
		fmt.Fprint(w, adminHelp)
	}
	mux.HandleFunc("/", help)
	mux.HandleFunc("/ready", a.ready)
	mux.HandleFunc("/listeners", a.listeners)
	mux.HandleFunc("/clusters", a.clusters)
	mux.HandleFunc("/config_dump", a.configDump)
	mux.HandleFunc("/stats", a.stats)
	mux.HandleFunc("/stats/prometheus", a.prometheus)
	mux.HandleFunc("/server_info", a.serverInfo)
	mux.HandleFunc("/drain_listeners", a.drainListeners)
	mux.HandleFunc("/reopen_logs", a.reopenLogs)
	mux.HandleFunc("/upgrade", a.upgrade)
	return mux
}

// state is the proxy's state by Envoy's names, and what it waits for if anything.
func (p *Proxy) state() (state, reason string) {
	switch p.life.Load() {
	case stageDraining, stageDrained:
		return "DRAINING", ""
	case stageInitial:
		return "INITIALIZING", "no configuration yet"
	}
	if p.opts.Ready != nil {
		if ok, why := p.opts.Ready(); !ok {
			return "INITIALIZING", why
		}
	}
	return "LIVE", ""
}

func (a *admin) ready(w http.ResponseWriter, _ *http.Request) {
	state, reason := a.p.state()
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	w.Header().Set("Cache-Control", "no-cache, max-age=0")
	if state != "LIVE" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if reason != "" {
		state += ": " + reason
	}
	fmt.Fprintln(w, state)
}

func (a *admin) drainListeners(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "use POST, on the admin socket (curl --unix-socket)", http.StatusMethodNotAllowed)
		return
	}
	select {
	case a.p.binder.drainAsked <- struct{}{}:
	default: // asked already
	}
	fmt.Fprintln(w, "OK")
}

func (a *admin) reopenLogs(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "use POST, on the admin socket (curl --unix-socket)", http.StatusMethodNotAllowed)
		return
	}
	a.p.ReopenLogs()
	fmt.Fprintln(w, "OK")
}

func (a *admin) configDump(w http.ResponseWriter, _ *http.Request) {
	if a.p.opts.ConfigDump == nil {
		http.Error(w, "no configuration source", http.StatusNotFound)
		return
	}
	dump, err := a.p.opts.ConfigDump()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(dump)
}
