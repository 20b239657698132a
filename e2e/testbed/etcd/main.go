// Command etcd is etcd's server: a real server for Hostmesh's tests. It is a module of its own so that nothing of a
// server is linked into Hostmesh.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
