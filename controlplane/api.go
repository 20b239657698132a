package controlplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/controlplane/compile"
	"github.com/hostmesh/hostmesh/controlplane/xds"
	"github.com/hostmesh/hostmesh/registry"
)

// The answers of the HTTP API, version 1. Lists are sorted by name and never null.
type (
	// Services is GET /api/v1/services.
	Services struct {
		Number   uint64           `json:"number"` // of the snapshot
		Services []ServiceSummary `json:"services"`
	}
	// ServiceSummary is a service without its endpoints.
	ServiceSummary struct {
		registry.Name
		Host      string              `json:"host"`              // its full name in DNS
		Address   netip.Addr          `json:"address,omitempty"` // its loopback address on mesh hosts
		Ports     []registry.Port     `json:"ports"`
		Endpoints int                 `json:"endpoints"`
		Serving   int                 `json:"serving"` // of them, not unhealthy nor draining
		Sources   []string            `json:"sources"`
		Conflicts []registry.Conflict `json:"conflicts,omitempty"`
	}
	// Endpoints is GET /api/v1/endpoints?service=NAMESPACE/NAME; without a service, those of all.
	Endpoints struct {
		Number    uint64            `json:"number"`
		Endpoints []ServiceEndpoint `json:"endpoints"`
	}
	// ServiceEndpoint is an endpoint with the service it belongs to.
	ServiceEndpoint struct {
		Service registry.Name `json:"service"`
		Standby bool          `json:"standby,omitempty"` // known, but the merge rule keeps traffic from it
		*registry.Endpoint
	}
	// Conflicts is GET /api/v1/conflicts?service=NAMESPACE/NAME; without a service, those of all.
	Conflicts struct {
		Number    uint64            `json:"number"`
		Conflicts []ServiceConflict `json:"conflicts"`
	}
	// ServiceConflict is a conflict with the service it is about.
	ServiceConflict struct {
		Service registry.Name `json:"service"`
		registry.Conflict
	}
	// Accepted is POST /api/v1/registries/NAME/accept.
	Accepted struct {
		Registry string `json:"registry"`
		Released int    `json:"released"` // endpoints that left for it
	}
	// Proxies is GET /api/v1/proxies: every xDS client connected now or not long ago.
	Proxies struct {
		Number  uint64             `json:"number"`
		Proxies []xds.ClientStatus `json:"proxies"`
	}
	// Registries is GET /api/v1/registries, in configured order.
	Registries struct {
		Number     uint64                  `json:"number"`
		Time       time.Time               `json:"time"` // the server's clock, to tell ages by
		Registries []registry.SourceStatus `json:"registries"`
	}
	// APIError is the body of every answer that is not 200.
	APIError struct {
		Error string `json:"error"`
	}
)

// apiHandler serves the HTTP API, health and metrics.
func (s *Server) apiHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.Handle("GET /metrics", s.metricsHandler())
	mux.HandleFunc("GET /api/v1/services", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.services()) })
	mux.HandleFunc("GET /api/v1/endpoints", s.serveEndpoints)
	mux.HandleFunc("GET /api/v1/conflicts", s.serveConflicts)
	mux.HandleFunc("POST /api/v1/registries/{name}/accept", s.serveAccept)
	mux.HandleFunc("GET /api/v1/proxies", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, Proxies{Number: s.number(), Proxies: nonNil(s.xds.Clients())})
	})
	mux.HandleFunc("GET /api/v1/dns", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, s.dnsStatus()) })
	mux.HandleFunc("POST /api/v1/dns/{zone}/roll", s.serveRoll)
	mux.HandleFunc("POST /api/v1/dns/{zone}/ds-seen", s.serveDSSeen)
	mux.HandleFunc("GET /api/v1/registries", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, Registries{Number: s.number(), Time: time.Now(), Registries: nonNil(s.catalog.Sources())})
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusNotFound, APIError{fmt.Sprintf("no %s %s here; try /api/v1/services, /healthz, /readyz or /metrics", r.Method, r.URL.Path)})
	})
	return sameOrigin(s.http.Addr(), mux)
}

func (s *Server) number() uint64 {
	snapshot, _ := s.catalog.Current()
	return snapshot.Number
}

