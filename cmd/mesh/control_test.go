package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/registry"
)

// TestReload has a running catalog of one registry read the file again: rules are taken, the rest is told to want a restart.
func TestReload(t *testing.T) {
	const one = "registries: [{name: one, file: {path: /etc/static.d}}]\n"
	const two = "registries: [{name: one, file: {path: /etc/static.d}}, {name: two, file: {path: /etc/more.d}}]\n"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"a rule", one + "merge: {default: {prefer: [one]}}\n", []string{"level=INFO msg=\"configuration reloaded\""}},
		{"a registry more", two, []string{"changes that want a restart", "configuration reloaded"}},
		{"a rule of a registry more", two + "merge: {default: {prefer: [two]}}\n", []string{
			"level=ERROR msg=\"configuration not reloaded, the old one stays\"", `got \"two\", want one of one`, "other registries now, which want a restart",
		}},
		{"a mistake", one + "merge: {default: {prefer: [two]}}\n", []string{"not reloaded", `control.yaml:2: merge.default.prefer[0]: got \"two\", want one of one`}},
		{"no registry any more", "domain: mesh.internal\n", []string{"changes that want a restart"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "control.yaml")
			write := func(text string) {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(one)
			again := func() (controlFile, error) { return controlConfig(path, nil, true) }
			running, err := again()
			if err != nil {
				t.Fatal(err)
			}
			catalog, err := registry.NewCatalog(running.sources(slog.New(slog.DiscardHandler)), registry.Options{})
			if err != nil {
				t.Fatal(err)
			}
			write(c.text)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			asked := make(chan os.Signal)
			ended := make(chan error)
			var log bytes.Buffer // read when reload has ended
			go func() {
				ended <- reload(ctx, asked, running, again, catalog, slog.New(slog.NewTextHandler(&log, nil)))
			}()
			asked <- os.Interrupt
			asked <- os.Interrupt // received when the first is done
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			for _, want := range c.want {
				if !strings.Contains(log.String(), want) {
					t.Errorf("%q is not in\n%s", want, log.String())
				}
			}
		})
	}
}
