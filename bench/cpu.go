package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processors says who runs where.
type processors struct {
	proxy, load int
}

// pin chooses the first two processors that this process may run on.
func pin() (processors, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &set); err != nil {
		return processors{}, fmt.Errorf("read affinity: %w", err)
	}
	if n := set.Count(); n < 2 {
		return processors{}, fmt.Errorf("%d processor to run on, want 2: one for the proxy and one for the load", n)
	}
	var cpus []int
	for i := 0; len(cpus) < 2; i++ {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return processors{cpus[0], cpus[1]}, nil
}

// onCPU runs f on a thread of its own that, with what it starts, runs on one processor.
func onCPU(cpu int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			done <- fmt.Errorf("pin to processor %d: %w", cpu, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// cpuTime returns the user and system time that a process has used, with all its threads, also those that have ended. It
// reads the process's own clock, which counts nanoseconds where /proc counts ticks.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED: clock_getcpuclockid(3)
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("read processor time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// rss returns the resident memory of a process in bytes.
func rss(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read /proc/%d/statm: got %q", pid, b)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
