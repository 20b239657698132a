package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/cmd/mesh/dev"
)

func devCommand() *cobra.Command {
	var options dev.Options
	var registries []string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole mesh on this machine, on loopback, with a demo application",
		Example: `  mesh dev
  mesh dev --registry consul=127.0.0.1:8500        # also the services of a Consul
  mesh dev --demo=false --registry file=./static.d`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if options.Registries, err = devRegistries(registries); err != nil {
				return err
			}
			if options.Mesh, options.Proxy, err = dev.Programs(); err != nil {
				return err
			}
			options.Out = cmd.OutOrStdout()
			if options.Dir == "" {
				if options.Dir, err = os.MkdirTemp("", "mesh-dev-"); err != nil {
					return fmt.Errorf("make a directory for mesh dev: %w", err)
				}
				defer os.RemoveAll(options.Dir)
			} else if options.Dir, err = filepath.Abs(options.Dir); err != nil {
				return fmt.Errorf("find the directory for mesh dev: %w", err)
			}
			return dev.Run(cmd.Context(), options)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&options.Demo, "demo", true, "run the demo application")
	flags.StringVar(&options.Dir, "dir", "", "keep files, state and logs there (default a temporary directory)")
	flags.StringVar(&options.Domain, "domain", defaultDomain, "the mesh's domain")
	flags.IntVar(&options.Offset, "port-offset", 0, "add this to every port, to run several meshes on one machine")
	flags.StringArrayVar(&registries, "registry", nil, "one more registry, as KIND=PLACE: "+registryPlaces)
	return cmd
}

func devRegistries(flags []string) ([]dev.Registry, error) {
	var all []dev.Registry
	for _, flag := range flags {
		name, line, err := registryLine(flag)
		if err != nil {
			return nil, err
		}
		all = append(all, dev.Registry{Name: name, YAML: line})
	}
	return all, nil
}
