package yamlpos_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostmesh/hostmesh/internal/yamlpos"
)

type level string

func (l *level) UnmarshalText(text []byte) error {
	if *l = level(text); *l != "low" && *l != "high" {
		return fmt.Errorf("unknown level %q, there are low and high", text)
	}
	return nil
}

type common struct {
	Zone string `yaml:"zone"`
}

type consul struct {
	Address string        `yaml:"address,required"`
	Token   string        `yaml:"token,secret"`
	Wait    time.Duration `yaml:"wait"`
}

func (c *consul) SetDefaults() { c.Wait = 5 * time.Minute }

func (c *consul) Check(report func(path, got, want string)) {
	if strings.Contains(c.Address, " ") {
		report("address", fmt.Sprintf("%q", c.Address), "host:port")
	}
	if len(c.Token) == 1 {
		report("token", fmt.Sprintf("%q", c.Token), "a longer one")
	}
}

type item struct {
	Name   string  `yaml:"name,required"`
	Consul *consul `yaml:"consul"`
	Line   int     `yaml:",line"`
}

func (i item) Check(report func(path, got, want string)) {
	if i.Consul == nil {
		report("consul.address", "nothing", "an adapter")
	}
}

type config struct {
	common
	Domain  string             `yaml:"domain,required"`
	On      bool               `yaml:"on"`
	Small   int8               `yaml:"small"`
	Port    uint16             `yaml:"port"`
	Rate    float64            `yaml:"rate"`
	Wait    time.Duration      `yaml:"wait"`
	Addr    netip.Addr         `yaml:"addr"`
	Listen  []netip.AddrPort   `yaml:"listen"`
	Allow   netip.Prefix       `yaml:"allow"`
	Level   level              `yaml:"level"`
	Items   []item             `yaml:"items"`
	ByName  map[string]*consul `yaml:"byName"`
	Labels  map[string]string  `yaml:"labels"`
	Raw     any                `yaml:"raw"`
	Hidden  string             `yaml:"-"`
	Secrets []string           `yaml:"secrets,secret"`
}

