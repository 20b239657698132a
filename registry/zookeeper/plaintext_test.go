package zookeeper_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/zookeeper"
)

// TestWarnsOfPlaintext wants one warning, however often Watch is called, where a password goes over a network as it is.
func TestWarnsOfPlaintext(t *testing.T) {
	secret := passwordFile(t, "the secret")
	for name, test := range map[string]struct {
		cfg  zookeeper.Config
		want string // in the warning; "" for none
	}{
		"an address":     {zookeeper.Config{Servers: []string{"192.0.2.1:2181"}, Username: "u", PasswordFile: secret}, "servers=[192.0.2.1:2181]"},
		"a name":         {zookeeper.Config{Servers: []string{"zk.invalid:2181"}, Username: "u", PasswordFile: secret}, "servers=[zk.invalid:2181]"},
		"one of several": {zookeeper.Config{Servers: []string{"127.0.0.1:1", "[2001:db8::1]:2181"}, Username: "u", PasswordFile: secret}, "servers=[[2001:db8::1]:2181]"},
		"TLS":            {zookeeper.Config{Servers: []string{"192.0.2.1:2181"}, TLS: true, Username: "u", PasswordFile: secret}, ""},
		"TLS by a name":  {zookeeper.Config{Servers: []string{"192.0.2.1:2181"}, ServerName: "zk", Username: "u", PasswordFile: secret}, ""},
		"no password":    {zookeeper.Config{Servers: []string{"192.0.2.1:2181"}}, ""},
		"loopback":       {zookeeper.Config{Servers: []string{"127.0.0.2:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"}, Username: "u", PasswordFile: secret}, ""},
	} {
		var log bytes.Buffer
		r, err := zookeeper.New(test.cfg, slog.New(slog.NewTextHandler(&log, nil)))
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
		if wanted > 0 && !strings.Contains(text, "secureClientPort") {
			t.Errorf("%s: %q does not tell what to do", name, text)
		}
	}
}
