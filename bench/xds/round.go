package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// quiet is how long a server's work for a change is waited for after the last client has answered.
const quiet = 300 * time.Millisecond

// child is a process of this program in another role. It takes words on its standard input and answers each with a line.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func spawn(args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start %v: %w", args, err)
	}
	cmd := exec.Command(self, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %v: %w", args, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %v: %w", args, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %v: %w", args, err)
	}
	return &child{cmd, in, bufio.NewScanner(out)}, nil
}

func (c *child) read() (string, error) {
	if !c.out.Scan() {
		return "", fmt.Errorf("%v ended: %w", c.cmd.Args[1:], errors.Join(c.out.Err(), io.ErrUnexpectedEOF))
	}
	return c.out.Text(), nil
}

// nanos reads a line that is a number of nanoseconds.
func (c *child) nanos() (int64, error) {
	line, err := c.read()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(line, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read answer of %v: %w", c.cmd.Args[1:], err)
	}
	return n, nil
}

func (c *child) say(word string) error {
	if _, err := fmt.Fprintln(c.in, word); err != nil {
		return fmt.Errorf("tell %v: %w", c.cmd.Args[1:], err)
	}
	return nil
}

// stop ends the process, which does so when its input ends.
func (c *child) stop() error {
	if err := c.in.Close(); err != nil {
		return fmt.Errorf("stop %v: %w", c.cmd.Args[1:], err)
	}
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("stop %v: %w", c.cmd.Args[1:], err)
	}
	return nil
}

// cpu returns the user and system time of a process in milliseconds, from its own clock, which is exact where the ticks
// of /proc/PID/stat are 10 ms.
func (c *child) cpu() (float64, error) {
	const sched = 2 // CPUCLOCK_SCHED in Linux' posix-timers.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^c.cmd.Process.Pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("read CPU time of %v: %w", c.cmd.Args[1:], err)
	}
	return float64(ts.Nano()) / 1e6, nil
}

// rss returns the resident memory of a process in MiB.
func (c *child) rss() (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	return kib / 1024, nil
}

// contender is one server with its clients.
type contender struct {
	name            string
	server, clients *child
	figures
	latencies []float64
}

func oneRound(o options, order []string) (result map[string]figures, err error) {
	var contenders []*contender
	defer func() {
		for _, c := range contenders {
			err = errors.Join(err, c.clients.stop(), c.server.stop())
		}
	}()
	for _, name := range order {
		c, err := connect(o, name)
		if err != nil {
			return nil, err
		}
		contenders = append(contenders, c)
	}
	time.Sleep(o.settle)
	for _, c := range contenders {
		if c.memory, err = c.server.rss(); err != nil {
			return nil, err
		}
	}
	for range o.changes {
		for _, c := range contenders {
			if err := c.change(); err != nil {
				return nil, err
			}
		}
	}
	result = map[string]figures{}
	for _, c := range contenders {
		c.latency = median(c.latencies)
		c.cpu /= float64(o.changes)
		result[c.name] = c.figures
	}
	return result, nil
}

// connect starts a server and syncs all clients with it.
func connect(o options, name string) (*contender, error) {
	n, s := strconv.Itoa(o.clients), strconv.Itoa(o.services)
	server, err := spawn("-role", name, "-services", s)
	if err != nil {
		return nil, err
	}
	addr, err := server.read()
	if err != nil {
		return nil, err
	}
	time.Sleep(quiet) // its start is no part of the sync
	clients, err := spawn("-role", "clients", "-addr", addr, "-clients", n, "-services", s)
	if err != nil {
		return nil, errors.Join(err, server.stop())
	}
	c := &contender{name: name, server: server, clients: clients}
	before, err := server.cpu()
	if err != nil {
		return nil, errors.Join(err, clients.stop(), server.stop())
	}
	took, err := clients.nanos()
	if err != nil {
		return nil, errors.Join(err, clients.stop(), server.stop())
	}
	time.Sleep(quiet)
	after, err := server.cpu()
	if err != nil {
		return nil, errors.Join(err, clients.stop(), server.stop())
	}
	c.sync, c.syncCPU = float64(took)/1e6, after-before
	return c, nil
}

// change changes one endpoint and waits for the last answer.
func (c *contender) change() error {
	before, err := c.server.cpu()
	if err != nil {
		return err
	}
	if err := c.server.say("change"); err != nil {
		return err
	}
	from, err := c.server.nanos()
	if err != nil {
		return err
	}
	to, err := c.clients.nanos()
	if err != nil {
		return err
	}
	time.Sleep(quiet)
	after, err := c.server.cpu()
	if err != nil {
		return err
	}
	c.latencies = append(c.latencies, float64(to-from)/1e6)
	c.cpu += after - before
	return nil
}
