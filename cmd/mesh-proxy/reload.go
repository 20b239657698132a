package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy"
)

// reload asks the running process to have a new one take over, and waits for how that ends. systemd's ExecReload is
// this: Debian 12's has no Type=notify-reload.
func reload(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("mesh-proxy reload", flag.ContinueOnError)
	flags.SetOutput(stderr)
	config := flags.String("config", defaultConfig, "find the admin socket by this proxy.yaml")
	socket := flags.String("admin-socket", "", "ask at this admin socket instead")
	timeout := flags.Duration("timeout", time.Minute, "wait so long for the answer")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "mesh-proxy reload: got argument %q, want flags only\n", flags.Arg(0))
		return 2
	}
	if *socket == "" {
		f, err := proxy.ReadFile(*config)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return 1
		}
		*socket = f.AdminSocket
	}
	if err := askUpgrade(*socket, *timeout); err != nil {
		fmt.Fprintln(stderr, "mesh-proxy reload:", err)
		return 1
	}
	fmt.Fprintln(stdout, "the new process serves")
	return 0
}

func askUpgrade(socket string, timeout time.Duration) error {
	if socket == "" {
		return errors.New("there is no admin socket: name one by --admin-socket or adminSocket in proxy.yaml")
	}
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	resp, err := client.Post("http://localhost/upgrade", "", nil)
	if err != nil {
		return fmt.Errorf("ask at %s: %w", socket, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("ask at %s: %w", socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(text)))
	}
	return nil
}
