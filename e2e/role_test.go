package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roleVariable names what this test binary is when it is no test: "name argument..".
const roleVariable = "HOSTMESH_E2E_ROLE"

// TestMain lets this binary play a client that has to be a process of its own: the cases of gRPC end the process that is not
// content, and attackers must not take the processor from those who are measured.
func TestMain(m *testing.M) {
	role := strings.Fields(os.Getenv(roleVariable))
	if len(role) == 0 {
		os.Exit(m.Run())
	}
	play := map[string]func(...string) error{"interop": playInterop, "attack": playAttack, "dnsflood": playDNSFlood}[role[0]]
	if play == nil {
		fmt.Fprintln(os.Stderr, "no role", role[0])
		os.Exit(2)
	}
	if err := play(role[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// role runs this binary in a role and returns what it printed. It ends with ctx at the latest.
func role(ctx context.Context, argv ...string) (output string, err error) {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), roleVariable+"="+strings.Join(argv, " "))
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, tail(said.String(), 2000))
	}
	return out.String(), nil
}
