package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

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
			again := func() (controlFile, error) { return controlConfig(path, registries, cmd.Flags().Changed("config")) }
			return runControl(cmd.Context(), config, again, log)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&path, "config", defaultControl, "the configuration file")
	flags.StringVar(&state, "state", "", "keep the last good state there (default the file's, or /var/lib/hostmesh)")
	flags.StringArrayVar(&registries, "registry", nil, "one more registry, as KIND=PLACE: "+registryPlaces)
	return cmd
}

// controlConfig reads the file, which may be absent when registries are given by flags, and adds those. The file's merge
// rules may name them.
func controlConfig(path string, registries []string, named bool) (controlFile, error) {
	added, err := flagRegistries(registries)
	if err != nil {
		return newControlFile(), err
	}
	config := newControlFile()
	if _, err := os.Stat(path); err == nil || named || len(registries) == 0 {
		if config, err = readControlFile(path, added); err != nil {
			return config, err
		}
	}
	config.Registries, config.added = append(config.Registries, added...), nil
	return config, nil
}

// flagRegistries reads what --registry says, as what it is short for.
func flagRegistries(flags []string) ([]registrySection, error) {
	if len(flags) == 0 {
		return nil, nil
	}
	var text strings.Builder
	text.WriteString("registries:\n")
	for _, flag := range flags {
		name, line, err := registryLine(flag)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&text, "  - name: %s\n    %s\n", name, line)
	}
	f, err := decodeControlFile("--registry", []byte(text.String()))
	return f.Registries, err
}

// runControl runs the control plane until ctx ends. again reads the configuration once more, at a SIGHUP.
func runControl(ctx context.Context, config controlFile, again func() (controlFile, error), log *slog.Logger) error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGHUP) // before anything takes time: without it a SIGHUP ends the process
	defer signal.Stop(asked)
	if err := os.MkdirAll(config.State, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w (choose another with state: or --state)", err)
	}
	catalog, err := registry.NewCatalog(config.sources(log), registry.Options{StateDir: config.State, Rules: config.Merge.rules(), Log: log})
	if err != nil {
		return err
	}
	names, err := config.DNS.options(config.Domain, config.State, log)
	if err != nil {
		return err
	}
	names.Kubernetes = config.namesOfKind("kubernetes")
	server, err := controlplane.New(controlplane.Options{
		Domain: config.Domain, Catalog: catalog, Log: log, XDS: config.Listen.XDS, HTTP: config.Listen.HTTP, DNS: names,
	})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return catalog.Run(ctx) })
	group.Go(func() error { return server.Run(ctx) })
	group.Go(func() error { return reload(ctx, asked, config, again, catalog, log) })
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil // asked to stop
}

// reload reads the configuration again each time it is asked to, and takes what can be taken while running, the merge rules. A file
// with a mistake changes nothing.
func reload(ctx context.Context, asked <-chan os.Signal, running controlFile, again func() (controlFile, error), catalog *registry.Catalog, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-asked:
		}
		next, err := again()
		if err == nil {
			err = catalog.SetRules(next.Merge.rules())
			if err != nil && !slices.Equal(next.sourceNames(), running.sourceNames()) {
				err = fmt.Errorf("%w (the file has other registries now, which want a restart)", err)
			}
		}
		if err != nil {
			log.Error("configuration not reloaded, the old one stays", "error", err)
			continue
		}
		next.Merge, running.Merge = mergeSection{}, mergeSection{}
		next.State = running.State // --state goes before
		if !reflect.DeepEqual(next, running) {
			log.Warn("the configuration has changes that want a restart: only merge is taken at a reload")
		}
		log.Info("configuration reloaded")
	}
}
