package http2

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestH2spec: the judge of HTTP/2 servers finds nothing, also where it is strict. Package e2e has it judge the whole proxy.
func TestH2spec(t *testing.T) {
	judge, err := testbed.Build(t.Context(), "h2spec")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, judge, "-S", "-P", "/?long", "-p", fmt.Sprint(listen(t).Port)).CombinedOutput()
	count := regexp.MustCompile(`(\d+) tests, (\d+) passed, 0 skipped, 0 failed`).FindSubmatch(out)
	if err != nil || count == nil || len(count[1]) < 3 {
		t.Errorf("%v\n%s", err, out)
	}
}
