package etcd

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/registry"
)

var compareAddrs = cmp.Comparer(func(x, y netip.Addr) bool { return x == y })

func config(layout string) Config {
	cfg := Config{Layout: layout}
	switch layout {
	case layoutGRPC:
		cfg.Prefix = "/services/"
	case layoutSkyDNS:
		cfg.Domain = "skydns.local"
	}
	return cfg.withDefaults()
}

// filled returns entries of these keys, without the root, and values.
func filled(cfg Config, keys map[string]string) *entries {
	e := newEntries(cfg)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		e.put(e.root+key, []byte(keys[key]))
	}
	return e
}

func TestLayouts(t *testing.T) {
	t.Parallel()
	full := &registry.Endpoint{
		ID: "web-1", Addr: netip.MustParseAddr("10.0.0.1"), Host: "h1", Weight: 7, Health: registry.Draining,
		Ports:    []registry.EndpointPort{{Name: "admin", Number: 9000}, {Name: "web", Number: 8080}},
		Locality: registry.Locality{Region: "eu", Zone: "eu-1", SubZone: "r7"}, Labels: map[string]string{"version": "v1"},
	}
	one := func(id, addr string, port uint16, labels map[string]string) *registry.Endpoint {
		e := &registry.Endpoint{ID: id, Addr: netip.MustParseAddr(addr), Labels: labels, Weight: 1}
		if port != 0 {
			e.Ports = []registry.EndpointPort{{Number: port}}
		}
		return e
	}
	service := func(namespace, name, original string, ports []registry.Port, endpoints ...*registry.Endpoint) *registry.Service {
		return &registry.Service{
			Name: registry.Name{Namespace: namespace, Name: name}, Original: original, Ports: ports, Endpoints: endpoints,
		}
	}
	weighted := one("10.0.0.2:1", "10.0.0.2", 50051, map[string]string{"zone": "a"})
	weighted.Weight = 3
	heavy := one("2", "10.0.0.2", 0, map[string]string{"priority": "10", "text": "hello"})
	heavy.Weight = 5
	for name, test := range map[string]struct {
		layout string
		keys   map[string]string
		want   []*registry.Service
	}{
		"hostmesh, everything": {layoutHostmesh, map[string]string{
			"shop/web/web-1": `{"address":"10.0.0.1","ports":[{"name":"web","port":8080,"protocol":"HTTP","servicePort":80},{"name":"admin","port":9000}],
				"protocol":"tcp","labels":{"version":"v1"},"weight":7,"health":"draining","locality":{"region":"eu","zone":"eu-1","subZone":"r7"},"host":"h1"}`,
		}, []*registry.Service{service("shop", "web", "", []registry.Port{{Name: "admin", Protocol: "tcp"}, {Name: "web", Number: 80, Protocol: "http"}}, full)}},
		"hostmesh, least": {layoutHostmesh, map[string]string{
			"web/1": `{"address":"::ffff:10.0.0.1","port":8080}`, "Web_2/1": ` {"address":"2001:db8::1","port":1,"servicePort":80,"mine":[1,{}],"protocol":"grpc"} `,
		}, []*registry.Service{
			service("default", "web", "", []registry.Port{{}}, one("1", "10.0.0.1", 8080, nil)),
			service("default", "web-2", "default/Web_2", []registry.Port{{Number: 80, Protocol: "grpc"}}, one("1", "2001:db8::1", 1, nil)),
		}},
		"grpc": {layoutGRPC, map[string]string{
			"web/10.0.0.1:50051":  `{"Op":0,"Addr":"10.0.0.1:50051","Metadata":null}`,
			"web/10.0.0.2:1":      `{"Op":0,"Addr":"10.0.0.2:50051","Metadata":{"zone":"a","weight":3,"more":{"a":1}}}`,
			"shop/api/694d8f1a2b": `{"Addr":"[2001:db8::1]:1","Metadata":"anything"}`,
		}, []*registry.Service{
			service("default", "shop-api", "default/shop/api", []registry.Port{{Protocol: "grpc"}}, one("694d8f1a2b", "2001:db8::1", 1, nil)),
			service("default", "web", "", []registry.Port{{Protocol: "grpc"}}, one("10.0.0.1:50051", "10.0.0.1", 50051, nil), weighted),
		}},
		"skydns": {layoutSkyDNS, map[string]string{
			"web/1": `{"host":"10.0.0.1","port":8080,"ttl":60}`, "web/2": `{"host":"10.0.0.2","priority":10,"weight":5,"text":"hello"}`,
			"east/api/1": `{"host":"2001:db8::1","port":1}`, "alone": `{"host":"10.0.0.3","port":2}`,
			"ext/3f1a2b4c": `{"host":"10.0.0.4","text":"\"heritage=external-dns\"","ttl":300,"targetstrip":1,"group":"g1"}`, // as external-dns writes
			"web/txt":      `{"text":"only text"}`, "web/mx": `{"host":"10.0.0.9","mail":true}`, "dns/ns/a": `{"host":"10.0.0.9"}`, "dns/apex/x": `{"host":"10.0.0.9"}`,
		}, []*registry.Service{
			service("default", "alone", "", []registry.Port{{}}, one("@", "10.0.0.3", 2, nil)),
			service("default", "api-east", "default/api.east", []registry.Port{{}}, one("1", "2001:db8::1", 1, nil)),
			service("default", "ext", "", nil, one("3f1a2b4c", "10.0.0.4", 0, map[string]string{"text": `"heritage=external-dns"`})),
			service("default", "web", "", []registry.Port{{}}, one("1", "10.0.0.1", 8080, nil), heavy),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			view := filled(config(test.layout), test.keys).view()
			if diff := cmp.Diff(test.want, view.Services, compareAddrs); diff != "" {
				t.Errorf("services (-want +got):\n%s", diff)
			}
			if len(view.Problems) > 0 {
				t.Errorf("problems: %v", view.Problems)
			}
			if err := view.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestProblems has each entry that cannot be read beside a good one.
func TestProblems(t *testing.T) {
	t.Parallel()
	const good = `{"address":"10.0.0.1","port":1}`
	many := strings.Repeat(`{"port":1},`, 70)
	labels := make([]string, 70)
	for i := range labels {
		labels[i] = fmt.Sprintf(`"k%d":""`, i)
	}
	for layout, keys := range map[string]map[string][2]string{ // key → value, a part of the reason
		layoutHostmesh: {
			"web":                               {good, "want <namespace>/<service>/<instance>"},
			"a/b/c/d":                           {good, "want <namespace>/<service>/<instance>"},
			"a//c":                              {good, "want <namespace>/<service>/<instance>"},
			"a/b/":                              {good, "want <namespace>/<service>/<instance>"},
			"a/___/1":                           {good, "want names with a letter or digit"},
			"a/b/\x00":                          {good, "want printable UTF-8"},
			"a/b/\xff":                          {good, "want printable UTF-8"},
			"long/" + strings.Repeat("x", 2000): {good, "got a key of 2024 bytes, want at most 1024"},
			"a/b/empty":                         {``, `got value "", want a JSON object`},
			"a/b/array":                         {`[]`, "want a JSON object"},
			"a/b/torn":                          {`{"address":`, "decode JSON: unexpected end"},
			"a/b/two":                           {good + good, "decode JSON: invalid character '{' after"},
			"a/b/huge":                          {`{"x":"` + strings.Repeat("x", 70000) + `"}`, "want at most 65536"},
			"a/b/deep":                          {`{"x":` + strings.Repeat("[", 20000), "decode JSON: "},
			"a/b/none":                          {`{"port":1}`, "got no address"},
			"a/b/name":                          {`{"address":"db.example","port":1}`, "use a registry of kind dns"},
			"a/b/zone":                          {`{"address":"fe80::1%eth0","port":1}`, "want an IP address"},
			"a/b/any":                           {`{"address":"0.0.0.0","port":1}`, "want one that leads to one host"},
			"a/b/portless":                      {`{"address":"10.0.0.1"}`, "want 1 to 65535"},
			"a/b/string":                        {`{"address":"10.0.0.1","port":"1"}`, "got port: string, want uint16"},
			"a/b/port":                          {`{"address":"10.0.0.1","port":65536}`, "got port: number 65536, want uint16"},
			"a/b/both":                          {`{"address":"10.0.0.1","port":1,"ports":[{"port":2}]}`, "want one of them"},
			"a/b/same":                          {`{"address":"10.0.0.1","ports":[{"name":"x","port":2},{"name":"x","port":3}]}`, "got two ports of name"},
			"a/b/many":                          {`{"address":"10.0.0.1","ports":[` + many + `{"port":1}]}`, "got 71 ports"},
			"a/b/morse":                         {`{"address":"10.0.0.1","port":1,"protocol":"morse"}`, `got protocol "morse"`},
			"a/b/weight":                        {`{"address":"10.0.0.1","port":1,"weight":0}`, "weight 0, want at least 1"},
			"a/b/minus":                         {`{"address":"10.0.0.1","port":1,"weight":-1}`, "got weight: number -1"},
			"a/b/health":                        {`{"address":"10.0.0.1","port":1,"health":"fine"}`, "unknown health fine"},
			"a/b/labels":                        {`{"address":"10.0.0.1","port":1,"labels":{"a":1}}`, "got labels"},
			"a/b/labels70":                      {`{"address":"10.0.0.1","port":1,"labels":{` + strings.Join(labels, ",") + `}}`, "got 70 labels"},
			"a/b/key":                           {`{"address":"10.0.0.1","port":1,"labels":{"` + strings.Repeat("k", 64) + `":""}}`, "want a key of 1 to 63"},
			"a/b/host":                          {`{"address":"10.0.0.1","port":1,"host":"` + strings.Repeat("h", 300) + `"}`, "host or locality"},
			"a/b/grpc":                          {`{"Op":0,"Addr":"10.0.0.1:1"}`, "it looks like layout grpc"},
			"a/b/skydns":                        {`{"host":"10.0.0.1","port":1}`, "it looks like layout skydns"},
		},
		layoutGRPC: {
			"web":      {`{"Addr":"10.0.0.1:1"}`, "want <service>/<address>"},
			"/x":       {`{"Addr":"10.0.0.1:1"}`, "want <service>/<address>"},
			"a/name":   {`{"Addr":"db.example:1"}`, "use a registry of kind dns"},
			"a/scheme": {`{"Addr":"dns:///db:1"}`, "want ip:port"},
			"a/none":   {`{"Addr":"10.0.0.1"}`, "want ip:port"},
			"a/port":   {`{"Addr":"10.0.0.1:0"}`, "want 1 to 65535"},
			"a/weight": {`{"Addr":"10.0.0.1:1","Metadata":{"weight":0.5}}`, "got weight 0.5"},
			"a/type":   {`{"Addr":1}`, "got Addr: number, want string"},
			"a/other":  {good, "it looks like layout hostmesh"},
		},
		layoutSkyDNS: {
			"web/name": {`{"host":"db.example"}`, "use a registry of kind dns"},
			"web/none": {`{"port":1}`, "got no host"},
			"web/port": {`{"host":"10.0.0.1","port":70000}`, "got port 70000"},
			"web/prio": {`{"host":"10.0.0.1","priority":-1}`, "got priority -1"},
			"web//1":   {`{"host":"10.0.0.1"}`, "labels with a slash between"},
			"web/grpc": {`{"Addr":"10.0.0.1:1"}`, "it looks like layout grpc"},
		},
	} {
		for key, test := range keys {
			t.Run(fmt.Sprintf("%s/%.50s", layout, key), func(t *testing.T) {
				values := map[string]string{key: test[0]}
				neighbour := map[string]string{layoutHostmesh: good, layoutGRPC: `{"Addr":"10.0.0.1:1"}`, layoutSkyDNS: `{"host":"10.0.0.1"}`}[layout]
				values["neighbour/good"] = neighbour
				view := filled(config(layout), values).view()
				if len(view.Problems) != 1 || !strings.Contains(view.Problems[0].Reason, test[1]) {
					t.Errorf("problems: got %v, want one with %q", view.Problems, test[1])
				}
				for _, p := range view.Problems {
					if !slices.Contains([]string{"syntax", "size", "name", "address", "port", "protocol", "value", "entry"}, p.Kind) {
						t.Errorf("the problem is of kind %q", p.Kind)
					}
					if len(p.Object) > maxKey || len(p.Reason) > 2*maxReason || !printable(p.Object) || !printable(p.Reason) {
						t.Errorf("the problem cannot be shown: %+v", p)
					}
				}
				if len(view.Services) != 1 || view.Services[0].Name.Name != "neighbour" {
					t.Errorf("services: got %v, want the neighbour", view.Services)
				}
			})
		}
	}
}

// TestSkyDNSDirectRecord follows a record at a name through the coming and going of records below, as CoreDNS answers.
func TestSkyDNSDirectRecord(t *testing.T) {
	t.Parallel()
	e := newEntries(config(layoutSkyDNS))
	direct, below := []byte(`{"host":"10.0.0.1"}`), []byte(`{"host":"10.0.0.2"}`)
	put := func(key string, value []byte) func() { return func() { e.put(e.root+key, value) } }
	remove := func(key string) func() { return func() { e.delete(e.root + key) } }
	for i, step := range []struct {
		do       func()
		want     string // the IDs of service web
		problems int
	}{
		{put("web", direct), "@", 0},
		{put("web/1", below), "1", 1},
		{put("web/1", below), "1", 1},
		{put("web/2", below), "1 2", 1},
		{put("web", direct), "1 2", 1},
		{remove("web/1"), "2", 1},
		{remove("web/2"), "@", 0},
		{remove("web"), "", 0},
		{put("web/1", below), "1", 0},
		{put("web", direct), "1", 1},
		{remove("web"), "1", 0},
		{remove("web/none"), "1", 0},
	} {
		step.do()
		view := e.view()
		var ids []string
		for _, s := range view.Services {
			for _, endpoint := range s.Endpoints {
				ids = append(ids, endpoint.ID)
			}
		}
		if got := strings.Join(ids, " "); got != step.want || len(view.Problems) != step.problems {
			t.Errorf("step %d: got %q and %v, want %q and %d problems", i, got, view.Problems, step.want, step.problems)
		}
	}
}

func TestWrongLayout(t *testing.T) {
	t.Parallel()
	grpc := `{"Addr":"10.0.0.1:1"}`
	for name, test := range map[string]struct {
		keys map[string]string
		want string
	}{
		"none":       {nil, ""},
		"all":        {map[string]string{"a/1": grpc, "b/2": grpc}, "all look like layout grpc: set layout: grpc"},
		"but one":    {map[string]string{"a/1": grpc, "b/2": `{"address":"10.0.0.1","port":1}`}, ""},
		"of two":     {map[string]string{"a/1": grpc, "b/2": `{"host":"10.0.0.1"}`}, ""},
		"of no kind": {map[string]string{"a/1": "x"}, ""},
	} {
		err := filled(config(layoutHostmesh), test.keys).wrongLayout()
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

// TestList has what a list does not hold leave, the unreadable too.
func TestList(t *testing.T) {
	t.Parallel()
	const good = `{"address":"10.0.0.1","port":1}`
	e := filled(config(layoutHostmesh), map[string]string{"web/1": good, "web/2": good, "bad/1": "", "bad/2": ""})
	e.beginList()
	e.put(e.root+"web/2", []byte(""))
	e.put(e.root+"web/3", []byte(good))
	e.put(e.root+"bad/2", []byte(""))
	e.endList()
	view := e.view()
	if len(view.Services) != 1 || len(view.Services[0].Endpoints) != 2 || len(view.Problems) != 2 || len(e.keys) != 3 || len(e.bad) != 2 {
		t.Errorf("got %v, problems %v, keys %v, bad %v", view.Services, view.Problems, e.keys, e.bad)
	}
}

// fuzzLayout puts any key with any value: the view is valid, and a neighbour is there.
func fuzzLayout(f *testing.F, layout string, neighbour string, seeds ...string) {
	for key, value := range map[string]string{"web/1": "{}", "a/web/1": "", "web": "[]", "\xff//": "{"} {
		f.Add(key, []byte(value))
	}
	for _, value := range seeds {
		f.Add("web/1", []byte(value))
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		e := newEntries(config(layout))
		e.put(e.root+"neighbour/good", []byte(neighbour))
		e.put(e.root+key, value)
		view := e.view()
		if err := view.Validate(); err != nil {
			t.Fatal(err)
		}
		for _, p := range view.Problems {
			if len(p.Reason) > 2*maxReason || len(p.Object) > maxKey {
				t.Errorf("a problem of too many bytes: %v", p)
			}
		}
		if len(view.Services) == 0 {
			t.Error("the neighbour is hidden")
		}
		e.delete(e.root + key)
		if view := e.view(); len(view.Problems) != 0 || len(view.Services) > 1 {
			t.Errorf("something stays of a key that is gone: %v, %v", view.Services, view.Problems)
		}
	})
}

func FuzzHostmesh(f *testing.F) {
	fuzzLayout(f, layoutHostmesh, `{"address":"10.0.0.1","port":1}`,
		`{"address":"10.0.0.1","ports":[{"name":"web","port":8080,"protocol":"HTTP","servicePort":80}],"labels":{"a":"b"},"weight":7,"health":"draining"}`)
}

func FuzzGRPC(f *testing.F) {
	fuzzLayout(f, layoutGRPC, `{"Addr":"10.0.0.1:1"}`, `{"Op":0,"Addr":"[::1]:50051","Metadata":{"zone":"a","weight":3}}`)
}

func FuzzSkyDNS(f *testing.F) {
	fuzzLayout(f, layoutSkyDNS, `{"host":"10.0.0.1"}`, `{"host":"10.0.0.2","port":1,"priority":10,"weight":5,"ttl":60,"text":"hello"}`)
}