func TestDecode(t *testing.T) {
	got := config{Port: 1, Domain: "d", Rate: 9}
	err := yamlpos.Decode("f", []byte(`
domain: mesh.internal
zone: z1
on: true
small: -128
port: 0xffff
wait: 1m30s
addr: fe80::1
listen: [127.0.0.1:1, "[::1]:2"]
allow: 10.0.0.0/8
level: high
rate:
items:
  - name: a
    consul: &c {address: "x:1", token: hush}
  - name: 1.10
    consul: *c
byName: {a.b/c: {address: y, wait: 1s}}
labels: {version: 1.10, on: true, empty: ""}
raw: [1, -2, 1.5, true, x, {a: ~}, 18446744073709551615]
`), &got)
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		common: common{Zone: "z1"}, Domain: "mesh.internal", On: true, Small: -128, Port: 65535, Rate: 9, Wait: 90 * time.Second,
		Addr: netip.MustParseAddr("fe80::1"), Allow: netip.MustParsePrefix("10.0.0.0/8"), Level: "high",
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("[::1]:2")},
		Items: []item{
			{Name: "a", Consul: &consul{Address: "x:1", Token: "hush", Wait: 5 * time.Minute}, Line: 14},
			{Name: "1.10", Consul: &consul{Address: "x:1", Token: "hush", Wait: 5 * time.Minute}, Line: 16},
		},
		ByName: map[string]*consul{"a.b/c": {Address: "y", Wait: time.Second}},
		Labels: map[string]string{"version": "1.10", "on": "true", "empty": ""},
		Raw:    []any{int64(1), int64(-2), 1.5, true, "x", map[string]any{"a": nil}, uint64(1<<64 - 1)},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct{ name, yaml, want string }{
		{"all at once", "domain: [a]\nport: 70000\nsmall: 128\non: yes\nwait: 2\naddr: 1.2.3\n", `
f:1: domain: got a list, want a string
f:2: port: got 70000, want an integer from 0 to 65535
f:3: small: got 128, want an integer from -128 to 127
f:4: on: got "yes", want true or false
f:5: wait: got 2, want a duration such as 500ms, 2s or 1m
f:6: addr: got "1.2.3", want an IP address`},
		{"missing", "zone: a\n", "f:1: domain: got nothing, want a string"},
		{"empty file", "", "f:1: domain: got nothing, want a string"},
		{"null is missing", "zone: a\ndomain:\n", "f:2: domain: got nothing, want a string"},
		{"nested missing", "domain: d\nitems:\n  - consul:\n      token: x\n", `
f:3: items[0].consul.address: got nothing, want a string
f:3: items[0].name: got nothing, want a string`},
		{"unknown, near", "domain: d\nlevle: high\n", `f:2: levle: got an unknown field, want "level"`},
		{
			"unknown, far", "domain: d\nitems: [{name: a, consul: {address: x, whatever: 1}}]\n",
			"f:2: items[0].consul.whatever: got an unknown field, want one of address, token, wait",
		},
		{
			"unknown holds its secret", "domain: d\nitems: [{name: a, consul: {address: x, tokne: s3cret}}]\n",
			`f:2: items[0].consul.tokne: got an unknown field, want "token"`,
		},
		{"not a field", "domain: d\nhidden: x\n", "f:2: hidden: got an unknown field, want one of addr, allow, byName, domain, items, labels, level, listen, on, port, rate, raw, secrets, small, wait, zone"},
		{"twice", "domain: d\nport: 1\nport: 2\nlabels: {a: 1, a: 2}\n", `
f:3: port: got it a second time, want it once (first at line 2)
f:4: labels.a: got it a second time, want it once (first at line 4)`},
		{"quoted number", "domain: d\nport: \"8080\"\n", `f:2: port: got "8080", want an integer from 0 to 65535`},
		{"octal", "domain: d\nport: 0644\n", "f:2: port: got 0644, want an integer from 0 to 65535"},
		{"negative", "domain: d\nport: -1\nwait: -1s\n", `
f:2: port: got -1, want an integer from 0 to 65535
f:3: wait: got "-1s", want a duration such as 500ms, 2s or 1m`},
		{"not a number", "domain: d\nrate: .nan\n", "f:2: rate: got .nan, want a number"},
		{"text with a reason", "domain: d\nlevel: mid\n", `f:2: level: got "mid", want a valid level (unknown level "mid", there are low and high)`},
		{"list items", "domain: d\nlisten:\n  - 127.0.0.1:1\n  - 127.0.0.1\n  -\n", `
f:4: listen[1]: got "127.0.0.1", want an IP address and port such as 127.0.0.1:8500
f:5: listen[2]: got nothing, want an IP address and port such as 127.0.0.1:8500`},
		{"keys with dots", "domain: d\nbyName: {a.b: {address: [x]}}\n", `f:2: byName["a.b"].address: got a list, want a string`},
		{"merge key", "domain: d\nitems:\n  - &a {name: x, consul: {address: x}}\n  - {<<: *a}\n", `
f:4: items[1]: got a merge key, want the fields written out
f:4: items[1].name: got nothing, want a string`},
		{"tag", "domain: !!binary aGk=\n", "f:1: domain: got the tag !!binary, want no tag"},
		{"secrets", "domain: d\nsecrets: [[s3cret], a]\nitems: [{name: x, consul: {address: x, token: {s3cret: 1}}}]\n", `
f:2: secrets[0]: got a list, want a string
f:3: items[0].consul.token: got a mapping, want a string`},
		{"secret by alias", "domain: d\nsecrets: [&s s3cret]\nport: *s\n", "f:3: port: got *s, want an integer from 0 to 65535"},
		{"secret that reads as an alias", "domain: d\nsecrets: [*s3cret]\n", "f: got YAML that cannot be parsed (unknown anchor referenced), want valid YAML"},
		{"secret that reads as a tag", "domain: d\nsecrets: [!s3cret x]\n", "f:2: secrets[0]: got the tag that is not shown, want no tag"},
		{"checks", "domain: d\nitems:\n  - name: x\n    consul:\n      address: a b\n      token: 'q'\n  - name: y\n", `
f:5: items[0].consul.address: got "a b", want host:port
f:6: items[0].consul.token: got a secret that is not shown, want a longer one
f:7: items[1].consul.address: got nothing, want an adapter`},
		{"checks in maps", "domain: d\nbyName:\n  a.b:\n    address: a b\n", `f:4: byName["a.b"].address: got "a b", want host:port`},
		{"two documents", "domain: d\n---\ndomain: e\n", "f:3: got a second document, want a single one"},
		{"syntax", "domain: d\n\tport: 1\n", "f:2: got YAML that cannot be parsed (found a tab character that violates indentation), want valid YAML"},
		{"root", "[a]\n", "f:1: got a list, want a mapping"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var into config
			err := yamlpos.Decode("f", []byte(c.yaml), &into)
			var problems yamlpos.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("Decode: %v, want Problems", err)
			}
			if diff := cmp.Diff(strings.TrimSpace(c.want), problems.Error()); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(problems.Error(), "s3cret") {
				t.Error("a secret is printed")
			}
		})
	}
}

