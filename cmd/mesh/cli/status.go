package cli

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostmesh/hostmesh/controlplane"
	"github.com/hostmesh/hostmesh/controlplane/xds"
	"github.com/hostmesh/hostmesh/registry"
)

func (c *client) proxies(cmd *cobra.Command) error {
	var all controlplane.Proxies
	data, err := c.ask(cmd.Context(), "/api/v1/proxies", &all)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) {
		now := time.Now()
		row(w, "ID", "KIND", "STATE", "SINCE", "CDS", "EDS", "LDS", "RDS")
		for _, p := range all.Proxies {
			state, when := "connected", p.Connected
			if p.Disconnected != nil {
				state, when = "disconnected", *p.Disconnected
			}
			byType := map[string]string{}
			for _, t := range p.Types {
				byType[t.Type] = progress(t, all.Number)
			}
			row(w, p.NodeID, p.Kind, state, age(now, when), byType["CDS"], byType["EDS"], byType["LDS"], byType["RDS"])
		}
		for _, p := range all.Proxies {
			for _, t := range p.Types {
				if t.Nack != nil {
					fmt.Fprintf(w, "\n%s refused %s of %d, %s ago: %s\n", printable(p.NodeID), t.Type, t.Nack.Number, age(now, t.Nack.Time), printable(t.Nack.Reason))
				}
			}
		}
	})
}

// progress says how far a client is: a type whose resources did not change since is current with an older number.
func progress(t xds.TypeStatus, number uint64) string {
	switch {
	case t.Nack != nil:
		return "REFUSED"
	case t.Sent == 0:
		return "nothing"
	case t.Acked < t.Sent:
		return "waits for ACK"
	case t.Acked >= number:
		return "current"
	default:
		return "at " + strconv.FormatUint(t.Acked, 10)
	}
}

func (c *client) registries(cmd *cobra.Command) error {
	var all controlplane.Registries
	data, err := c.ask(cmd.Context(), "/api/v1/registries", &all)
	if err != nil {
		return err
	}
	return c.show(data, func(w io.Writer) {
		row(w, "NAME", "KIND", "STATE", "SERVICES", "ENDPOINTS", "LAST VIEW", "PROBLEMS", "DOUBTED")
		for _, r := range all.Registries {
			view := age(all.Time, r.LastView)
			if r.FromSeal {
				view += " (sealed)"
			}
			row(w, r.Name, r.Kind, string(r.State), strconv.Itoa(r.Services), strconv.Itoa(r.Endpoints), view, count(len(r.Problems)), count(r.Doubted))
		}
		for _, r := range all.Registries {
			explain(w, all.Time, r)
		}
	})
}

// shownProblems is how many problems of one registry a table shows.
const shownProblems = 10

// explain says, below the table, all that is wrong with a registry and what that means.
func explain(w io.Writer, now time.Time, r registry.SourceStatus) {
	if r.Error != "" {
		fmt.Fprintf(w, "\n%s is %s for %s: %s\n", r.Name, r.State, age(now, r.ErrorSince), printable(r.Error))
		if r.Services > 0 {
			fmt.Fprintf(w, "  its last view is kept and served\n")
		}
	}
	if r.Doubted > 0 {
		fmt.Fprintf(w, "\n%s: %d endpoints that it does not report any more are kept, for %s: %s\n  mesh registry accept %s lets them go\n",
			r.Name, r.Doubted, age(now, r.DoubtedSince), printable(r.DoubtReason), r.Name)
	}
	for _, refused := range []string{r.SealRefused, r.SealError} {
		if refused != "" {
			fmt.Fprintf(w, "\n%s: %s\n", r.Name, printable(refused))
		}
	}
	for i, p := range r.Problems {
		if i == shownProblems {
			fmt.Fprintf(w, "\n%s: %d more entries cannot be read; mesh get registries -o json lists all\n", r.Name, len(r.Problems)-i)
			break
		}
		fmt.Fprintf(w, "\n%s: %s: %s\n", r.Name, printable(p.Object), printable(p.Reason))
	}
}
