package xds

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestResourcesRefused: whatever is not done is named by its path, and so is what is wrong.
func TestResourcesRefused(t *testing.T) {
	const chain = "filter_chains[0].filters[0].typed_config."
	hcm := func(line string) string {
		return strings.Replace(hcmYAML, "stat_prefix: s", "stat_prefix: s\n      "+line, 1)
	}
	route := func(inner string) string {
		return "name: x\nvirtual_hosts: [{name: v, domains: [a], routes: [" + inner + "]}]"
	}
	endpoint := func(inner string) string { return "cluster_name: x\nendpoints: [{lb_endpoints: [" + inner + "]}]" }
	const eds = "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}\n"
	const log = chain + "access_log[0]."
	logs := func(filter, format string) string {
		return hcm(`access_log: [{name: f, ` + filter + `typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: {` + format + `}}}]`)
	}
	tcp := func(fields string) string {
		return "name: x\naddress: {socket_address: {address: 127.0.0.1, port_value: 80}}\nfilter_chains: [{filters: [{name: t, typed_config: {" +
			`"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c, ` + fields + "}}]}]"
	}
	const first = "virtual_hosts[0].routes[0]."
	for _, c := range []struct {
		name string
		k    kind
		text string
		want []string
	}{
		{"name of a port", listeners, hcmYAML + "metadata: {filter_metadata: {hostmesh.ports: {\"80\": http}}}\n", []string{`metadata.filter_metadata.hostmesh.ports: got "80": "http", want a port's number with a name such as "_http._tcp"`}},
		{"number of a port", listeners, hcmYAML + "metadata: {filter_metadata: {hostmesh.ports: {\"65536\": _http._tcp}}}\n", []string{`metadata.filter_metadata.hostmesh.ports: got "65536": "_http._tcp", want`}},
		{"name of a port below others", listeners, hcmYAML + "metadata: {filter_metadata: {hostmesh.ports: {\"80\": _x._tcp.web}}}\n", []string{`hostmesh.ports: got "80": "_x._tcp.web", want`}},
		{"listener field", listeners, hcmYAML + "tcp_backlog_size: 7\n", []string{"tcp_backlog_size: got 7, want it unset"}},
		{"no attempt to connect", listeners, tcp("max_connect_attempts: 0"), []string{"invalid TcpProxy.MaxConnectAttempts: value must be greater than or equal to 1"}},
		{"too many attempts to connect", listeners, tcp("max_connect_attempts: 101"), []string{chain + "max_connect_attempts: got 101, want at most 100"}},
		{"a name for statistics", clusters, "name: x\ntype: STATIC\nalt_stat_name: y\n", []string{"alt_stat_name: got y, want it unset"}},
		{"no time for endpoints", clusters, "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}, initial_fetch_timeout: -1s}}\n", []string{"eds_cluster_config.eds_config.initial_fetch_timeout: got -1s, want a duration of at least 0s"}},
		{"listener filter", listeners, hcmYAML + "listener_filters: [{name: tls}]\n", []string{"listener_filters[0]: got tls without a typed_config, want envoy.filters.listener.original_dst, proxy_protocol, tls_inspector or http_inspector"}},
		{"listener TLS", listeners, strings.Replace(hcmYAML, "- filters:", "- transport_socket: {name: tls}\n  filters:", 1), []string{"filter_chains[0].transport_socket: got tls without a typed_config, want envoy.transport_sockets.tls"}},
		{"pipe", listeners, strings.Replace(hcmYAML, "{socket_address: {address: 127.0.0.1, port_value: 80}}", "{pipe: {path: x}}", 1), []string{`address.pipe.path: got "x", want an absolute path`}},
		{"long pipe", listeners, strings.Replace(hcmYAML, "{socket_address: {address: 127.0.0.1, port_value: 80}}", "{pipe: {path: /"+strings.Repeat("x", 107)+"}}", 1), []string{"address.pipe.path: got", "want a path of at most 107 bytes"}},
		{"pipe twice", listeners, strings.Replace(hcmYAML, "{socket_address: {address: 127.0.0.1, port_value: 80}}", "{pipe: {path: /x}}\nadditional_addresses: [{address: {pipe: {path: /x}}}]", 1), []string{"additional_addresses[0].address.pipe.path: got /x, want each address once"}},
		{"mode of an abstract pipe", listeners, strings.Replace(hcmYAML, "{socket_address: {address: 127.0.0.1, port_value: 80}}", "{pipe: {path: '@x', mode: 384}}", 1), []string{"address.pipe.mode: got 384, want it unset"}},
		{"pipe's mode", listeners, strings.Replace(hcmYAML, "{socket_address: {address: 127.0.0.1, port_value: 80}}", "{pipe: {path: /x, mode: 512}}", 1), []string{"invalid Pipe.Mode"}},
		{"host name", listeners, strings.Replace(hcmYAML, "127.0.0.1", "localhost", 1), []string{"address.socket_address.address: got localhost, want an IP address"}},
		{"another name", listeners, strings.Replace(hcmYAML, "name: x", "name: y", 1), []string{"name: got y, want the resource's name x"}},
		{"no chain", listeners, "name: x\naddress: {socket_address: {address: 127.0.0.1, port_value: 80}}", []string{"filter_chains: got 0, want at least one"}},
		{"network filter", listeners, strings.Replace(hcmYAML, "typed_config:\n      \"@type\"", "config_discovery: {config_source: {ads: {}}, type_urls: [a]}\n  - name: b\n    typed_config:\n      \"@type\"", 1), []string{"filter_chains[0].filters[0].config_discovery"}},
		{"hcm fields", listeners, hcm("tracing: {}\n      normalize_path: false\n      max_request_headers_kb: 61"), []string{chain + "tracing: got", chain + "normalize_path: got false", chain + "max_request_headers_kb: got 61, want at most 60"}},
		{"codec", listeners, hcm("codec_type: HTTP3"), []string{chain + "codec_type: got HTTP3, want AUTO, HTTP1 or HTTP2"}},
		{"connect-udp", listeners, hcm("upgrade_configs: [{upgrade_type: CONNECT-UDP}, {upgrade_type: \"a,b\"}]"), []string{chain + "upgrade_configs[0].upgrade_type: got CONNECT-UDP", chain + "upgrade_configs[1].upgrade_type: got a,b"}},
		{"upgrade filters", listeners, hcm("upgrade_configs: [{upgrade_type: CONNECT, filters: [{name: a}]}]"), []string{chain + "upgrade_configs[0].filters: got a value"}},
		{"http filter", listeners, strings.Replace(hcmYAML, "http_filters: [", "http_filters: [{name: lua}, ", 1), []string{chain + "http_filters[0]: got lua without a typed_config, want envoy.filters.http.router", chain + "http_filters: got 2, want exactly one"}},
		{"rds elsewhere", listeners, strings.Replace(hcmYAML, "{ads: {}}", "{path_config_source: {path: /x}}", 1), []string{chain + "rds.config_source.path_config_source"}},
		{"log operator", listeners, logs("", "text_format_source: {inline_string: 'a %DYNAMIC_METADATA(a)%'}"), []string{log + "typed_config.log_format.text_format_source: got the command operator %DYNAMIC_METADATA%"}},
		{"log JSON", listeners, logs("", "json_format: {a: {b: '%REQ%'}}"), []string{log + "typed_config.log_format.json_format: \"a\": \"b\": got %REQ()%"}},
		{"log fields", listeners, logs("", "json_format: {a: b}, content_type: a, formatters: [{name: a, typed_config: {\"@type\": type.googleapis.com/envoy.config.core.v3.Pipe, path: a}}]"), []string{log + "typed_config.log_format.content_type: got a", log + "typed_config.log_format.formatters"}},
		{"log file", listeners, logs("", "text_format_source: {filename: /a}"), []string{log + "typed_config.log_format.text_format_source.filename: got /a"}},
		{"log filter", listeners, logs("filter: {traceable_filter: {}}, ", "json_format: {a: b}"), []string{log + "filter.traceable_filter: got a value"}},
		{"log filter in filters", listeners, logs("filter: {and_filter: {filters: [{not_health_check_filter: {}}, {metadata_filter: {}}]}}, ", "json_format: {a: b}"), []string{log + "filter.and_filter.filters[1].metadata_filter"}},
		{"log header", listeners, logs("filter: {header_filter: {header: {name: a, range_match: {start: 1, end: 2}}}}, ", "json_format: {a: b}"), []string{log + "filter.header_filter.header"}},
		{"log header name", listeners, logs("filter: {header_filter: {header: {name: ':b', present_match: true}}}, ", "json_format: {a: b}"), []string{log + "filter: got the field name \":b\""}},

		{"route action", routeTables, route("{match: {prefix: /}, redirect: {}}"), []string{first + "redirect: got a value"}},
		{"route match", routeTables, route("{match: {safe_regex: {regex: a}}, route: {cluster: c}}"), []string{first + "match.safe_regex"}},
		{"regex header", routeTables, route("{match: {prefix: /, headers: [{name: a, string_match: {prefix: b}}]}, route: {cluster: c}}"), []string{first + "match.headers[0].string_match.prefix: got b, want it unset"}},
		{"route upgrades", routeTables, route("{match: {connect_matcher: {}}, route: {cluster: c, upgrade_configs: [{upgrade_type: connect-udp}, {upgrade_type: CONNECT}, {upgrade_type: connect}, {upgrade_type: websocket, connect_config: {}}]}}"), []string{
			first + "route.upgrade_configs[0].upgrade_type: got connect-udp", first + "route.upgrade_configs[2].upgrade_type: got connect, want each upgrade once",
			first + "route.upgrade_configs[3].connect_config: got it with websocket, want it with CONNECT only",
		}},
		{"connect_config", routeTables, route("{match: {connect_matcher: {}}, route: {cluster: c, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {proxy_protocol_config: {}, allow_post: true}}]}}"), []string{
			first + "route.upgrade_configs[0].connect_config.proxy_protocol_config: got a value, want it unset", first + "route.upgrade_configs[0].connect_config.allow_post: got true, want it unset",
		}},
		{"rewrite", routeTables, route("{match: {prefix: /}, route: {cluster: c, prefix_rewrite: /b, hash_policy: [{filter_state: {key: k}}]}}"), []string{first + "route.prefix_rewrite: got /b", first + "route.hash_policy[0].filter_state"}},
		{"hedging of a route", routeTables, route("{match: {prefix: /}, route: {cluster: c, hedge_policy: {hedge_on_per_try_timeout: true}}}"), []string{first + "route.hedge_policy: got a value, want it unset"}},
		{"hedging of a virtual host", routeTables, "name: x\nvirtual_hosts: [{name: v, domains: [a], hedge_policy: {initial_requests: 2}}]", []string{"virtual_hosts[0].hedge_policy: got a value, want it unset"}},
		{"retry name", routeTables, route("{match: {prefix: /}, route: {cluster: c, retry_policy: {retry_on: \"5xx,often\"}}}"), []string{first + "route.retry_policy.retry_on: got often, want connect-failure"}},
		{"weights", routeTables, route("{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}}"), []string{first + "route.weighted_clusters: got 0, want a sum"}},
		{"domain twice", routeTables, "name: x\nvirtual_hosts: [{name: v, domains: [a]}, {name: w, domains: [A]}]", []string{"virtual_hosts[1].domains[0]: got a, want each domain once; virtual host v has it"}},
		{"domain stars", routeTables, "name: x\nvirtual_hosts: [{name: v, domains: [\"a*b\", \"*.*\"]}]", []string{"domains[0]: got a*b, want at most one *", "domains[1]: got *.*"}},
		{"big body", routeTables, route("{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: \"" + strings.Repeat("x", 4097) + "\"}}}"), []string{first + "direct_response.body: got 4097"}},
		{"body file", routeTables, route("{match: {prefix: /}, direct_response: {status: 200, body: {filename: /etc/passwd}}}"), []string{first + "direct_response.body.filename: got /etc/passwd, want it unset"}},

		{"cluster type", clusters, "name: x\ncluster_type: {name: redis}", []string{"cluster_type: got redis without a typed_config"}},
		{"cluster policy", clusters, eds + "lb_policy: CLUSTER_PROVIDED", []string{"lb_policy: got CLUSTER_PROVIDED, want another policy, or type ORIGINAL_DST"}},
		{"cluster fields", clusters, eds + "track_cluster_stats: {}\ntransport_socket: {name: tls}", []string{"track_cluster_stats: got a value", "transport_socket: got tls without a typed_config"}},
		{"http3", clusters, eds + "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http3_protocol_options: {}}}}", []string{"explicit_http_config.http3_protocol_options: got a value"}},
		{"breaker", clusters, eds + "circuit_breakers: {thresholds: [{priority: HIGH}, {max_requests: 0}]}", []string{"thresholds[0].priority: got HIGH", "thresholds[1].max_requests: got 0, want at least 1"}},
		{"eds nowhere", clusters, "name: x\ntype: EDS", []string{"eds_cluster_config.eds_config: got another source, want ads"}},
		{"no action", routeTables, route("{match: {prefix: /}, non_forwarding_action: {}}"), []string{first + "non_forwarding_action: got a value"}},
		{"both an unknown field and a wrong value", clusters, "name: x\ntype: ORIGINAL_DST\nuse_tcp_for_dns_lookups: true", []string{"use_tcp_for_dns_lookups: got true", "lb_policy: got ROUND_ROBIN, want CLUSTER_PROVIDED with type ORIGINAL_DST"}},
		{"eds elsewhere", clusters, "name: x\ntype: EDS\neds_cluster_config: {eds_config: {self: {}}}", []string{"eds_cluster_config.eds_config.self: got a value"}},
		{"rule of the API", clusters, "name: \"\"\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}", []string{"invalid Cluster.Name"}},

		{"endpoint without an address", endpoints, endpoint("{endpoint: {address: {}}}"), []string{"invalid Address.Address"}},
		{"endpoint on a relative path", endpoints, endpoint("{endpoint: {address: {pipe: {path: x}}}}"), []string{`endpoints[0].lb_endpoints[0].endpoint.address.pipe.path: got "x", want an absolute path`}},
		{"endpoint on a path that is too long", endpoints, endpoint("{endpoint: {address: {pipe: {path: /" + strings.Repeat("x", 107) + "}}}}"), []string{"endpoint.address.pipe.path: got", "want a path of at most 107 bytes"}},
		{"endpoint on a path with a 0", endpoints, endpoint(`{endpoint: {address: {pipe: {path: "/x\0y"}}}}`), []string{"endpoint.address.pipe.path: got", "want an absolute path"}},
		{"endpoint on a name without a name", endpoints, endpoint("{endpoint: {address: {pipe: {path: '@'}}}}"), []string{`endpoint.address.pipe.path: got "@", want`}},
		{"endpoint on a path with a mode", endpoints, endpoint("{endpoint: {address: {pipe: {path: /x, mode: 384}}}}"), []string{"endpoint.address.pipe.mode: got 384, want it unset"}},
		{"endpoint on a path with no mode that there is", endpoints, endpoint("{endpoint: {address: {pipe: {path: /x, mode: 512}}}}"), []string{"invalid Pipe.Mode"}},
		{"static endpoint on a relative path", clusters, "name: x\ntype: STATIC\nload_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: x}}}}]}]}", []string{`load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe.path: got "x"`}},
		{"endpoint name", endpoints, endpoint("{endpoint: {address: {socket_address: {address: web, port_value: 1}}}}"), []string{"address: got web, want an IP address"}},
		{"endpoint port 0", endpoints, endpoint("{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 0}}}}"), []string{"got 10.0.0.1:0, want an address and port that can be dialled"}},
		{"endpoint fields", endpoints, endpoint("{endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 1}}, health_check_config: {port_value: 1}}}") + "\npolicy: {drop_overloads: [{category: a}]}", []string{"endpoint.health_check_config", "policy.drop_overloads"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := decoded(t, c.k, c.text)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want it to contain %q", err, want)
				}
			}
		})
	}
}