func (s *Server) serveReady(w http.ResponseWriter, _ *http.Request) {
	ready, reason := s.catalog.Ready()
	if !ready {
		http.Error(w, "not ready: "+reason, http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

func (s *Server) services() Services {
	snapshot, _ := s.catalog.Current()
	unserved := s.unserved()
	all := Services{Number: snapshot.Number, Services: make([]ServiceSummary, 0, len(snapshot.Services))}
	for _, svc := range snapshot.Services {
		summary := ServiceSummary{
			Name: svc.Name, Host: svc.Name.Name + "." + svc.Name.Namespace + "." + s.domain, Address: compile.LoopbackAddr(svc.Name),
			Ports: nonNil(svc.Ports), Endpoints: len(svc.Endpoints), Sources: []string{},
			Conflicts: slices.Concat(svc.Conflicts, unserved[svc.Name]),
		}
		for _, e := range svc.Endpoints {
			if e.Health.Serving() {
				summary.Serving++
			}
			for _, source := range e.Sources {
				if !slices.Contains(summary.Sources, source) {
					summary.Sources = append(summary.Sources, source)
				}
			}
		}
		slices.Sort(summary.Sources)
		all.Services = append(all.Services, summary)
	}
	return all
}

func (s *Server) serveEndpoints(w http.ResponseWriter, r *http.Request) {
	snapshot, _ := s.catalog.Current()
	services, ok := s.wanted(w, r, snapshot)
	if !ok {
		return
	}
	all := Endpoints{Number: snapshot.Number, Endpoints: []ServiceEndpoint{}}
	for _, svc := range services {
		for _, e := range svc.Endpoints {
			all.Endpoints = append(all.Endpoints, ServiceEndpoint{Service: svc.Name, Endpoint: e})
		}
		for _, e := range svc.Standby {
			all.Endpoints = append(all.Endpoints, ServiceEndpoint{Service: svc.Name, Standby: true, Endpoint: e})
		}
	}
	answer(w, http.StatusOK, all)
}

// wanted returns the services that a request asks for; when there is none of that name it has answered so.
func (s *Server) wanted(w http.ResponseWriter, r *http.Request, snapshot *registry.Snapshot) ([]*registry.Service, bool) {
	text := r.URL.Query().Get("service")
	if text == "" {
		return snapshot.Services, true
	}
	name := ParseName(text, s.domain)
	svc := snapshot.Service(name)
	if svc == nil {
		answer(w, http.StatusNotFound, APIError{fmt.Sprintf("no service %s; mesh get services lists them", name)})
		return nil, false
	}
	return []*registry.Service{svc}, true
}

// unserved are the services that compile could not serve in full, as conflicts.
func (s *Server) unserved() map[registry.Name][]registry.Conflict {
	conflicts := map[registry.Name][]registry.Conflict{}
	if common := s.resources.Load(); common != nil { // nil before the catalog is settled
		for _, c := range common.Conflicts() {
			conflicts[c.Service] = append(conflicts[c.Service], registry.Conflict{What: "not served", Sides: []registry.Side{}, Text: c.Reason})
		}
	}
	return conflicts
}

func (s *Server) serveConflicts(w http.ResponseWriter, r *http.Request) {
	snapshot, _ := s.catalog.Current()
	services, ok := s.wanted(w, r, snapshot)
	if !ok {
		return
	}
	unserved := s.unserved()
	all := Conflicts{Number: snapshot.Number, Conflicts: []ServiceConflict{}}
	for _, svc := range services {
		for _, c := range slices.Concat(svc.Conflicts, unserved[svc.Name]) {
			all.Conflicts = append(all.Conflicts, ServiceConflict{Service: svc.Name, Conflict: c})
		}
	}
	answer(w, http.StatusOK, all)
}

// serveAccept takes a registry's word for what is doubted. It is an operator's decision, so it is logged.
func (s *Server) serveAccept(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	released, err := s.catalog.Accept(name)
	if err != nil {
		answer(w, http.StatusNotFound, APIError{err.Error() + "; mesh get registries lists them"})
		return
	}
	s.log.Warn("an operator accepted the registry's word", "registry", name, "released", released, "client", r.RemoteAddr)
	answer(w, http.StatusOK, Accepted{Registry: name, Released: released})
}

// ParseName reads a service's name as people write it: NAME, NAMESPACE/NAME, NAME.NAMESPACE or a full name in domain.
func ParseName(text, domain string) registry.Name {
	text = strings.TrimSuffix(strings.ToLower(text), ".")
	text = strings.TrimSuffix(text, "."+domain)
	if namespace, name, ok := strings.Cut(text, "/"); ok {
		return registry.Name{Namespace: namespace, Name: name}
	}
	if name, namespace, ok := strings.Cut(text, "."); ok {
		return registry.Name{Namespace: namespace, Name: name}
	}
	return registry.Name{Namespace: registry.DefaultNamespace, Name: text}
}

func answer(w http.ResponseWriter, status int, body any) {
	data, err := json.MarshalIndent(body, "", "  ")
	if err != nil {
		http.Error(w, "encode the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}

func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// sameOrigin refuses what a web page elsewhere could make a browser send here: a Host that is not ours (DNS rebinding)
// and an Origin other than the Host.
func sameOrigin(own net.Addr, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkHost(own, r); err != nil {
			answer(w, http.StatusForbidden, APIError{err.Error()})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func checkHost(own net.Addr, r *http.Request) error {
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		host, port = r.Host, "80"
	}
	ownHost, ownPort, err := net.SplitHostPort(own.String())
	if err != nil {
		return errors.New("the server's own address is not known")
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	known := host == "localhost" || host == ownHost || err == nil && addr.IsLoopback()
	if !known || port != ownPort {
		return fmt.Errorf("host %q is not this server's, want %s", r.Host, own)
	}
	for _, origin := range r.Header.Values("Origin") {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host || u.Scheme != "http" {
			return fmt.Errorf("origin %q is foreign", origin)
		}
	}
	return nil
}
