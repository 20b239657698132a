package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/controlplane"
)

// RegistryCommand is mesh registry: what an operator decides about a registry.
func RegistryCommand() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:     "registry",
		Short:   "Decide about a registry",
		Example: "  mesh registry accept dc1",
	}
	c.flags(cmd)
	refuseUnknown(cmd)
	cmd.AddCommand(&cobra.Command{
		Use:   "accept NAME",
		Short: "Take a registry's word that its doubted endpoints are gone",
		Long: `Take a registry's word that its doubted endpoints are gone.

When a registry suddenly loses much, what it lost is kept and served, as doubted, until the registry has repeated it for
the guard's time or proxies cannot connect there. With this command it leaves at once. What is lost later is judged anew.`,
		Example: "  mesh get endpoints            # what is doubted, and why\n  mesh registry accept dc1",
		Args:    cobra.ExactArgs(1),
		RunE:    func(cmd *cobra.Command, args []string) error { return c.accept(cmd, args[0]) },
	})
	return cmd
}

func (c *client) accept(cmd *cobra.Command, name string) error {
	var accepted controlplane.Accepted
	data, err := c.call(cmd.Context(), http.MethodPost, "/api/v1/registries/"+url.PathEscape(name)+"/accept", &accepted)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) {
		if accepted.Released == 0 {
			fmt.Fprintf(w, "nothing of %s is doubted\n", printable(accepted.Registry))
			return
		}
		fmt.Fprintf(w, "%d endpoints of %s left\n", accepted.Released, printable(accepted.Registry))
	})
}
