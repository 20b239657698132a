package forward

import (
	"errors"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// TestHealth: when an upstream is down, and when it is tried.
func TestHealth(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	var h health
	silent := func(what string, now, asked float64, name string, unreachable, want bool) {
		t.Helper()
		h.silent(at(now), at(asked), dnsserver.Name(name), errors.New("no answer"), unreachable)
		if got := h.why() != ""; got != want {
			t.Fatalf("%s: down %v, want %v", what, got, want)
		}
	}
	due := func(what string, now float64, want bool) {
		t.Helper()
		if got := h.due(at(now)); got != want {
			t.Fatalf("%s: due %v, want %v", what, got, want)
		}
	}
	for _, name := range []string{"a", "a", "b", "a", "b"} {
		silent("two names", 2, 0, name, false, false)
	}
	h.heard(at(3))
	for _, name := range []string{"a", "b", "c", "d"} {
		silent("asked before the answer", 4, 2.9, name, false, false)
	}
	silent("refused before the answer", 4, 2.9, "a", true, false)
	silent("the first since", 5, 3.1, "a", false, false)
	silent("the second", 5, 3.1, "b", false, false)
	due("not down", 5, false)
	silent("the third", 5, 3.1, "c", false, true)
	for range 10 {
		silent("those that were under way", 5.1, 3.1, "d", false, true)
	}
	due("too soon", 5.9, false)
	due("after a second", 6, true)
	due("while it is tried", 6.1, false)
	silent("again", 8, 6, "e", false, true)
	due("too soon, the second time", 9.9, false)
	due("after two", 10, true)
	for now := 100.0; now < 1000; now += 100 {
		silent("again and again", now, now-1, "f", false, true)
	}
	due("too soon at the end", 929.9, false)
	due("after half a minute", 930, true)
	if !h.heard(at(931)) || h.heard(at(932)) || h.why() != "" {
		t.Fatal("it is not up after an answer, or twice")
	}
	silent("one name after that", 933, 932.5, "a", false, false)
	silent("it cannot be reached", 934, 933, "b", true, true)
	due("too soon, as at first", 934.9, false)
	due("as at first", 935, true)
}
