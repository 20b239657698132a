// Command kube-apiserver is Kubernetes' API server: a real server for Hostmesh's tests. It is a module of its own so
// that nothing of a server is linked into Hostmesh.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
