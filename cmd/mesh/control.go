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
	catalog, err := registry.NewCatalog(config.sources(log), registry.Options{StateDir: config.State, Rules: config.Merge.rules(), Log: log})
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
