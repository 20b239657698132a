package zookeeper

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/registry"
)

// show is an entry in one line, as far as it is said.
func show(e *registry.Entry) string {
	if e == nil {
		return ""
	}
	text := e.Service
	p := e.Endpoint
	if p == nil {
		return text + " without endpoint"
	}
	text += fmt.Sprintf(" id=%q %s", p.ID, p.Addr)
	for i, port := range p.Ports {
		text += fmt.Sprintf(" %s:%d", e.Ports[i].Name+"/"+string(e.Ports[i].Protocol), port.Number)
	}
	if p.Weight != 1 {
		text += fmt.Sprintf(" weight=%d", p.Weight)
	}
	if p.Health != registry.Unknown {
		text += " " + p.Health.String()
	}
	if l := p.Locality; l != (registry.Locality{}) {
		text += fmt.Sprintf(" at=%s/%s/%s", l.Region, l.Zone, l.SubZone)
	}
	for _, k := range slices.Sorted(maps.Keys(p.Labels)) {
		text += fmt.Sprintf(" %s=%q", k, p.Labels[k])
	}
	return text
}

// What Curator's JsonInstanceSerializer, Spring Cloud, Nerve, Finagle and Dubbo write, and what may be in their place.
func TestDecode(t *testing.T) {
	const curatorHead = `{"name":"web","id":"8a6d","address":"10.0.0.1",`
	dubboURL := func(u string) string { return "com.acme.Orders/providers/" + url.QueryEscape(u) }
	for _, test := range []struct {
		name, layout, at, data string
		want, err              string // an entry and an error: a part is not used
	}{
		{
			"curator without payload", layoutCurator, "web/8a6d",
			curatorHead + `"port":8080,"sslPort":null,"payload":null,"registrationTimeUTC":1700000000000,"serviceType":"DYNAMIC","uriSpec":null,"enabled":true}`,
			`web id="8a6d" 10.0.0.1 /:8080`, "",
		},
		{
			"curator with an object of a class and a uriSpec", layoutCurator, "web/8a6d",
			curatorHead + `"port":8080,"sslPort":8443,"payload":{"@class":"com.acme.Details","version":"v2","weight":7,"canary":true,"zone":"b","tags":["x"],"none":null,"protocol":"HTTP"},"serviceType":"PERMANENT","uriSpec":{"parts":[{"value":"scheme","variable":true},{"value":"://","variable":false}]}}`,
			`web id="8a6d" 10.0.0.1 /http:8080 ssl/tls:8443 weight=7 at=/b/ canary="true" protocol="HTTP" version="v2" weight="7" zone="b"`, "",
		},
		{"curator with a string", layoutCurator, "web/8a6d", curatorHead + `"port":80,"payload":"blue"}`, `web id="8a6d" 10.0.0.1 /:80 payload="blue"`, ""},
		{"curator with a typed scalar", layoutCurator, "web/8a6d", curatorHead + `"port":80,"payload":["java.lang.Long",5]}`, `web id="8a6d" 10.0.0.1 /:80 payload="5"`, ""},
		{"curator with a typed list", layoutCurator, "web/8a6d", curatorHead + `"port":80,"payload":["java.util.ArrayList",["a"]]}`, `web id="8a6d" 10.0.0.1 /:80`, ""},
		{
			"spring cloud", layoutCurator, "web/8a6d",
			curatorHead + `"port":8080,"payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"application-1","name":"web","metadata":{"@class":"java.util.HashMap","instance_status":"UP","weight":"3","protocol":"grpc"}},"serviceType":"DYNAMIC"}`,
			`web id="8a6d" 10.0.0.1 /grpc:8080 weight=3 instance_status="UP" protocol="grpc" weight="3"`, "",
		},
		{"curator, disabled", layoutCurator, "web/8a6d", curatorHead + `"port":80,"enabled":false}`, `web id="8a6d" 10.0.0.1 /:80 draining`, ""},
		{"curator, only TLS", layoutCurator, "web/8a6d", curatorHead + `"port":null,"sslPort":443}`, `web id="8a6d" 10.0.0.1 ssl/tls:443`, ""},
		{"curator, no port", layoutCurator, "web/8a6d", curatorHead + `"port":null}`, `web id="8a6d" 10.0.0.1`, ""},
		{"curator, an unknown protocol", layoutCurator, "web/8a6d", curatorHead + `"port":80,"payload":{"protocol":"thrift"}}`, `web id="8a6d" 10.0.0.1 /:80 protocol="thrift"`, `got protocol "thrift"`},
		{"curator, a weight that is none", layoutCurator, "web/8a6d", curatorHead + `"port":80,"payload":{"weight":"heavy"}}`, `web id="8a6d" 10.0.0.1 /:80 weight="heavy"`, `got weight "heavy"`},
		{"curator, weight 0", layoutCurator, "web/8a6d", curatorHead + `"port":80,"payload":{"weight":0}}`, `web id="8a6d" 10.0.0.1 /:80 draining weight="0"`, ""},
		{"curator, a host's name", layoutCurator, "web/8a6d", `{"address":"web-1.example.com","port":80}`, "", `got address "web-1.example.com", want an IP address: have the service register one`},
		{"curator, no address", layoutCurator, "web/8a6d", `{"port":80}`, "", "got no address"},
		{"curator, a port too large", layoutCurator, "web/8a6d", curatorHead + `"port":65536}`, "", "got port 65536"},
		{"curator, a port that is none", layoutCurator, "web/8a6d", curatorHead + `"port":{}}`, "", "whole number"},
		{"curator, no data", layoutCurator, "web/8a6d", ``, "", "got no data"},
		{"curator, no object", layoutCurator, "web/8a6d", `[1]`, "", `got "[1]"`},
		{"curator, cut off", layoutCurator, "web/8a6d", curatorHead, "", "unexpected end"},
		{"curator, mapped", layoutCurator, "web/8a6d", `{"address":"::ffff:10.0.0.1","port":80}`, `web id="8a6d" 10.0.0.1 /:80`, ""},

		{
			"nerve", layoutNerve, "web/services/i-1_0000000012",
			`{"host":"10.0.0.1","port":3000,"name":"i-1","weight":5,"haproxy_server_options":"backup","labels":{"az":"us-east-1a","region":"us-east-1","n":1}}`,
			`web id="10.0.0.1:3000" 10.0.0.1 /:3000 weight=5 at=us-east-1// az="us-east-1a" n="1" name="i-1" region="us-east-1"`, "",
		},
		{"nerve, port as text", layoutNerve, "web/i-1_0000000012", `{"host":"::1","port":"3000"}`, `web id="[::1]:3000" ::1 /:3000`, ""},
		{
			"nerve below a location", layoutNerve, "region:uswest1-prod/main.web/h_0000000001", `{"host":"10.0.0.1","port":3000}`,
			`main.web id="10.0.0.1:3000" 10.0.0.1 /:3000 at=uswest1-prod// region="uswest1-prod"`, "",
		},
		{"nerve, a longer path", layoutNerve, "shop/web/services/h_0000000001", `{"host":"10.0.0.1","port":3000}`, `shop/web id="10.0.0.1:3000" 10.0.0.1 /:3000`, ""},
		{
			// {"host":"127.0.0.1","port":"3000","labels":{"region":"us-east-1","az":"us-east-1a"}}
			"nerve, path-encoded", layoutNerve,
			"web/base64_112_eyJob3N0IjoiMTI3LjAuMC4xIiwicG9ydCI6IjMwMDAiLCJsYWJlbHMiOnsicmVnaW9uIjoidXMtZWFzdC0xIiwiYXoiOiJ1cy1lYXN0LTFhIn19_0000000003",
			"", `web id="127.0.0.1:3000" 127.0.0.1 /:3000 at=us-east-1// az="us-east-1a" region="us-east-1"`, "",
		},
		{"nerve, path-encoded and wrong", layoutNerve, "web/base64_999_eyJob_0000000003", "", "", "got another name"},
		{"nerve, path-encoded junk", layoutNerve, "web/base64_4_!!!!_0000000003", "", "", "decode name"},
		{"nerve, no port", layoutNerve, "web/h_0000000003", `{"host":"10.0.0.1"}`, "", "want both"},
		{"nerve, only a location", layoutNerve, "region:x/h_0000000003", `{"host":"10.0.0.1","port":1}`, "", "no service's name"},

		{
			"serverset", layoutServerset, "www-data/prod/hello/member_0000000000",
			`{"status":"ALIVE","additionalEndpoints":{"aurora":{"host":"10.0.0.1","port":31943},"http":{"host":"10.0.0.1","port":31944}},"serviceEndpoint":{"host":"10.0.0.1","port":31943},"shard":0}`,
			`www-data/prod/hello id="10.0.0.1:31943" 10.0.0.1 /:31943 aurora/:31943 http/:31944 shard="0"`, "",
		},
		{"serverset, dead", layoutServerset, "hello/member_0000000000", `{"status":"DEAD","serviceEndpoint":{"host":"10.0.0.1","port":1}}`, `hello id="10.0.0.1:1" 10.0.0.1 /:1 unhealthy`, ""},
		{"serverset, stopping", layoutServerset, "hello/member_0000000000", `{"status":"STOPPING","serviceEndpoint":{"host":"10.0.0.1","port":1}}`, `hello id="10.0.0.1:1" 10.0.0.1 /:1 draining`, ""},
		{
			"serverset, another host", layoutServerset, "hello/member_0000000000",
			`{"status":"ALIVE","additionalEndpoints":{"admin":{"host":"10.0.0.9","port":2}},"serviceEndpoint":{"host":"10.0.0.1","port":1}}`,
			`hello id="10.0.0.1:1" 10.0.0.1 /:1`, `additional endpoint "admin" is at "10.0.0.9"`,
		},
		{"serverset, a status of its own", layoutServerset, "hello/member_0000000000", `{"status":"x","serviceEndpoint":{"host":"10.0.0.1","port":1}}`, `hello id="10.0.0.1:1" 10.0.0.1 /:1 unhealthy`, `got status "x"`},
		{"serverset, another layout's", layoutServerset, "hello/member_0000000000", `{"host":"10.0.0.1","port":1}`, "", "no serviceEndpoint"},

		{
			"dubbo", layoutDubbo,
			dubboURL("dubbo://10.0.0.1:20880/com.acme.Orders?anyhost=true&application=shop&dubbo=2.0.2&group=blue&interface=com.acme.Orders&methods=a,b&pid=7&side=provider&timestamp=1700000000000&version=1.2.0&weight=200"), "",
			`com.acme.Orders id="10.0.0.1:20880 group=blue version=1.2.0" 10.0.0.1 /tcp:20880 weight=200 application="shop" group="blue" version="1.2.0"`, "",
		},
		{"dubbo 3", layoutDubbo, dubboURL("tri://10.0.0.1:50051/com.acme.Orders?application=shop"), "", `com.acme.Orders id="10.0.0.1:50051" 10.0.0.1 /grpc:50051 weight=100 application="shop"`, ""},
		{"dubbo, rest and disabled", layoutDubbo, dubboURL("rest://10.0.0.1:80/x?disabled=true"), "", `com.acme.Orders id="10.0.0.1:80" 10.0.0.1 /http:80 weight=100 draining`, ""},
		{"dubbo, empty", layoutDubbo, dubboURL("empty://10.0.0.1/com.acme.Orders?category=providers"), "", `com.acme.Orders without endpoint`, ""},
		{"dubbo, no port", layoutDubbo, dubboURL("dubbo://10.0.0.1/com.acme.Orders"), "", "", "got port"},
		{"dubbo, a host's name", layoutDubbo, dubboURL("dubbo://shop-1:20880/com.acme.Orders"), "", "", "DUBBO_IP_TO_REGISTRY"},
		{"dubbo, no URL", layoutDubbo, "com.acme.Orders/providers/junk", "", "", "want the URL of a provider"},
		{"dubbo, a bad escape", layoutDubbo, "com.acme.Orders/providers/%zz", "", "", "decode name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			at := strings.Split(test.at, "/")
			if got := layoutNamed(test.layout).place(at); got != instance && got != named {
				t.Errorf("place %d, want an instance", got)
			}
			e, err := layoutNamed(test.layout).decode(at, []byte(test.data))
			if d := cmp.Diff(test.want, show(e)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got error %v, want one with %q", err, test.err)
			}
		})
	}
}

