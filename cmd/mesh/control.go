package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/consul"
	"github.com/hostmesh/hostmesh/registry/file"
	"github.com/hostmesh/hostmesh/registry/gossip"
)

func controlCommand() *cobra.Command {
	var path, state string
	var registries []string
	cmd := &cobra.Command{
		Use:   "control",
		Short: "Run the control plane: registries in, xDS and DNS out",
		Example: `  mesh control --config /etc/hostmesh/control.yaml
  mesh control --registry consul=127.0.0.1:8500 --state /tmp/control   # without a file`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := controlConfig(path, registries, cmd.Flags().Changed("config"))
			if err != nil {
				return err
			}
			if state != "" {
				if config.State, err = filepath.Abs(state); err != nil {
					return fmt.Errorf("find the state directory: %w", err)
				}
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			return runControl(cmd.Context(), config, log)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&path, "config", defaultControl, "the configuration file")
	flags.StringVar(&state, "state", "", "keep the last good state there (default the file's, or /var/lib/hostmesh)")
	flags.StringArrayVar(&registries, "registry", nil, "one more registry, as KIND=PLACE: "+registryPlaces)
	return cmd
}

// controlConfig reads the file, which may be absent when registries are given by flags, and adds those.
func controlConfig(path string, registries []string, named bool) (controlFile, error) {
	config := newControlFile()
	if _, err := os.Stat(path); err == nil || named || len(registries) == 0 {
		if config, err = readControlFile(path); err != nil {
			return config, err
		}
	}
	if len(registries) == 0 {
		return config, nil
	}
	var text strings.Builder
	text.WriteString("registries:\n")
	for _, flag := range registries {
		name, line, err := registryLine(flag)
		if err != nil {
			return config, err
		}
		fmt.Fprintf(&text, "  - name: %s\n    %s\n", name, line)
	}
	added, err := decodeControlFile("--registry", []byte(text.String()))
	if err != nil {
		return config, err
	}
	config.Registries = append(config.Registries, added.Registries...)
	return config, nil
}

func runControl(ctx context.Context, config controlFile, log *slog.Logger) error {
	if err := os.MkdirAll(config.State, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w (choose another with state: or --state)", err)
	}
	sources, err := config.sources(log)
	if err != nil {
		return err
	}
	catalog, err := registry.NewCatalog(sources, registry.Options{StateDir: config.State, Log: log})
	if err != nil {
		return err
	}
	server, err := controlplane.New(controlplane.Options{
		Domain: config.Domain, Catalog: catalog, Log: log,
		XDS: config.Listen.XDS, HTTP: config.Listen.HTTP, DNS: config.Listen.DNS,
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return catalog.Run(ctx) })
	group.Go(func() error { return server.Run(ctx) })
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil // asked to stop
}

// sources makes the adapters. Without any registry, the hosts' own gossip is the registry.
func (f controlFile) sources(log *slog.Logger) ([]registry.Source, error) {
	sections := f.Registries
	if len(sections) == 0 {
		sections = []registrySection{{Name: "hosts", Gossip: &gossip.Config{}}}
	}
	var sources []registry.Source
	for i, section := range sections {
		source := registry.Source{Name: section.Name, Kind: section.kinds()[0]}
		log := log.With("registry", section.Name)
		var err error
		switch {
		case section.Consul != nil:
			source.Registry, err = consul.New(*section.Consul, log)
		case section.File != nil:
			source.Registry = file.New(*section.File, log)
		case section.Gossip != nil:
			source.Registry = gossip.New(*section.Gossip, log)
		}
		if err != nil {
			return nil, fmt.Errorf("registries[%d].%s: %w", i, source.Kind, err)
		}
		sources = append(sources, source)
	}
	return sources, nil
}
