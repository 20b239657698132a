package xds

import (
	"math"
	"strings"
	"time"
	"unique"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	defaultRouteTimeout = 15 * time.Second
	defaultBodyLimit    = 4096 // of a direct response, as in Envoy
)

// intern makes equal names share their memory: a mesh repeats few of them often.
func intern(name string) string { return unique.Make(name).Value() }

// routes reads a RouteConfiguration.
func (r *reader) routes(at *path, m *routev3.RouteConfiguration) *config.RouteTable {
	t := &config.RouteTable{Name: m.GetName()}
	if m.GetValidateClusters().GetValue() {
		r.wrong(at.field("validate_clusters"), true, "false or nothing")
	}
	limit := uint32(defaultBodyLimit)
	if v := m.GetMaxDirectResponseBodySizeBytes(); v != nil {
		limit = v.GetValue()
	}
	names, domains := map[string]bool{}, map[string]string{}
	for i, vh := range m.GetVirtualHosts() {
		p := at.at("virtual_hosts", i)
		if names[vh.GetName()] {
			r.wrong(p.field("name"), clip(vh.GetName()), "each name once")
		}
		names[vh.GetName()] = true
		out := &config.VirtualHost{Name: vh.GetName()}
		for j, d := range vh.GetDomains() {
			d = strings.ToLower(d)
			if want := domainError(d); want != "" {
				r.wrong(p.at("domains", j), clip(d), want)
			} else if other, taken := domains[d]; taken {
				r.wrong(p.at("domains", j), clip(d), "each domain once; virtual host "+clip(other)+" has it")
			}
			domains[d] = vh.GetName()
			out.Domains = append(out.Domains, d)
		}
		retry := r.retry(p.field("retry_policy"), vh.GetRetryPolicy())
		for j, route := range vh.GetRoutes() {
			own := r.route(p.at("routes", j), route, retry, limit)
			own.TellHostAttempts, own.TellClientAttempts = vh.GetIncludeRequestAttemptCount(), vh.GetIncludeAttemptCountInResponse()
			out.Routes = append(out.Routes, own)
		}
		t.VirtualHosts = append(t.VirtualHosts, out)
	}
	return t
}

// domainError says what a domain should have been; "" if it is right: at most one *, first or last.
func domainError(d string) string {
	stars := strings.Count(d, "*")
	switch {
	case d == "":
		return "a domain"
	case strings.ContainsAny(d, " \t\r\n\x00/"):
		return "a domain without spaces and slashes"
	case stars > 1, stars == 1 && d[0] != '*' && d[len(d)-1] != '*':
		return "at most one *, at the beginning or the end"
	}
	return ""
}

func (r *reader) route(at *path, m *routev3.Route, retry config.Retry, bodyLimit uint32) *config.Route {
	out := &config.Route{Name: m.GetName()}
	r.match(at.field("match"), m.GetMatch(), out)
	switch action := m.GetAction().(type) {
	case *routev3.Route_Route:
		r.action(at.field("route"), action.Route, out, retry)
	case *routev3.Route_DirectResponse:
		d := action.DirectResponse
		body := dataSource(d.GetBody())
		if uint64(len(body)) > uint64(bodyLimit) {
			r.wrong(at.field("direct_response").field("body"), len(body), "at most max_direct_response_body_size_bytes")
		}
		if d.GetStatus() < 200 || d.GetStatus() > 599 {
			r.wrong(at.field("direct_response").field("status"), d.GetStatus(), "200 to 599")
		}
		out.Direct = &config.DirectResponse{Status: int(d.GetStatus()), Body: body}
	default:
		r.missing(at, "no action", "route or direct_response")
	}
	return out
}

