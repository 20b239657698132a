// Command mesh is the operator's side of Hostmesh: it runs the control plane and shows what the mesh knows.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/cmd/mesh/cli"
)

// version is set by the linker (make build); a plain go build says "devel".
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, errShown) {
			fmt.Fprintln(os.Stderr, "mesh:", err)
		}
		os.Exit(1)
	}
}

// errShown ends a command unsuccessfully when its output has already said why.
var errShown = errors.New("shown")

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mesh",
		Short: "A registry-agnostic service mesh for VMs and bare metal",
		Example: `  mesh dev                                    # a whole mesh on this machine, with a demo
  mesh control --registry consul=127.0.0.1:8500   # a control plane for the services of a Consul
  mesh get services                           # what the mesh knows
  mesh check /etc/hostmesh/control.yaml       # is this file right?`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(controlCommand(), devCommand(), checkCommand(), demoCommand(), steerCommand(), versionCommand(), cli.GetCommand(), cli.RegistryCommand(), cli.DNSCommand())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			goVersion := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				goVersion = info.GoVersion
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "mesh %s (%s)\n", version, goVersion)
			return err
		},
	}
}