func TestPlace(t *testing.T) {
	deep := strings.Repeat("a/", maxDepth) + "b"
	for layout, want := range map[string]map[string]place{
		layoutCurator:   {"web": directory, "web/1": instance, "web/1/lock": ignored},
		layoutNerve:     {"web": directory, "web/services": directory, "web_0000000001": directory, "web/a_0000000001": instance, "web/a_": instance, "web/a_-2147483648": instance, "web/base64_4_eyJ9_": named, deep: ignored},
		layoutServerset: {"role/env/job": directory, "role/env/job/member_0000000001": instance},
		layoutDubbo: {
			"com.acme.Orders": directory, "com.acme.Orders/providers": directory, "com.acme.Orders/providers/x": named,
			"com.acme.Orders/consumers": ignored, "com.acme.Orders/consumers/x": ignored, "config": ignored, "metadata": ignored,
		},
	} {
		for at, want := range want {
			if got := layoutNamed(layout).place(strings.Split(at, "/")); got != want {
				t.Errorf("%s: %s is place %d, want %d", layout, at, got, want)
			}
		}
	}
}

func TestBounds(t *testing.T) {
	var fields []string
	for i := range 3 * maxLabels {
		fields = append(fields, fmt.Sprintf(`"k%03d":"v"`, i))
	}
	for name, test := range map[string]struct{ payload, want string }{
		"many labels": {"{" + strings.Join(fields, ",") + "}", "128 labels are left out"},
		"long value":  {`{"k":"` + strings.Repeat("v", maxLabelValue+1) + `"}`, "1 labels are left out"},
		"long key":    {`{"` + strings.Repeat("k", maxLabelKey+1) + `":"v"}`, "1 labels are left out"},
	} {
		e, err := curator{}.decode([]string{"web", "1"}, []byte(`{"address":"10.0.0.1","payload":`+test.payload+`}`))
		if e == nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v: want an entry and %q", name, e, err, test.want)
		} else if len(e.Endpoint.Labels) > maxLabels {
			t.Errorf("%s: %d labels", name, len(e.Endpoint.Labels))
		}
	}
	var more []string
	for i := range maxPorts + 1 {
		more = append(more, fmt.Sprintf(`"p%d":{"host":"10.0.0.1","port":1}`, i))
	}
	if e, err := (serverset{}).decode([]string{"web", "m_"}, []byte(`{"serviceEndpoint":{"host":"10.0.0.1","port":1},"additionalEndpoints":{`+strings.Join(more, ",")+`}}`)); e != nil || err == nil {
		t.Errorf("too many ports: %v, %v", e, err)
	}
}

