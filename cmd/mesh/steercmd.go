package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/proxy/loopback"
	"github.com/hostmesh/hostmesh/proxy/steer"
	"github.com/hostmesh/hostmesh/systemd"
)

func steerCommand() *cobra.Command {
	var pin string
	var off bool
	cmd := &cobra.Command{
		Use:   "steer",
		Short: "Have the kernel steer connections to services' loopback addresses to mesh-proxy (mesh-steer.service runs it)",
		Long: `Have the kernel give every TCP connection to ` + loopback.Range().String() + ` to the socket of mesh-steer.socket, from which mesh-proxy
accepts them. It needs Linux 5.9, CAP_BPF and CAP_NET_ADMIN, and ends at once: what it sets up is pinned to the BPF file system.`,
		Example: `  systemctl enable --now mesh-steer.socket mesh-steer.service
  mesh steer --off                            # services are reached by addresses that mesh-proxy binds again, once it restarts`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if off {
				return steer.Off(pin)
			}
			sockets := systemd.Sockets()
			if len(sockets) != 1 {
				return fmt.Errorf("steer connections: got %d sockets from the service manager, want that of mesh-steer.socket: start mesh-steer.service", len(sockets))
			}
			if err := steer.On(pin, sockets[0].FD); err != nil {
				return err
			}
			if !loopback.Steers(cmd.Context()) {
				return errors.New("steer connections: the program is in place, and connections are not steered: is the service in another network namespace?")
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "connections to", loopback.Range(), "are steered to mesh-proxy")
			return err
		},
	}
	cmd.Flags().StringVar(&pin, "pin", steer.DefaultPin, "where the program is pinned, in a BPF file system")
	cmd.Flags().BoolVar(&off, "off", false, "end it")
	return cmd
}
