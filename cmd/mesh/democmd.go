package main

import (
	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/cmd/mesh/demo"
)

func demoCommand() *cobra.Command {
	var app demo.App
	cmd := &cobra.Command{
		Use:     "demo NAME",
		Short:   "Run one instance of the demo application (mesh dev starts three)",
		Example: "  mesh demo web --version v1 --listen 127.0.0.1:18081 --calls api.mesh.internal",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			app.Name = args[0]
			return app.Run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&app.Version, "version", "v1", "what it calls itself")
	flags.StringVar(&app.Listen, "listen", "127.0.0.1:18081", "where it listens")
	flags.StringVar(&app.Calls, "calls", "", "the service it calls for each request, by its mesh name")
	flags.StringVar(&app.Outbound, "outbound", "127.0.0.1:15001", "the mesh-proxy's outbound listener")
	return cmd
}
