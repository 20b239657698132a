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
	proxy []int
	load  int
	all   unix.CPUSet // that this process may run on
}

// pickProcessors gives the proxies the first n processors that this process may run on, and the load the next. When there is no next,
// the load shares the proxies' last: the time of the proxies is still their own.
func pickProcessors(n int) (processors, error) {
	p := processors{}
	if err := unix.SchedGetaffinity(os.Getpid(), &p.all); err != nil {
		return p, fmt.Errorf("read affinity: %w", err)
	}
	count := p.all.Count()
	if count < 2 || count < n {
		return p, fmt.Errorf("%d processor to run on, want %d: one for the load and the others for the proxy", count, max(2, n))
	}
	var cpus []int
	for i := 0; len(cpus) < min(count, n+1); i++ {
		if p.all.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	p.proxy, p.load = cpus[:n], cpus[len(cpus)-1]
	return p, nil
}

// pinSelf has every thread of this process run on these processors; threads and processes to come inherit it.
func pinSelf(set unix.CPUSet) error {
	return eachThread(os.Getpid(), func(tid int) error { return unix.SchedSetaffinity(tid, &set) })
}

// eachThread does something with every thread of a process that has not ended meanwhile.
func eachThread(pid int, do func(tid int) error) error {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return err
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return fmt.Errorf("read thread %q: %w", task.Name(), err)
		}
		if err := do(tid); err != nil && err != unix.ESRCH {
			return fmt.Errorf("pin thread %d: %w", tid, err)
		}
	}
	return nil
}

// onCPU runs f on a thread of its own that, with what it starts, runs on some processors.
func onCPU(cpus []int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		set := setOf(cpus...)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			done <- fmt.Errorf("pin to processors %v: %w", cpus, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func setOf(cpus ...int) unix.CPUSet {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	return set
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

// descendants returns the processes that a process has started, and those that they have.
func descendants(pid int) ([]int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	var pids []int
	for name := range strings.FieldsSeq(string(b)) {
		child, err := strconv.Atoi(name)
		if err != nil {
			return nil, fmt.Errorf("read children of %d: %w", pid, err)
		}
		more, err := descendants(child)
		if err != nil {
			return nil, err
		}
		pids = append(append(pids, child), more...)
	}
	return pids, nil
}

// memory is what a process has resident, in bytes: all, and what is of no file.
type memory struct{ resident, own int64 }

func memoryOf(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return memory{}, err
	}
	var size, resident, shared int64
	if _, err := fmt.Sscan(string(b), &size, &resident, &shared); err != nil {
		return memory{}, fmt.Errorf("read /proc/%d/statm: got %q: %w", pid, b, err)
	}
	page := int64(os.Getpagesize())
	return memory{resident * page, (resident - shared) * page}, nil
}
