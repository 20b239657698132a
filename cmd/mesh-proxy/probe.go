package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/hostmesh/hostmesh/proxy/probe"
)

// runProbe sends requests through a proxy and tells what was dropped. The exit status is 1 if anything was.
func runProbe(args []string, stdout, stderr io.Writer) int {
	var o probe.Options
	flags := flag.NewFlagSet("mesh-proxy probe", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.URL, "url", "http://127.0.0.1:15001/", "send requests there")
	flags.StringVar(&o.Host, "host", "", "the Host field; default: that of the URL")
	flags.IntVar(&o.Rate, "rate", 100, "requests a second")
	flags.DurationVar(&o.Duration, "duration", 10*time.Second, "how long; also until SIGINT or SIGTERM")
	flags.IntVar(&o.Kept, "connections", 16, "connections that are kept")
	flags.IntVar(&o.Fresh, "fresh", 50, "percent of the requests that have a connection of their own")
	flags.IntVar(&o.WebSockets, "websockets", 0, "WebSockets to hold open, at a service that sends back what it gets")
	flags.DurationVar(&o.Interval, "interval", time.Second, "between the messages of a WebSocket")
	flags.DurationVar(&o.Timeout, "timeout", 10*time.Second, "for an answer")
	flags.BoolVar(&o.HTTP2, "http2", false, "requests are HTTP/2: in plaintext by prior knowledge")
	roots := flags.String("cacert", "", "file of certificates that an https server's is verified by; default: the system's")
	output := flags.String("o", "text", "text or json")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 || *output != "text" && *output != "json" {
		fmt.Fprintf(stderr, "mesh-proxy probe: got -o %q and arguments %q, want text or json and flags only\n", *output, flags.Args())
		return 2
	}
	if *roots != "" {
		pem, err := os.ReadFile(*roots)
		if err == nil {
			o.TLS = &tls.Config{RootCAs: x509.NewCertPool()}
			if !o.TLS.RootCAs.AppendCertsFromPEM(pem) {
				err = fmt.Errorf("%s: got no certificate, want some in PEM", *roots)
			}
		}
		if err != nil {
			fmt.Fprintln(stderr, "mesh-proxy probe:", err)
			return 2
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	r, err := probe.Run(ctx, o)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if *output == "json" {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		_ = e.Encode(r)
	} else {
		fmt.Fprintf(stdout, "requests=%d answered=%d websockets=%d messages=%d p50=%v p99=%v max=%v dropped=%d\n",
			r.Requests, r.Answered, r.WebSockets, r.Messages, r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond), r.Max.Round(time.Microsecond), r.Dropped)
		for _, reason := range slices.Sorted(maps.Keys(r.Reasons)) {
			fmt.Fprintf(stdout, "dropped %d: %s\n", r.Reasons[reason], reason)
		}
	}
	if r.Dropped > 0 {
		return 1
	}
	return 0
}
