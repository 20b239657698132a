package testbed

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// namespaceEnv tells the test binary that it runs inside, and for which test.
const namespaceEnv = "HOSTMESH_TESTBED_NAMESPACE"

// namespaceScript is the first process of the namespace: it gives the addresses, $1, to the loopback interface and
// runs the rest of its arguments.
const namespaceScript = `set -e; ip link set lo up; for a in $1; do ip addr add "$a" dev lo; done; shift; exec "$@"`

// InNamespace runs the calling test again in network and process namespaces of its own, where addrs (10.77.0.1) are
// addresses of the loopback interface and nothing else of the machine can be reached. It is for what refuses
// 127.0.0.0/8, as EndpointSlices do. Inside it returns false and the test goes on. Outside it returns true when the
// test inside has ended, having failed with it, and the caller returns at once:
//
//	if testbed.InNamespace(t, "10.77.0.1") {
//		return
//	}
//
// It must come first in a test, not in a subtest. It needs root; e2e/test.sh leaves it out without. Whatever the test
// inside leaves running ends with it, and it ends with the process outside, however that ends. Servers must have been
// built before: the module proxy is not reached from inside.
func InNamespace(t *testing.T, addrs ...string) (outside bool) {
	t.Helper()
	if os.Getenv(namespaceEnv) == t.Name() {
		return false
	}
	skipLeftOut(t, "Namespace")
	if strings.Contains(t.Name(), "/") {
		t.Fatal("run in a namespace: a subtest cannot be run alone")
	}
	if os.Geteuid() != 0 {
		t.Fatal("run in a namespace: it needs root (e2e/test.sh leaves it out)")
	}
	if err := runInNamespace(t, addrs); err != nil {
		t.Fatalf("run in a namespace: %v", err)
	}
	return true
}

func runInNamespace(t *testing.T, addrs []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{
		"--net", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", namespaceScript, "sh", strings.Join(addrs, " "),
		self, "-test.run=^" + regexp.QuoteMeta(t.Name()) + "$", "-test.v", "-test.count=1", "-test.timeout=" + timeLeft(t).String(),
	}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), namespaceEnv+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	// The kernel kills the child when the thread that forked it ends, so this thread is kept until then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	verdict := ""
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		t.Log(lines.Text())
		if result, ok := strings.CutPrefix(lines.Text(), "--- "); ok {
			verdict, _, _ = strings.Cut(result, ":")
		}
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil {
		return fmt.Errorf("the test inside failed: %w", err)
	}
	switch verdict {
	case "PASS":
		return nil
	case "SKIP":
		t.Skip("the test inside was skipped")
	}
	return errors.New("the test inside did not run")
}

// timeLeft is how long the test inside may take: what is left outside, less the time to tell of its end.
func timeLeft(t *testing.T) time.Duration {
	deadline, ok := t.Deadline()
	if !ok {
		return 0 // no limit
	}
	return max(time.Until(deadline)-5*time.Second, time.Second)
}
