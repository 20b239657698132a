// Command consul is "consul agent" and nothing else: a real server for Hostmesh's tests.
//
// It is a module of its own so that nothing of Consul (Business Source License) is ever linked into, or distributed
// with, Hostmesh. Leaving the other subcommands out halves what has to be compiled.
package main

import (
	"os"

	mcli "github.com/mitchellh/cli"

	"github.com/hashicorp/consul/command/agent"
	"github.com/hashicorp/consul/command/cli"
)

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "agent" {
		args = args[1:]
	}
	ui := &cli.BasicUI{BasicUi: mcli.BasicUi{Writer: os.Stdout, ErrorWriter: os.Stderr}}
	os.Exit(agent.New(ui).Run(args))
}
