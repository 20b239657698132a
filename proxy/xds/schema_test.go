package xds

import (
	"encoding/json"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/runtime/protoimpl"
)

// unread are the fields of which nothing is to be done, of a message or of all, and why.
var unread = map[string]string{
	"metadata":                   "is for others, but for that of hosts and localities",
	"Listener.traffic_direction": "is told to tracers only",
	"GoogleGrpc.stat_prefix":     "names figures of a client of gRPC's own",
	"ApiConfigSource.set_node_on_first_message_only":           "allows what is done in any case",
	"RetryPolicy.host_selection_retry_max_attempts":            "bounds a search that has an end",
	"RuntimeFilter.runtime_key":                                "names what nobody can set: there is no runtime",
	"TlsInspector.initial_read_buffer_size":                    "is about memory: a ClientHello is read as it comes",
	"CaresDnsResolverConfig.udp_max_queries":                   "is about sockets of c-ares: every question has one of its own",
	"CaresDnsResolverConfig.max_udp_channel_duration":          "is about sockets of c-ares too",
	"CaresDnsResolverConfig.reinit_channel_on_timeout":         "is about sockets of c-ares too",
	"DownstreamTlsContext.disable_stateful_session_resumption": "is done in any case: crypto/tls has none",
}

// readAs are messages that are read as others, which have the same fields.
var readAs = map[protoreflect.FullName]protoreflect.FullName{
	"envoy.extensions.load_balancing_policies.subset.v3.Subset":                  "envoy.config.cluster.v3.Cluster.LbSubsetConfig",
	"envoy.extensions.load_balancing_policies.subset.v3.Subset.LbSubsetSelector": "envoy.config.cluster.v3.Cluster.LbSubsetConfig.LbSubsetSelector",
}

// TestEverythingAcceptedIsRead: no field is in the schema that nothing in this package looks at. To accept one and to do nothing would be
// to ignore what somebody wanted; the few of which nothing is to be done stand in unread with the reason.
func TestEverythingAcceptedIsRead(t *testing.T) {
	reads, all := readsOf(t), newSchema()
	excused := map[string]bool{}
	for message, fields := range all {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(message)
		if err != nil {
			if !strings.Contains(string(message), " of ") { // else a part of a message's fields, at some places
				t.Errorf("%s is no message", message)
			}
			continue
		}
		for field := range fields {
			name, short := string(message)+"."+field, string(mt.Descriptor().Name())+"."+field
			d := mt.Descriptor().Fields().ByName(protoreflect.Name(field))
			if d == nil {
				t.Errorf("%s: there is no such field", name)
				continue
			}
			if known, listed := schemaOf(all, d); listed && len(known) == 0 {
				continue // it may be there, and has nothing to say
			}
			at := mt
			if other, err := protoregistry.GlobalTypes.FindMessageByName(readAs[message]); err == nil && other.Descriptor().Fields().ByName(d.Name()) != nil {
				at = other
			}
			switch where := member(at, field); {
			case reads[where] || reads[use{member: where.member}]:
			case unread[short] != "":
				excused[short] = true
			case unread[field] != "":
				excused[field] = true
			default:
				t.Errorf("%s is accepted, and read nowhere", name)
			}
		}
	}
	for field := range unread {
		if !excused[field] {
			t.Errorf("%s is read, or not accepted: it needs no excuse", field)
		}
	}
}

// schemaOf is what the schema has of a field's own message.
func schemaOf(all schema, d protoreflect.FieldDescriptor) (known map[string]bool, listed bool) {
	if d.Message() != nil {
		known, listed = all[d.Message().FullName()]
	}
	return known, listed
}

// use is a member of a message's Go type: a field, or the type of one of its alternatives.
type use struct{ pkg, message, member string }

// member is how Go code reads a field.
func member(mt protoreflect.MessageType, field string) use {
	named := func(s reflect.Type) (string, bool) {
		for f := range s.Fields() {
			if slices.Contains(strings.Split(f.Tag.Get("protobuf"), ","), "name="+field) {
				return f.Name, true
			}
		}
		return "", false
	}
	s := reflect.TypeOf(mt.Zero().Interface()).Elem()
	if name, ok := named(s); ok {
		return use{s.PkgPath(), s.Name(), name}
	}
	for _, w := range mt.(*protoimpl.MessageInfo).OneofWrappers {
		if name, ok := named(reflect.TypeOf(w).Elem()); ok {
			return use{s.PkgPath(), s.Name(), name}
		}
	}
	return use{}
}

// readsOf finds what this package reads of the messages of other packages: by a getter, which may be one of an interface that
// several have, as a field, or by asking which of several alternatives there is.
func readsOf(t *testing.T) map[use]bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-export", "-deps", "-json=ImportPath,Export", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := map[string]string{}
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p struct{ ImportPath, Export string }
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
	}
	set := token.NewFileSet()
	names, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	config := types.Config{Importer: importer.ForCompiler(set, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })}
	if _, err := config.Check("github.com/hostmesh/hostmesh/proxy/xds", set, files, info); err != nil {
		t.Fatal(err)
	}
	reads := map[use]bool{}
	for _, s := range info.Selections {
		at := s.Recv()
		if p, ok := at.(*types.Pointer); ok {
			at = p.Elem()
		}
		if n, ok := at.(*types.Named); ok && n.Obj().Pkg() != nil {
			to := use{n.Obj().Pkg().Path(), n.Obj().Name(), strings.TrimPrefix(s.Obj().Name(), "Get")}
			if types.IsInterface(n) { // of messages that are alike
				to = use{member: to.member}
			}
			reads[to] = true
		}
	}
	for _, obj := range info.Uses {
		if n, ok := obj.(*types.TypeName); ok && n.Pkg() != nil {
			name := strings.TrimSuffix(n.Name(), "_")
			if i := strings.LastIndexByte(name, '_'); i > 0 {
				reads[use{n.Pkg().Path(), name[:i], name[i+1:]}] = true
			}
		}
	}
	return reads
}
