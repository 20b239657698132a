package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// What the DNS servers serve.
const (
	meshDomain   = "mesh.internal."
	dnsEndpoints = 10
	dnsOfAFile   = 100 // services
)

func serviceName(i int) string { return fmt.Sprintf("service-%05d.default", i) }

// writeServices fills a folder that the registry of files reads.
func writeServices(dir string, services int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for from := 0; from < services; from += dnsOfAFile {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%05d.yaml", from)))
		if err != nil {
			return err
		}
		w := bufio.NewWriter(f)
		for i := from; i < min(from+dnsOfAFile, services); i++ {
			fmt.Fprintf(w, "---\nservice: service-%05d\nport: 8080\nprotocol: http\nendpoints:\n", i)
			for e := range dnsEndpoints {
				n := i*dnsEndpoints + e
				fmt.Fprintf(w, "  - address: 10.%d.%d.%d\n", n>>16, n>>8&0xff, n&0xff)
			}
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// The questions of the works, each about another service.

func askAddresses(i int) string { return serviceName(i) + "." + meshDomain + " A" }

func askServers(i int) string { return "_http._tcp." + serviceName(i) + "." + meshDomain + " SRV" }

func askNobody(i int) string { return "nobody-" + serviceName(i) + "." + meshDomain + " A" }

// questions are those about every service, in an order that is always the same.
func questions(ask func(int) string, services int) []string {
	all := make([]string, services)
	for at, i := range rand.New(rand.NewPCG(1, 2)).Perm(services) {
		all[at] = ask(i)
	}
	return all
}
