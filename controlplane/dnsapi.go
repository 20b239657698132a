package controlplane

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hostmesh/hostmesh/dnsserver/dnssec"
	"github.com/hostmesh/hostmesh/dnsserver/transfer"
)

// The part of the HTTP API about DNS.
type (
	// DNSStatus is GET /api/v1/dns.
	DNSStatus struct {
		Number uint64           `json:"number"`          // of the snapshot
		Listen []netip.AddrPort `json:"listen"`          // UDP and TCP
		TLS    []netip.AddrPort `json:"tls,omitempty"`   // DNS over TLS
		HTTPS  []netip.AddrPort `json:"https,omitempty"` // DNS over HTTPS
		Zones  []ZoneStatus     `json:"zones"`           // the mesh's own first

		Secondaries []transfer.Status `json:"secondaries,omitempty"`
		Forward     *ForwardStatus    `json:"forward,omitempty"`  // none: other names are refused
		QueryLog    *QueryLogStatus   `json:"queryLog,omitempty"` // none: what is asked is not logged
	}
	// ForwardStatus is how it goes with names that are not the mesh's.
	ForwardStatus struct {
		Upstreams []UpstreamStatus `json:"upstreams"` // in the order in which they are preferred
		Allow     []netip.Prefix   `json:"allow"`
		Entries   int              `json:"entries"` // of the cache
		Bytes     int              `json:"bytes"`
		Hits      uint64           `json:"hits"`
		Misses    uint64           `json:"misses"`
		Stale     uint64           `json:"stale"`
		Loops     uint64           `json:"loops,omitempty"`
	}
	// UpstreamStatus is one that is asked.
	UpstreamStatus struct {
		Address  netip.AddrPort `json:"address"`
		TLS      bool           `json:"tls,omitempty"`
		Answers  uint64         `json:"answers"`
		Failures uint64         `json:"failures"`
		Error    string         `json:"error,omitempty"` // why it is left alone now
	}
	// QueryLogStatus is what became of queries and their answers that were to be logged.
	QueryLogStatus struct {
		Written uint64 `json:"written"`
		Dropped uint64 `json:"dropped"`
		Error   string `json:"error,omitempty"` // why nothing is written now
	}
	// ZoneStatus is a zone, and the answer of what changes its keys.
	ZoneStatus struct {
		Zone   string             `json:"zone"`             // with the last dot
		Serial uint32             `json:"serial,omitempty"` // 0: there is nothing to serve yet
		Keys   []dnssec.KeyStatus `json:"keys"`             // none: it is not signed
		Error  string             `json:"error,omitempty"`  // why it is not, though it should be
	}
)

func (s *Server) dnsStatus() DNSStatus {
	status := DNSStatus{Number: s.number(), Listen: []netip.AddrPort{}, Zones: []ZoneStatus{}}
	if s.dns != nil {
		status.Listen, status.TLS, status.HTTPS = nonNil(s.dns.Addrs()), s.dns.TLSAddrs(), s.dns.HTTPSAddrs()
		status.Secondaries = s.copies.Status()
	}
	if s.forwarder != nil {
		status.Forward = s.forwardStatus()
	}
	if s.queryLog != nil {
		stats := QueryLogStatus(s.queryLog.Stats())
		status.QueryLog = &stats
	}
	for _, z := range s.zones.Load() {
		name := z.Origin().String()
		status.Zones = append(status.Zones, ZoneStatus{Zone: name, Serial: z.Serial(), Keys: []dnssec.KeyStatus{}, Error: s.unsigned[name]})
	}
	for _, keys := range s.keys {
		s.addKeys(&status, keys.Status())
	}
	return status
}

func (s *Server) forwardStatus() *ForwardStatus {
	stats := s.forwarder.Stats()
	status := &ForwardStatus{
		Allow: s.forwardFor, Entries: stats.Entries, Bytes: stats.Size, Hits: stats.Hits, Misses: stats.Misses, Stale: stats.Stale, Loops: stats.Loops,
	}
	for _, u := range stats.Upstreams {
		status.Upstreams = append(status.Upstreams, UpstreamStatus{Address: u.Addr, TLS: u.TLS, Answers: u.Answers, Failures: u.Failures, Error: u.Error})
	}
	return status
}

// addKeys adds a zone's keys to the zone, which has none to serve before the catalog is settled.
func (s *Server) addKeys(status *DNSStatus, keys []dnssec.KeyStatus) {
	for i := range status.Zones {
		if status.Zones[i].Zone == keys[0].Zone {
			status.Zones[i].Keys = keys
			return
		}
	}
	status.Zones = append(status.Zones, ZoneStatus{Zone: keys[0].Zone, Keys: keys})
}

// serveRoll begins a rollover: POST /api/v1/dns/ZONE/roll?role=ROLE.
func (s *Server) serveRoll(w http.ResponseWriter, r *http.Request) {
	role := dnssec.Role(r.URL.Query().Get("role"))
	s.changeKeys(w, r, "an operator began a rollover of keys", func(keys *dnssec.Keys) error { return keys.Roll(role) })
}

// serveDSSeen takes the word that a DS is there: POST /api/v1/dns/ZONE/ds-seen?tag=TAG.
func (s *Server) serveDSSeen(w http.ResponseWriter, r *http.Request) {
	text := r.URL.Query().Get("tag")
	tag, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		answer(w, http.StatusBadRequest, APIError{fmt.Sprintf("read tag: got %q, want a key's number; mesh dns status lists them", text)})
		return
	}
	s.changeKeys(w, r, "an operator says that a DS is there", func(keys *dnssec.Keys) error { return keys.DSSeen(uint16(tag)) })
}

// changeKeys does what an operator wants with a zone's keys, so it is logged.
func (s *Server) changeKeys(w http.ResponseWriter, r *http.Request, what string, change func(*dnssec.Keys) error) {
	zone := strings.ToLower(strings.TrimSuffix(r.PathValue("zone"), ".")) + "."
	for _, keys := range s.keys {
		if keys.Zone() != zone {
			continue
		}
		if err := change(keys); err != nil {
			answer(w, http.StatusConflict, APIError{err.Error() + "; mesh dns status shows the keys"})
			return
		}
		s.log.Warn(what, "zone", zone, "asked", r.URL.RawQuery, "client", r.RemoteAddr)
		status := DNSStatus{}
		s.addKeys(&status, keys.Status())
		answer(w, http.StatusOK, status.Zones[0])
		return
	}
	answer(w, http.StatusNotFound, APIError{fmt.Sprintf("no zone %s is signed here; mesh dns status lists them", zone)})
}