func (r *reader) match(at *path, m *routev3.RouteMatch, out *config.Route) {
	switch s := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		out.Path, out.PathMatch = s.Prefix, config.PathPrefix
	case *routev3.RouteMatch_Path:
		out.Path, out.PathMatch = s.Path, config.PathExact
	case *routev3.RouteMatch_ConnectMatcher_:
		out.PathMatch = config.PathConnect
	case *routev3.RouteMatch_PathSeparatedPrefix:
		out.Path, out.PathMatch = s.PathSeparatedPrefix, config.PathSeparatedPrefix
	default:
		r.missing(at, "no path", "prefix, path, path_separated_prefix or connect_matcher")
	}
	if strings.ContainsAny(out.Path, "?#") {
		r.wrong(at, clip(out.Path), "a path without query and fragment")
	}
	out.CaseInsensitive = m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue()
	out.Headers = r.headerMatches(at, "headers", m.GetHeaders())
}

// headerMatches reads the comparisons of headers that stand in the list field of at.
func (r *reader) headerMatches(at *path, field string, all []*routev3.HeaderMatcher) []config.HeaderMatch {
	var out []config.HeaderMatch
	for i, h := range all {
		p := at.at(field, i)
		match := config.HeaderMatch{Name: intern(strings.ToLower(h.GetName())), Invert: h.GetInvertMatch()}
		switch s := h.GetHeaderMatchSpecifier().(type) {
		case nil: // nothing to compare: the header is to be there
			match.Present = true
		case *routev3.HeaderMatcher_PresentMatch:
			match.Present = true
			match.Invert = match.Invert == s.PresentMatch
		case *routev3.HeaderMatcher_ExactMatch:
			//lint:ignore SA1019 it is still sent
			match.Exact = s.ExactMatch
		case *routev3.HeaderMatcher_StringMatch:
			match.Exact = s.StringMatch.GetExact()
			if s.StringMatch.GetMatchPattern() == nil {
				r.missing(p.field("string_match"), "no pattern", "exact")
			}
		default:
			r.missing(p, "another comparison", "string_match.exact, exact_match or present_match")
		}
		out = append(out, match)
	}
	return out
}

func (r *reader) action(at *path, m *routev3.RouteAction, out *config.Route, retry config.Retry) {
	out.Timeout = r.duration(at.field("timeout"), m.GetTimeout(), defaultRouteTimeout)
	out.IdleTimeout = r.duration(at.field("idle_timeout"), m.GetIdleTimeout(), 0)
	if m.GetIdleTimeout() != nil && out.IdleTimeout == 0 {
		r.wrong(at.field("idle_timeout"), "0s", "more than 0s, or nothing")
	}
	r.maxStreamDuration(at.field("max_stream_duration"), m.GetMaxStreamDuration(), out)
	out.Hash = r.hashPolicies(at, m.GetHashPolicy())
	r.routeUpgrades(at, m.GetUpgradeConfigs(), out)
	out.Retry = retry
	if m.GetRetryPolicy() != nil {
		out.Retry = r.retry(at.field("retry_policy"), m.GetRetryPolicy())
	}
	switch s := m.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		out.Clusters = []config.WeightedCluster{{Name: intern(s.Cluster), Weight: 1, Labels: labels(m.GetMetadataMatch())}}
	case *routev3.RouteAction_WeightedClusters:
		var sum uint64
		for _, c := range s.WeightedClusters.GetClusters() {
			sum += uint64(c.GetWeight().GetValue())
			if c.GetWeight().GetValue() > 0 {
				out.Clusters = append(out.Clusters, config.WeightedCluster{
					Name: intern(c.GetName()), Weight: c.GetWeight().GetValue(), Labels: labels(m.GetMetadataMatch(), c.GetMetadataMatch()),
				})
			}
		}
		p := at.field("weighted_clusters")
		if sum == 0 || sum > math.MaxUint32 {
			r.wrong(p, sum, "a sum of weights from 1 to 4294967295")
		}
		//lint:ignore SA1019 it is still sent
		if total := s.WeightedClusters.GetTotalWeight(); total != nil && uint64(total.GetValue()) != sum {
			r.wrong(p.field("total_weight"), total.GetValue(), "the sum of the weights or nothing")
		}
	default:
		r.missing(at, "no cluster", "cluster or weighted_clusters")
	}
}
