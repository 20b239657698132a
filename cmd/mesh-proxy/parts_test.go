package main

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// TestPartsEndInOrder: a part is only told to end when those before it have ended.
func TestPartsEndInOrder(t *testing.T) {
	for _, c := range []struct {
		name string
		fail error // of the second part, at once; nil: it runs until it is told
		want []string
	}{
		{"by a signal", nil, []string{"0", "1", "2"}},
		{"by a failure", errors.New("boom"), []string{"1", "0", "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var (
				p     parts
				mu    sync.Mutex
				order []string
				runs  []func(context.Context) error
			)
			for i := range 3 {
				runs = append(runs, func(ctx context.Context) error {
					var err error
					if i == 1 {
						err = c.fail
					}
					if i == 0 && c.fail == nil {
						cancel() // all the others may not have begun: nothing is lost by that
					}
					if err == nil {
						<-ctx.Done()
						if !p.stopping.Load() {
							t.Errorf("part %d was ended before the end began", i)
						}
					}
					mu.Lock()
					defer mu.Unlock()
					order = append(order, string(rune('0'+i)))
					return err
				})
			}
			calls := 0
			if err := p.run(ctx, func() { calls++ }, runs); !errors.Is(err, c.fail) {
				t.Errorf("got error %v, want %v", err, c.fail)
			}
			if !slices.Equal(order, c.want) || calls != 1 {
				t.Errorf("got order %q and %d calls of ended, want %q and 1", order, calls, c.want)
			}
		})
	}
}

// TestDependencies: the data plane stays lean and knows no registry.
func TestDependencies(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "github.com/hostmesh/hostmesh/proxy/xds") {
		t.Fatalf("go list answered %q", deps)
	}
	for _, dep := range deps {
		for _, forbidden := range []string{
			"hostmesh/registry", "hostmesh/controlplane", "prometheus/", "hashicorp/consul", "k8s.io/", "etcd", "spf13/", "envoy/admin/",
		} {
			if strings.Contains(dep, forbidden) {
				t.Errorf("mesh-proxy links %s", dep)
			}
		}
	}
}
