package consul

import (
	"context"
	"time"
)

// How often each kind of query is asked again at most.
const (
	serviceRate = 20
	checksRate  = 50
)

// listRate returns how many times a second a list of so many services is asked for at most. Any registration moves its
// index, and for each answer Consul goes through all instances: with 100,000 that takes it an eighth of a second of one
// core, which the answers that tell what changed then wait for. Only a service that is new waits for the list.
func listRate(services int) float64 {
	const most, least, listed = 10, 0.5, 10_000 // listed: entries of lists a second
	return min(most, max(least, listed/float64(max(1, services))))
}

// limiter keeps a query whose answer changes all the time from spinning: so many answers a second, and as many at once.
type limiter struct {
	perSecond float64
	spent     float64 // answers that are not paid off yet
	last      time.Time
}

func (l *limiter) wait(ctx context.Context) error {
	now := time.Now()
	if !l.last.IsZero() {
		l.spent = max(0, l.spent-now.Sub(l.last).Seconds()*l.perSecond)
	}
	l.last = now
	l.spent++
	if l.spent <= l.perSecond {
		return nil
	}
	return sleep(ctx, time.Duration((l.spent-l.perSecond)/l.perSecond*float64(time.Second)))
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
