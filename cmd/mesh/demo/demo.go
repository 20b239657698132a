// Package demo is the small application of mesh dev: web, which calls api through the mesh.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// App is one instance of the demo's web or api.
type App struct {
	Name     string // "web" or "api", said in every answer
	Version  string // said in every answer
	Listen   string // host:port
	Calls    string // the mesh name it calls for each request; empty: it calls nobody
	Outbound string // host:port of the mesh-proxy's outbound listener, used when Calls is set
}

const (
	callTimeout  = 5 * time.Second
	drainTimeout = 5 * time.Second
	maxAnswer    = 4 << 10
)

// Run serves until ctx ends, then finishes the requests under way.
func (a App) Run(ctx context.Context) error {
	listener, err := net.Listen("tcp", a.Listen)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", a.Name, err)
	}
	server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: callTimeout}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve %s: %w", a.Name, err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := server.Shutdown(drain); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop %s: %w", a.Name, err)
	}
	return nil
}

func (a App) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer := fmt.Sprintf("%s %s", a.Name, a.Version)
		if a.Calls != "" {
			called, err := a.call(r.Context())
			if err != nil {
				http.Error(w, fmt.Sprintf("%s: call %s: %v", answer, a.Calls, err), http.StatusBadGateway)
				return
			}
			answer += " ← " + called
		}
		_, _ = io.WriteString(w, answer+"\n")
	})
	return mux
}

// call asks the mesh for Calls: the proxy finds it by the Host header, as any application without capture would.
func (a App) call(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Outbound+"/", nil)
	if err != nil {
		return "", err
	}
	req.Host = a.Calls
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body)))
	}
	return strings.TrimSpace(string(body)), nil
}
