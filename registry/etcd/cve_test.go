package etcd

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hostmesh/hostmesh/registry"
)

// hostile answers as no sound etcd does.
type hostile struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer
	etcdserverpb.UnimplementedAuthServer
	page  func(*etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse
	watch func(etcdserverpb.Watch_WatchServer) error
}

func (h *hostile) Txn(context.Context, *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	return &etcdserverpb.TxnResponse{Header: &etcdserverpb.ResponseHeader{Revision: 7}}, nil
}

func (h *hostile) Range(_ context.Context, r *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	return h.page(r), nil
}

func (h *hostile) Watch(s etcdserverpb.Watch_WatchServer) error { return h.watch(s) }

// Authenticate refuses, and repeats what it was told.
func (h *hostile) Authenticate(_ context.Context, r *etcdserverpb.AuthenticateRequest) (*etcdserverpb.AuthenticateResponse, error) {
	return nil, status.Error(codes.InvalidArgument, "no\n\x1b[2J: "+strings.Repeat("x", 445)+r.Password)
}

func serveHostile(t *testing.T, h *hostile) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	etcdserverpb.RegisterKVServer(server, h)
	etcdserverpb.RegisterWatchServer(server, h)
	etcdserverpb.RegisterAuthServer(server, h)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return l.Addr().String()
}

// watched returns how a Watch of a hostile server ends.
func watched(t *testing.T, cfg Config) (views int, err error) {
	t.Helper()
	r, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = r.Watch(ctx, func(registry.View) { views++ })
	if ctx.Err() != nil {
		t.Fatalf("Watch did not end by itself: %v", err)
	}
	return views, err
}

// An instance cannot say that it is at the caller's own address, or at everybody's, in whatever way that is written.
func TestCVEClass12_AddressesLeadToOneHost(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "::ffff:224.0.0.1", "ff02::1", "fe80::1%eth0", "127.1", "0x7f.1"} {
		for layout, value := range map[string]string{
			layoutHostmesh: `{"address":%q,"port":1}`, layoutGRPC: `{"Addr":"[%s]:1"}`, layoutSkyDNS: `{"host":%q,"port":1}`,
		} {
			view := filled(config(layout), map[string]string{"web/1": fmt.Sprintf(value, addr)}).view()
			if len(view.Services) > 0 || len(view.Problems) != 1 || view.Problems[0].Kind != "address" {
				t.Errorf("%s, layout %s: got %v, problems %v", addr, layout, view.Services, view.Problems)
			}
		}
	}
}

// What a server says without end is an error before it fills the memory (CVE-2026-26998).
func TestCVEClass18_AnswersAreBounded(t *testing.T) {
	t.Parallel()
	header := &etcdserverpb.ResponseHeader{Revision: 7}
	kv := &mvccpb.KeyValue{Key: []byte("/hostmesh/services/web/1"), Value: []byte(`{"address":"10.0.0.1","port":1}`), ModRevision: 7}
	one := func(*etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
		return &etcdserverpb.RangeResponse{Header: header, Kvs: []*mvccpb.KeyValue{kv}, Count: 1}
	}
	junk := bytes.Repeat([]byte("x"), 8<<20)
	for name, test := range map[string]struct {
		server hostile
		views  int
		want   string
	}{
		"the same page again and again": {hostile{page: func(*etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
			return &etcdserverpb.RangeResponse{Header: header, Kvs: []*mvccpb.KeyValue{kv}, Count: 1, More: true}
		}}, 0, "again, want those from"},
		"too many keys": {hostile{page: func(*etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
			return &etcdserverpb.RangeResponse{Header: header, Count: maxKeys + 1}
		}}, 0, "set prefix"},
		"a value that is too large": {hostile{page: func(*etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
			return &etcdserverpb.RangeResponse{Header: header, Kvs: []*mvccpb.KeyValue{{Key: kv.Key, Value: make([]byte, maxAnswer)}}, Count: 1}
		}}, 0, "larger than max"},
		"an answer of a watch without end": {hostile{page: one, watch: func(s etcdserverpb.Watch_WatchServer) error {
			if _, err := s.Recv(); err != nil {
				return err
			}
			if err := s.Send(&etcdserverpb.WatchResponse{Header: header, Created: true}); err != nil {
				return err
			}
			for {
				if err := s.Send(&etcdserverpb.WatchResponse{Header: header, Fragment: true, Events: []*mvccpb.Event{
					{Kv: &mvccpb.KeyValue{Key: kv.Key, Value: junk, ModRevision: 8}},
				}}); err != nil {
					return err
				}
			}
		}}, 1, "in fragments"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Endpoints: []string{serveHostile(t, &test.server)}}
			views, err := watched(t, cfg)
			for tries := 1; tries < 5 && err != nil && strings.Contains(err.Error(), "no answer within"); tries++ {
				views, err = watched(t, cfg) // a busy machine takes long over 64 MiB
			}
			if views != test.views || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %d views, %v, want %d and %q", views, err, test.views, test.want)
			}
		})
	}
}

// Nobody is believed, and told the password, whose certificate was not verified (CVE-2018-19653, CVE-2025-66491).
func TestCVEClass19_TLSIsVerified(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	user := Config{Endpoints: []string{server.URL}, Username: "u", PasswordFile: write("password", "s3cret")}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"unknown authority": {func(*Config) {}, "set caFile"},
		"no authority":      {func(c *Config) { c.CAFile = write("none.pem", "no certificate") }, "no certificate in it"},
		"another name":      {func(c *Config) { c.ServerName = "etcd.example" }, "certificate"},
	} {
		cfg := user
		test.change(&cfg)
		if _, err := watched(t, cfg); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// A password that cannot be read is never "no user" (CVE-2026-54762).
func TestCVEClass26_NoPasswordNoRequest(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var reached atomic.Int32
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			_ = conn.Close()
		}
	}()
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "\n", "lines": "s3cret\ns3cret", "long": strings.Repeat("s3cret", 1000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"empty", "lines", "long", "none", "."} {
		_, err := watched(t, Config{Endpoints: []string{l.Addr().String()}, Username: "u", PasswordFile: filepath.Join(dir, name)})
		if err == nil || strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "read password") {
			t.Errorf("%s: got %v, want an error that does not show the file", name, err)
		}
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("%d connections were made", n)
	}
}

// No error shows the password: not even when the server repeats it, or it stands in the address (CVE-2022-23469).
func TestCVEClass27_ErrorsShowNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "hunter2-hunter2"
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := watched(t, Config{Endpoints: []string{serveHostile(t, &hostile{})}, Username: "u", PasswordFile: path})
	if err == nil || strings.Contains(err.Error(), "hunter2") || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("got %q, want one line without the password", fmt.Sprint(err))
	}
	for _, address := range []string{"http://u:hunter2@127.0.0.1:1", "u:hunter2@h:1", "https://hunter2@h:1", "http://u:hun@hunter2@h:1"} {
		if _, err := New(Config{Endpoints: []string{address}}, nil); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error without the password", address, err)
		}
	}
}
