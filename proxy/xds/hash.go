package xds

import (
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// addHash goes after addRoute: it adds to what a RouteAction may have.
func (s schema) addHash(add func(protoreflect.FullName, string)) {
	const action = "envoy.config.route.v3.RouteAction"
	s[action]["hash_policy"] = true
	add(action+".HashPolicy", "header cookie connection_properties terminal")
	add(action+".HashPolicy.Header", "header_name")
	add(action+".HashPolicy.Cookie", "name")
	add(action+".HashPolicy.ConnectionProperties", "source_ip")
}

// hashPolicies reads what of a request chooses its host.
func (r *reader) hashPolicies(at *path, all []*routev3.RouteAction_HashPolicy) []config.HashPolicy {
	var out []config.HashPolicy
	for i, m := range all {
		p := at.at("hash_policy", i)
		policy := config.HashPolicy{Terminal: m.GetTerminal()}
		switch s := m.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			policy.Header = intern(strings.ToLower(s.Header.GetHeaderName()))
			switch policy.Header {
			case ":method", ":path", ":authority":
			case "x-forwarded-proto":
				r.wrong(p.field("header").field("header_name"), policy.Header, "a field that the proxy does not set itself")
			default:
				if strings.HasPrefix(policy.Header, ":") {
					r.wrong(p.field("header").field("header_name"), clip(policy.Header), "a field, :method, :path or :authority")
				}
			}
		case *routev3.RouteAction_HashPolicy_Cookie_:
			policy.Cookie = intern(s.Cookie.GetName())
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			if !s.ConnectionProperties.GetSourceIp() {
				r.wrong(p.field("connection_properties").field("source_ip"), false, "true")
			}
			policy.SourceIP = true
		default:
			r.missing(p, "no policy", "header, cookie or connection_properties")
		}
		out = append(out, policy)
	}
	return out
}
