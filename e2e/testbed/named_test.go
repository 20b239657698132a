package testbed_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// ask returns the answer's data of that type, sorted.
func ask(t *testing.T, n *testbed.Named, name string, kind uint16) []string {
	t.Helper()
	client := &dns.Client{Timeout: arrival}
	answer, _, err := client.ExchangeContext(t.Context(), new(dns.Msg).SetQuestion(name, kind), n.Address)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, rr := range answer.Answer {
		got = append(got, rr.String()[len(rr.Header().String()):])
	}
	slices.Sort(got)
	return got
}

func TestNamedTakesUpdatesAndKeepsThemOverAKill(t *testing.T) {
	t.Parallel()
	n := testbed.StartNamed(t)
	want := func(name string, kind uint16, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, ask(t, n, name, kind)); diff != "" {
			t.Fatalf("%s %s (-want +got):\n%s", name, dns.TypeToString[kind], diff)
		}
	}
	n.Update(t,
		"add web.test.example. 1 A 127.20.0.1", "add web.test.example. 1 A 127.20.0.2",
		"add _http._tcp.web.test.example. 1 SRV 0 10 8080 web.test.example.",
		"add gone.test.example. 1 A 127.20.0.3", "add less.test.example. 1 A 127.20.0.4", `add less.test.example. 1 TXT "x"`)
	want("web.test.example.", dns.TypeA, "127.20.0.1", "127.20.0.2")
	want("_http._tcp.web.test.example.", dns.TypeSRV, "0 10 8080 web.test.example.")
	n.Update(t, "delete web.test.example. A 127.20.0.1", "delete less.test.example. A", "delete gone.test.example.")
	for range 2 {
		want("web.test.example.", dns.TypeA, "127.20.0.2")
		want("less.test.example.", dns.TypeA)
		want("less.test.example.", dns.TypeTXT, `"x"`)
		want("gone.test.example.", dns.TypeA)
		n.Restart()
	}
}

func TestNamedPause(t *testing.T) {
	t.Parallel()
	n := testbed.StartNamed(t)
	n.Pause()
	client := &dns.Client{Timeout: 300 * time.Millisecond}
	if _, _, err := client.Exchange(new(dns.Msg).SetQuestion(testbed.NamedZone, dns.TypeSOA), n.Address); err == nil {
		t.Fatal("a paused server answered")
	}
	n.Continue()
	n.AwaitReady()
}
