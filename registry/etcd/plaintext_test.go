package etcd_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/etcd"
)

// TestWarnsOfPlaintext wants one warning, however often Watch is called, where a secret goes over a network as it is.
func TestWarnsOfPlaintext(t *testing.T) {
	t.Parallel()
	secret := secretFile(t, "the secret")
	for name, test := range map[string]struct {
		cfg  etcd.Config
		want string // in the warning; "" for none
	}{
		"an address":     {etcd.Config{Endpoints: []string{"192.0.2.1:2379"}, Username: "u", PasswordFile: secret}, "endpoints=[192.0.2.1:2379]"},
		"a name":         {etcd.Config{Endpoints: []string{"http://etcd.invalid:2379"}, Username: "u", PasswordFile: secret}, "endpoints=[etcd.invalid:2379]"},
		"one of several": {etcd.Config{Endpoints: []string{"https://etcd.invalid:2379", "http://[2001:db8::1]:2379", "http://127.0.0.1:1"}, Username: "u", PasswordFile: secret}, "endpoints=[[2001:db8::1]:2379]"},
		"TLS":            {etcd.Config{Endpoints: []string{"https://192.0.2.1:2379"}, Username: "u", PasswordFile: secret}, ""},
		"no password":    {etcd.Config{Endpoints: []string{"192.0.2.1:2379"}}, ""},
		"loopback":       {etcd.Config{Endpoints: []string{"127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"}, Username: "u", PasswordFile: secret}, ""},
	} {
		var log bytes.Buffer
		r, err := etcd.New(test.cfg, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // it is told before anything is sent
		for range 2 {
			_ = r.Watch(ctx, func(registry.View) { t.Errorf("%s: a view is published", name) })
		}
		text, wanted := log.String(), 0
		if test.want != "" {
			wanted = 1
		}
		if strings.Count(text, "level=WARN") != wanted || !strings.Contains(text, test.want) || strings.Contains(text, "the secret") {
			t.Errorf("%s: got log %q, want %d warnings with %q", name, text, wanted, test.want)
		}
		if wanted > 0 && !strings.Contains(text, "write https://") {
			t.Errorf("%s: %q does not tell what to do", name, text)
		}
	}
}
