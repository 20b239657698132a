// Package dev is mesh dev: a whole mesh in one process tree on loopback, from the same programs and files that hosts run.
package dev

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options say what mesh dev runs. Dir must exist; everything it makes is below it.
type Options struct {
	Dir        string
	Domain     string
	Offset     int // added to every port
	Demo       bool
	Registries []Registry
	Mesh       string // the mesh program
	Proxy      string // the mesh-proxy program
	Out        io.Writer
}

// Registry is one more registry for the control plane: its name and its line of control.yaml.
type Registry struct{ Name, YAML string }

const readyTimeout = 30 * time.Second

// Run starts the tree, says on Out when it is ready and what to try, and keeps it running until ctx ends.
func Run(ctx context.Context, o Options) error {
	p := portsAt(o.Offset)
	if err := o.write(p); err != nil {
		return err
	}
	started := time.Now()
	logDir := filepath.Join(o.Dir, "log")
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range o.children(p) {
		group.Go(func() error { return c.run(ctx, logDir, o.Out) })
	}
	group.Go(func() error {
		probe := prober{Options: o, ports: p}
		if err := probe.wait(ctx, readyTimeout); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("not ready after %s: %w; the logs are in %s", readyTimeout, err, logDir)
		}
		probe.print(time.Since(started))
		return nil
	})
	return group.Wait()
}

func (o Options) children(p ports) []child {
	children := []child{
		{name: "mesh-control", argv: []string{o.Mesh, "control", "--config", filepath.Join(o.Dir, "control.yaml")}},
		{name: "mesh-proxy", argv: []string{o.Proxy, "--config", filepath.Join(o.Dir, "proxy.yaml")}},
	}
	if !o.Demo {
		return children
	}
	for _, d := range demoInstances(p.demo) {
		argv := []string{o.Mesh, "demo", d.service, "--version", d.version, "--listen", loopback(d.port)}
		if d.calls != "" {
			argv = append(argv, "--calls", d.calls+"."+o.Domain, "--outbound", loopback(p.outbound))
		}
		children = append(children, child{name: d.name, argv: argv})
	}
	return children
}

// Programs finds mesh-proxy beside the running mesh program.
func Programs() (mesh, proxy string, err error) {
	mesh, err = os.Executable()
	if err != nil {
		return "", "", fmt.Errorf("find the mesh program: %w", err)
	}
	proxy = filepath.Join(filepath.Dir(mesh), "mesh-proxy")
	if _, err := os.Stat(proxy); err != nil {
		return "", "", fmt.Errorf("find mesh-proxy beside %s: %w (make build builds both)", mesh, err)
	}
	return mesh, proxy, nil
}
