package hds_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A stream that says more than is asked for is read slowly, and of a report only so much as could have been asked for
// (CVE-2023-39325 in kind).
func TestCVEClass15_FloodsOfReportsAreReadSlowly(t *testing.T) {
	t.Parallel()
	l, client := start(t)
	a := join(t, client, "a")
	l.Set(doubt(1, "10.0.0.1:80"))
	a.want(t, "10.0.0.1:80")
	began := time.Now()
	const reports = 20
	for range reports {
		a.report(t, core.HealthStatus_UNHEALTHY, "10.0.0.1:80")
	}
	for range reports {
		l.want(t, proof{"a", "10.0.0.1:80", false})
	}
	if took := time.Since(began); took < (reports-2)*100*time.Millisecond {
		t.Errorf("%d reports were taken in %v, want ten a second at most", reports, took)
	}
	flood := slices.Repeat([]string{"10.0.0.1:80"}, 1100)
	a.report(t, core.HealthStatus_UNHEALTHY, flood...)
	a.report(t, core.HealthStatus_HEALTHY, "10.0.0.1:80")
	taken := 0
	for connected := false; !connected; taken++ {
		select {
		case p := <-l.proofs:
			connected = p.connected
		case <-time.After(patience):
			t.Fatal("the report after the flood did not come")
		}
	}
	if taken != 1001 {
		t.Errorf("%d proofs, want 1000 of the large report and one of the next", taken)
	}
}

// A client that opens a stream and says nothing does not hold it for ever (CVE-2026-22045 in kind).
func TestCVEClass16_SilentStreamsEnd(t *testing.T) {
	t.Parallel()
	_, client := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := client.StreamHealthCheck(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.DeadlineExceeded || ctx.Err() != nil {
		t.Errorf("got %v, want that the server ends it", err)
	}
}

// Whoever opens the socket may call himself any proxy, and any number of them (there are no identities yet). Then he is
// heard about what is doubted and asked of him, and about nothing else: he can have a registry's own word taken at once, or
// have it wait for the guard's time, and cannot touch an endpoint that a registry reports (CVE-2021-38698).
func TestCVEClass22_LiarsAreHeardOfDoubtsOnly(t *testing.T) {
	t.Parallel()
	l, client := start(t)
	var liars []*proxy
	for i := range 5 {
		liars = append(liars, join(t, client, fmt.Sprintf("proxy-%d", i)))
	}
	for _, liar := range liars { // nothing is doubted
		liar.report(t, core.HealthStatus_UNHEALTHY, "10.0.0.1:80", "10.0.0.2:80")
	}
	l.Set(doubt(4, "10.0.0.1:80"))
	for _, liar := range liars {
		liar.want(t, "10.0.0.1:80")
		liar.report(t, core.HealthStatus_UNHEALTHY, "10.0.0.2:80", "10.0.0.1:81", "10.0.0.1:80")
	}
	for range liars {
		select {
		case p := <-l.proofs:
			if p.at != "10.0.0.1:80" {
				t.Errorf("got %+v, which is not doubted", p)
			}
		case <-time.After(patience):
			t.Fatal("a proxy is not heard")
		}
	}
	if len(l.proofs) > 0 {
		t.Errorf("got %+v", <-l.proofs)
	}
}
