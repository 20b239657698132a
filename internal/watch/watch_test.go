package watch_test

import (
	"sync"
	"testing"

	"github.com/hostmesh/hostmesh/internal/watch"
)

func TestReaderSeesTheLastValueAndSkipsOthers(t *testing.T) {
	var v watch.Value[int]
	got, changed := v.Get()
	if got != 0 {
		t.Fatalf("zero Value holds %d, want 0", got)
	}
	for i := 1; i <= 100; i++ {
		v.Set(i)
	}
	<-changed
	if got := v.Load(); got != 100 {
		t.Errorf("Load() = %d, want the last value set, 100", got)
	}
}

func TestGetAfterSetDoesNotWake(t *testing.T) {
	v := watch.New("a")
	_, changed := v.Get()
	select {
	case <-changed:
		t.Error("the channel is closed although nothing was set since Get")
	default:
	}
}

func TestConcurrentReadersAllReachTheLastValue(t *testing.T) {
	const last = 1000
	v := watch.New(0)
	var readers sync.WaitGroup
	for range 8 {
		readers.Go(func() {
			for {
				got, changed := v.Get()
				if got == last {
					return
				}
				<-changed
			}
		})
	}
	for i := 1; i <= last; i++ {
		v.Set(i)
	}
	readers.Wait()
}
