package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	healthv3 "github.com/envoyproxy/go-control-plane/envoy/service/health/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	firstHealthRetry = time.Second
	lastHealthRetry  = 30 * time.Second
)

// checkForServer does the connect checks that the server asks for over the Health Discovery Service, until ctx ends. It
// dials nothing that it is not asked to. A server that does not have the service is not asked again.
func (c *Client) checkForServer(ctx context.Context, conn *grpc.ClientConn) {
	wait := firstHealthRetry
	for {
		began := time.Now()
		err := c.healthSession(ctx, conn)
		switch {
		case ctx.Err() != nil:
			return
		case status.Code(err) == codes.Unimplemented:
			c.log.Debug("the control plane does not ask for health checks")
			return
		case time.Since(began) > lastHealthRetry:
			wait = firstHealthRetry
		}
		c.log.Debug("no health checks are asked for now", "err", err)
		pause := time.NewTimer(wait/2 + rand.N(wait/2))
		wait = min(2*wait, lastHealthRetry)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// healthSession is one stream. It always returns an error.
func (c *Client) healthSession(ctx context.Context, conn *grpc.ClientConn) error {
	node, err := c.options.Bootstrap.Node.proto(c.options.Version)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	stream, err := healthv3.NewHealthDiscoveryServiceClient(conn).StreamHealthCheck(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&healthv3.HealthCheckRequestOrEndpointHealthResponse{
		RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_HealthCheckRequest{
			HealthCheckRequest: &healthv3.HealthCheckRequest{
				Node:       node,
				Capability: &healthv3.Capability{HealthCheckProtocols: []healthv3.Capability_Protocol{healthv3.Capability_TCP}},
			},
		},
	})
	if err != nil && !errors.Is(err, io.EOF) { // then Recv has the reason
		return fmt.Errorf("ask for health checks: %w", err)
	}
	specifiers := make(chan *healthv3.HealthCheckSpecifier)
	g.Go(func() error {
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			select {
			case specifiers <- m:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	g.Go(func() error {
		return c.followSpecifiers(ctx, specifiers, func(report *healthv3.EndpointHealthResponse) error {
			err := stream.Send(&healthv3.HealthCheckRequestOrEndpointHealthResponse{
				RequestType: &healthv3.HealthCheckRequestOrEndpointHealthResponse_EndpointHealthResponse{EndpointHealthResponse: report},
			})
			if errors.Is(err, io.EOF) {
				return nil // Recv has the reason
			}
			return err
		})
	})
	if err := g.Wait(); !errors.Is(err, io.EOF) {
		return err
	}
	return errors.New("the server ended the stream")
}

// followSpecifiers does what the latest specifier asks for: it takes the place of the one before.
func (c *Client) followSpecifiers(ctx context.Context, specifiers <-chan *healthv3.HealthCheckSpecifier, send func(*healthv3.EndpointHealthResponse) error) error {
	for m := (*healthv3.HealthCheckSpecifier)(nil); ; {
		checks, left := newHealthChecks(m)
		for _, reason := range left {
			c.log.Warn("health checks of the control plane left out", "reason", reason)
		}
		running, stop := context.WithCancel(ctx)
		var g errgroup.Group
		g.Go(func() error { checks.run(running); return nil })
		failed := make(chan error, 1)
		g.Go(func() error {
			if err := checks.report(running, send); err != nil {
				failed <- err
			}
			return nil
		})
		var err error
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case err = <-failed:
		case m = <-specifiers:
		}
		stop()
		_ = g.Wait()
		if err != nil {
			return err
		}
	}
}
