// Command coredns is CoreDNS with the plugins that the benchmarks use and no others: a server of zone files. It is a module of
// its own so that nothing of it is linked into Hostmesh.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/file"
)

func main() {
	dnsserver.Directives = []string{"bind", "file"} // those that are not there would be looked for
	coremain.Run()
}
