package consul_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
)

// TestWarnsOfPlaintext wants one warning, however often Watch is called, where a secret goes over a network as it is.
func TestWarnsOfPlaintext(t *testing.T) {
	t.Parallel()
	secret := tokenFile(t, "the secret")
	for name, test := range map[string]struct {
		cfg  consul.Config
		want string // in the warning; "" for none
	}{
		"an address":        {consul.Config{Address: "192.0.2.1:8500", TokenFile: secret}, "address=192.0.2.1:8500"},
		"a name":            {consul.Config{Address: "http://consul.invalid:8500", TokenFile: secret}, "address=consul.invalid:8500"},
		"IPv6":              {consul.Config{Address: "http://[2001:db8::1]:8500", TokenFile: secret}, "address=[2001:db8::1]:8500"},
		"TLS":               {consul.Config{Address: "https://192.0.2.1:8501", TokenFile: secret}, ""},
		"no token":          {consul.Config{Address: "192.0.2.1:8500"}, ""},
		"loopback":          {consul.Config{Address: "127.0.0.2:1", TokenFile: secret}, ""},
		"loopback of IPv6":  {consul.Config{Address: "http://[::1]:1", TokenFile: secret}, ""},
		"this host by name": {consul.Config{Address: "localhost:1", TokenFile: secret}, ""},
		"socket":            {consul.Config{Address: "unix:///nonexistent.sock", TokenFile: secret}, ""},
	} {
		var log bytes.Buffer
		r, err := consul.New(test.cfg, slog.New(slog.NewTextHandler(&log, nil)))
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
