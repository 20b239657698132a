package consul

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestRestAfterSlowAnswers has sweeps be long, and then single reads take some time. The rest is as long as the share of
// the time asks for while that is so, and over soon when reads are fast again.
func TestRestAfterSlowAnswers(t *testing.T) {
	names := make([]string, 10)
	for name, test := range map[string]struct {
		sweep time.Duration   // how long the sweeps take
		reads []time.Duration // how long the reads take after them; the last stands for all that follow
		want  time.Duration   // from the begin of a sweep to that of the next
	}{
		"short sweep":                  {300 * time.Millisecond, nil, time.Second},
		"answers stay slow":            {6 * time.Second, []time.Duration{3 * time.Second}, 18 * time.Second},
		"server has no time":           {6 * time.Second, []time.Duration{700 * time.Millisecond}, 18 * time.Second},
		"fast again":                   {6 * time.Second, []time.Duration{time.Millisecond}, 7*time.Second + time.Millisecond},
		"fast again during the second": {6 * time.Second, []time.Duration{3 * time.Second, time.Millisecond}, 11*time.Second + time.Millisecond},
		"somewhat faster":              {6 * time.Second, []time.Duration{400 * time.Millisecond}, 12 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var pace sweepPace
				began := time.Now()
				time.Sleep(test.sweep)
				pace.took(time.Since(began))
				reads := test.reads
				if err := pace.rest(t.Context(), began, names, func(context.Context, string) error {
					time.Sleep(reads[0])
					if len(reads) > 1 {
						reads = reads[1:]
					}
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(began); got != test.want {
					t.Errorf("the next sweep may begin %v after the last began, want %v", got, test.want)
				}
			})
		})
	}
}
