package proxy_test

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
)

// TestPanicOnALoopEndsTheProcess: nobody knows what state a panic left behind, so nothing recovers from it; the process ends
// at once, its log says where, and who supervises it starts it again.
func TestPanicOnALoopEndsTheProcess(t *testing.T) {
	const inChild = "HOSTMESH_TEST_PANIC"
	if os.Getenv(inChild) != "" {
		p := start(t, &config.Config{}, nil)
		p.Panic()
		time.Sleep(10 * time.Second)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestPanicOnALoopEndsTheProcess$")
	cmd.Env = append(os.Environ(), inChild+"=1")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("the process ended with %v, want status 2", err)
	}
	for _, want := range []string{"panic: a bug on a loop", "proxy/export_test.go:", "loop.(*Loop).Run"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the log does not say %q:\n%s", want, out)
		}
	}
}