func TestLooksLike(t *testing.T) {
	for _, test := range []struct{ at, data, want string }{
		{"web/1", `{"name":"web","id":"1","address":"10.0.0.1"}`, layoutCurator},
		{"web/1", `{"host":"10.0.0.1","port":1}`, layoutNerve},
		{"web/1", `{"serviceEndpoint":{}}`, layoutServerset},
		{"com.acme.Orders/providers", "", layoutDubbo},
		{"providers", "", ""}, // a service's name
		{"consumers/1", `{"name":"consumers","id":"1","address":"10.0.0.1"}`, layoutCurator},
		{"team/shop/routers", "", ""},
		{"a/b/dubbo%3A%2F%2F10.0.0.1", "", layoutDubbo},
		{"web/1", "junk", ""},
	} {
		if got := looksLike(strings.Split(test.at, "/"), []byte(test.data)); got != test.want {
			t.Errorf("%s with %s looks like %q, want %q", test.at, test.data, got, test.want)
		}
	}
}

// fuzzLayout holds what every decoder promises: an entry that a View may hold, or a reason.
func fuzzLayout(f *testing.F, layout string, prefix ...string) {
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		at := append(slices.Clone(prefix), name)
		e, err := layoutNamed(layout).decode(at, data)
		if e == nil && err == nil {
			t.Fatal("neither an entry nor a reason")
		}
		_ = looksLike(at, data)
		if e == nil {
			return
		}
		if e.Endpoint != nil && (len(e.Endpoint.Labels) > maxLabels || len(e.Ports) > maxPorts) {
			t.Fatalf("%d labels, %d ports", len(e.Endpoint.Labels), len(e.Ports))
		}
		a := registry.NewAssembly()
		a.Set("k", *e)
		if err := a.View().Validate(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzCurator(f *testing.F) {
	f.Add("1", []byte(`{"address":"10.0.0.1","port":80,"sslPort":"443","payload":{"@class":"x.ZookeeperInstance","metadata":{"weight":"1e9"}},"enabled":false}`))
	f.Add("1", []byte(`{"address":"10.0.0.1","payload":["java.lang.String","x"]}`))
	fuzzLayout(f, layoutCurator, "web")
}

func FuzzNerve(f *testing.F) {
	f.Add("i_0000000001", []byte(`{"host":"10.0.0.1","port":"80","weight":0,"labels":{"a":1,"b":{}}}`))
	f.Add("base64_40_eyJob3N0IjoiMTI3LjAuMC4xIiwicG9ydCI6MX0=_0000000001", []byte{})
	fuzzLayout(f, layoutNerve, "region:a", "web", "services")
}

func FuzzServerset(f *testing.F) {
	f.Add("member_0000000001", []byte(`{"serviceEndpoint":{"host":"10.0.0.1","port":1},"additionalEndpoints":{"http":{"host":"10.0.0.1","port":2},"":{}},"status":"DEAD","shard":1}`))
	fuzzLayout(f, layoutServerset, "role", "env", "job")
}

func FuzzDubbo(f *testing.F) {
	f.Add("dubbo%3A%2F%2F10.0.0.1%3A20880%2Fcom.acme.Orders%3Fversion%3D1%26weight%3D0", []byte{})
	f.Add("empty%3A%2F%2F10.0.0.1", []byte{})
	fuzzLayout(f, layoutDubbo, "com.acme.Orders", "providers")
}
