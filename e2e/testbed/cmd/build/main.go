// Command build builds the servers that the tests run against, and prints where each is.
//
//	go run ./e2e/testbed/cmd/build [h2spec|coredns|consul|etcd|kube-apiserver ..]   all of them if none is named
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

func main() {
	names := os.Args[1:]
	if len(names) == 0 {
		names = testbed.Servers()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for _, name := range names {
		path, err := testbed.Build(ctx, name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			stop()
			os.Exit(1) //nolint:gocritic // stop has run
		}
		fmt.Println(path)
	}
}
