package testbed_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

func TestNamespaceHasTheAddressesAndNothingElse(t *testing.T) {
	t.Parallel()
	if testbed.InNamespace(t, "10.77.0.1", "10.77.0.2", "fd77::1") {
		return
	}
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) != 1 || interfaces[0].Name != "lo" {
		t.Fatalf("got interfaces %v, %v, want lo only", interfaces, err)
	}
	for _, address := range []string{"127.0.0.1", "10.77.0.1", "10.77.0.2", "fd77::1"} {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, "80"))
		if err != nil {
			t.Fatal(err)
		}
		dial(t, listener.Addr().String())
	}
	if processes, err := filepath.Glob("/proc/[0-9]*"); err != nil || len(processes) != 1 {
		t.Errorf("got processes %v, %v, want this one only", processes, err)
	}
	if os.Getenv(plantedEnv) != "" {
		t.Error("planted failure")
	}
}

// TestNamespaceServers shows that servers run inside as they do outside.
func TestNamespaceServers(t *testing.T) {
	t.Parallel()
	if testbed.InNamespace(t) {
		return
	}
	putEtcd(t, testbed.StartEtcd(t, testbed.EtcdOptions{})[0].Client(), "/key", "value")
}

// plantedEnv makes a test of this file fail, or hang, on purpose, in a process of its own.
const plantedEnv = "HOSTMESH_TESTBED_PLANTED"

func planted(t *testing.T, test, what string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), plantedEnv+"="+what)
	output := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = output, output
	return cmd, output
}

func TestNamespaceFailureInsideFailsOutside(t *testing.T) {
	t.Parallel()
	needNamespaces(t)
	cmd, output := planted(t, "TestNamespaceHasTheAddressesAndNothingElse", "fail")
	if err := cmd.Run(); err == nil {
		t.Error("the failure inside did not fail the test outside")
	}
	if text := output.String(); !strings.Contains(text, "planted failure") || !strings.Contains(text, "the test inside failed") {
		t.Errorf("the failure was not told:\n%s", text)
	}
}

func TestNamespaceEndsWithItsProcessOutside(t *testing.T) {
	t.Parallel()
	if mark := os.Getenv(plantedEnv); mark != "" {
		if !testbed.InNamespace(t) {
			_ = exec.Command("sleep", mark).Run()
		}
		return
	}
	needNamespaces(t)
	mark := fmt.Sprintf("%d.5", 1_000_000+os.Getpid()) // tells our sleep from all others
	cmd, output := planted(t, t.Name(), mark)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await := func(want bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); sleeps(t, mark) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				t.Fatalf("the process inside is there: %t, want %t\n%s", !want, want, output)
			}
		}
	}
	await(true)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	await(false)
	_ = cmd.Wait()
}

// needNamespaces skips what InNamespace would skip, in a test that calls it in another process.
func needNamespaces(t *testing.T) {
	t.Helper()
	if strings.Contains(os.Getenv("HOSTMESH_LEFT_OUT"), "Namespace") {
		t.Skip("Namespace is left out")
	}
}

// sleeps reports whether a process "sleep mark" runs anywhere on this machine.
func sleeps(t *testing.T, mark string) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && string(data) == "sleep\x00"+mark+"\x00" {
			return true
		}
	}
	return false
}
