package main

import (
	"context"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// parts runs several long-running functions and ends them one after the other.
type parts struct {
	stopping atomic.Bool // the end has begun
}

// run runs all of runs until ctx ends or one of them returns. Then stopping is set, ended is called, and they are
// ended in their order: each is waited for before the next is told. The first error is returned.
func (p *parts) run(ctx context.Context, ended func(), runs []func(context.Context) error) error {
	g, over := errgroup.WithContext(ctx)
	over, finish := context.WithCancel(over)
	defer finish()
	var ends []func()
	for _, run := range runs {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		g.Go(func() error {
			defer finish()
			defer close(done)
			return run(own)
		})
		ends = append(ends, func() { cancel(); <-done })
	}
	<-over.Done()
	p.stopping.Store(true)
	ended()
	for _, end := range ends {
		end()
	}
	return g.Wait()
}