func TestUnknownFieldNumberIsRefused(t *testing.T) {
	raw, err := proto.Marshal(fromYAML(t, new(clusterv3.Cluster), "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}"))
	if err != nil {
		t.Fatal(err)
	}
	raw = protowire.AppendVarint(protowire.AppendTag(raw, 9999, protowire.VarintType), 1)
	if _, err := decodedRaw(clusters, "x", raw); err == nil || !strings.Contains(err.Error(), "a field that this version does not know") {
		t.Errorf("got %v, want the unknown field refused", err)
	}
}

// FuzzResource: any bytes make a value or an error, and what was accepted is safe to use.
func FuzzResource(f *testing.F) {
	for k, text := range map[kind]string{
		listeners: hcmYAML, clusters: "name: x\ntype: EDS\neds_cluster_config: {eds_config: {ads: {}}}",
	} {
		f.Add(int(k), mustWire(f, k, text))
	}
	f.Add(int(clusters), mustWire(f, clusters, healthEDS+"health_checks: [{timeout: 1s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 3, http_health_check: {path: /}}]\noutlier_detection: {}"))
	f.Add(int(listeners), mustWire(f, listeners, tlsListener("alpn_protocols: [h2], tls_params: {ecdh_curves: [X25519]}, ", "trusted_ca: {filename: /ca}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {safe_regex: {regex: a}}}]", "session_ticket_keys: {keys: [{filename: /k}]}, ")))
	f.Add(int(listeners), mustWire(f, listeners, chainsYAML("filter_chain_match: {server_names: ['*.a', b], prefix_ranges: [{address_prefix: '::', prefix_len: 1}]}", "name: b")+"listener_filters: ["+tlsInspector+"}}, "+httpInspector+"}}]\n"))
	f.Add(int(clusters), mustWire(f, clusters, edsYAML+"http2_protocol_options: {}\ntransport_socket_matches: [{name: a, match: {b: c}, "+upstreamSocket("validation_context: {trusted_ca: {inline_string: x}}", "sni: a, ")+"}]"))
	f.Add(int(routeTables), routesNamed(f, "x", "1", "a").GetResource().GetValue())
	f.Add(int(routeTables), mustWire(f, routeTables, "name: x\nvirtual_hosts: [{name: v, domains: [a], routes: [{match: {connect_matcher: {}}, route: {cluster: c, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}]}]"))
	f.Add(int(endpoints), endpointsNamed(f, "x", "1", 80).GetResource().GetValue())
	f.Add(int(endpoints), mustWire(f, endpoints, "cluster_name: x\nendpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: /x}}}}, {endpoint: {address: {pipe: {path: '@x'}}}}]}]"))
	f.Fuzz(func(t *testing.T, n int, raw []byte) {
		k := kind(uint(n) % uint(kinds))
		got, err := decodedRaw(k, "x", raw)
		if err != nil {
			return
		}
		switch v := got.(type) {
		case *listener:
			whole := v.Whole()
			if len(v.Addresses) == 0 || len(whole.Chains) == 0 && whole.Otherwise == nil {
				t.Errorf("accepted %+v", v)
			}
			i := 0
			for c := range whole.Each() {
				if (c.HTTP == nil) == (c.TCP == nil) || c.HTTP != nil && v.routes[i] == "" && c.HTTP.Routes == nil || c.TLS != nil && (len(c.TLS.Certificates) == 0 || c.TLS.MinVersion < config.TLS12) {
					t.Errorf("accepted %+v", c)
				}
				i++
			}
		case *cluster:
			if v.ConnectTimeout <= 0 || v.eds == "" && !v.Assigned || v.TLS != nil && v.TLS.Verify == nil {
				t.Errorf("accepted %+v", v)
			}
		case assignment:
			for _, e := range v.endpoints {
				if path := e.Addr.Path; e.Weight == 0 || e.Addr.IP.IsValid() == (path != "") || len(path) > 107 || strings.ContainsRune(path, 0) {
					t.Errorf("accepted %+v", e)
				}
			}
		}
	})
}