func TestDecodeAll(t *testing.T) {
	got, err := yamlpos.DecodeAll[item]("f", []byte("# nothing\n---\nname: a\nconsul: {address: x}\n---\n---\n# text\nname: b\nconsul: {address: y}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Name != "a" || got[0].Line != 3 || got[1].Name != "b" || got[1].Line != 8 {
		t.Errorf("got %+v, want a at line 3 and b at line 8", got)
	}
	_, err = yamlpos.DecodeAll[item]("f", []byte("name: a\n---\nname: b\nnmae: c\n"))
	want := "f:1: consul.address: got nothing, want an adapter\nf:4: nmae: got an unknown field, want \"name\""
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if got, err := yamlpos.DecodeAll[item]("f", nil); err != nil || len(got) != 0 {
		t.Errorf("an empty file: %v, %v; want no document and no error", got, err)
	}
}

func TestBounds(t *testing.T) {
	laughs := "domain: d\nraw:\n  a0: &a0 [x, x]\n"
	for i := 1; i < 40; i++ {
		laughs += fmt.Sprintf("  a%d: &a%d [*a%d, *a%d]\n", i, i, i-1, i-1)
	}
	many := "domain: d\n"
	for i := range 500 {
		many += fmt.Sprintf("unknown-%d: x\n", i)
	}
	for _, c := range []struct{ name, yaml, want string }{
		{"billion laughs", laughs, "more than 10000 values through aliases"},
		{"an alias within its own anchor", "domain: d\nraw: &a [*a]\n", "more than 64 levels"},
		{"deep", "domain: d\nraw: " + strings.Repeat("[", 500) + strings.Repeat("]", 500), "more than 64 levels"},
		{"large", "domain: " + strings.Repeat("d", 1<<20), "want at most 1048576"},
		{"many problems", many, "unknown-99"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var into config
			err := yamlpos.Decode("f", []byte(c.yaml), &into)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Decode: %v, want %q in it", err, c.want)
			}
			var problems yamlpos.Problems
			if errors.As(err, &problems); len(problems) > 101 {
				t.Errorf("%d problems", len(problems))
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("domain: d\nitems: [{name: x, consul: &c {address: y}}]\nbyName: {a.b: *c}\nraw: {a: [1, ~, 2.5]}\n"))
	f.Add([]byte("a: &a [*a]\n---\n? [x]\n: 1\n<<: {}\n"))
	f.Add([]byte("domain: \"\\x00\"\nsecrets: [1]\nport: 0o7\nrate: 1e400\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var into config
		err := yamlpos.Decode("f", data, &into)
		var problems yamlpos.Problems
		if err != nil && (!errors.As(err, &problems) || len(problems) == 0) {
			t.Fatalf("an error that is no Problems: %v", err)
		}
		for i, p := range problems {
			if i > 0 && p.Line < problems[i-1].Line {
				t.Errorf("problems are not sorted: %v", problems)
			}
			if p.Got == "" || p.Want == "" {
				t.Errorf("an empty problem: %+v", p)
			}
		}
		if _, err := yamlpos.DecodeAll[item]("f", data); err != nil && !errors.As(err, &problems) {
			t.Fatalf("an error that is no Problems: %v", err)
		}
	})
}

// rule is a word or a mapping.
type rule struct {
	Word   string   `yaml:"-"`
	Prefer []string `yaml:"prefer"`
}

func (r *rule) UnmarshalText(text []byte) error {
	if string(text) != "union" {
		return errors.New("union or a mapping")
	}
	r.Word = string(text)
	return nil
}

func TestAWordOrAMapping(t *testing.T) {
	var f struct {
		A, B rule
		Addr netip.Addr
	}
	if err := yamlpos.Decode("f", []byte("a: union\nb: {prefer: [x]}\naddr: 10.0.0.1\n"), &f); err != nil || f.A.Word != "union" || len(f.B.Prefer) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
	for text, want := range map[string]string{
		"a: onion": "f:1: a: got \"onion\", want a valid rule (union or a mapping)", "a: {word: x}": "unknown field", "addr: {z: 1}": "want an IP address",
	} {
		if err := yamlpos.Decode("f", []byte(text), &f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
