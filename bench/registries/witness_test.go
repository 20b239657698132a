package registries

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

// A witness is another client of the server, in a process of its own. It asks about one service at a time, as the adapter does, and
// says when it was answered: that is the server's own event. What the server did before it, collecting its garbage above all, is
// then in neither figure of ours.
type witness struct {
	to   *bufio.Writer
	from *bufio.Reader
}

const witnessEnv = "HOSTMESH_BENCH_WITNESS" // the server's address and the file of its authority

func TestMain(m *testing.M) {
	if server := os.Getenv(witnessEnv); server != "" {
		if err := testify(strings.Fields(server)); err != nil {
			fmt.Fprintln(os.Stderr, "witness:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// testify answers each name of a service with a line when it waits for a change of it, and one with the time when it was told of one.
func testify(server []string) error {
	client, err := api.NewClient(&api.Config{Address: server[0], TLSConfig: api.TLSConfig{CAFile: server[1]}})
	if err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		_, meta, err := client.Health().Service(in.Text(), "", false, nil)
		if err != nil {
			return err
		}
		fmt.Println("waiting")
		if _, _, err = client.Health().Service(in.Text(), "", false, &api.QueryOptions{WaitIndex: meta.LastIndex, AllowStale: true}); err != nil {
			return err
		}
		fmt.Println(time.Now().UnixNano())
	}
	return nil
}

func startWitness(b *testing.B, address, caFile string) *witness {
	b.Helper()
	program, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), witnessEnv+"="+address+" "+caFile)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	return &witness{bufio.NewWriter(in), bufio.NewReader(out)}
}

// watch has the witness wait for the next change of a service.
func (w *witness) watch(service string) error {
	if _, err := fmt.Fprintln(w.to, service); err != nil {
		return err
	}
	if err := w.to.Flush(); err != nil {
		return err
	}
	if line, err := w.from.ReadString('\n'); err != nil || line != "waiting\n" {
		return fmt.Errorf("the witness says %q: %w", line, err)
	}
	return nil
}

// told returns when it was told of the change.
func (w *witness) told() (time.Time, error) {
	line, err := w.from.ReadString('\n')
	if err != nil {
		return time.Time{}, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	return time.Unix(0, n), err
}

// settle waits until the processors have little to do: the server too is at work for a while after a first sync.
func settle(b *testing.B) {
	b.Helper()
	const limit = 2 * time.Minute
	quiet, before := 0, idle(b)
	for began := time.Now(); quiet < 3; {
		if time.Since(began) > limit {
			b.Logf("the machine is not quiet after %s", limit)
			return
		}
		time.Sleep(time.Second)
		now := idle(b)
		if quiet++; now-before < 0.8 {
			quiet = 0
		}
		before = now
	}
}

// idle returns for how many seconds the average processor has been idle.
func idle(b *testing.B) float64 {
	b.Helper()
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	processors := strings.Count(string(data), "\ncpu")
	all := strings.Fields(string(data)) // cpu, user, nice, system, idle, ...
	ticks, err := strconv.Atoi(all[4])
	if err != nil {
		b.Fatal(err)
	}
	return float64(ticks) / 100 / float64(processors)
}
