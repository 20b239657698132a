package loop

import (
	"fmt"
	"math"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Expirer is told of a timer that ran out. It is called on the loop.
type Expirer interface {
	Expired(*Timer)
}

// Timer is a deadline, embedded in what it is for. The zero Timer is stopped. Starting, restarting and stopping one is
// a few stores: timers of equal duration stand in one list, in the order they were started, which is the order they run out.
type Timer struct {
	next, prev *Timer
	list       *timerList
	deadline   int64
	owner      Expirer
}

// Running reports whether the timer was started and has neither run out nor been stopped.
func (t *Timer) Running() bool { return t.list != nil }

// Stop stops the timer, if it runs.
func (t *Timer) Stop() {
	if t.list == nil {
		return
	}
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev, t.list = nil, nil, nil
}

// timerList is the ring of the timers of one duration; head.next runs out first.
type timerList struct {
	head Timer
}

func (l *timerList) init() { l.head.next, l.head.prev = &l.head, &l.head }

func (l *timerList) append(t *Timer) {
	head := &l.head
	t.list = l
	t.prev, t.next = head.prev, head
	head.prev.next = t
	head.prev = t
}

type timers struct {
	loop     *Loop
	byLength map[time.Duration]*timerList
	lists    []*timerList
	length   time.Duration // the last one looked up
	list     *timerList
	wheel    *wheel // nil until StartAt was called
	armed    int64  // when the timerfd fires; math.MaxInt64: never
	fd       Socket
}

func (ts *timers) init(l *Loop) {
	*ts = timers{loop: l, byLength: map[time.Duration]*timerList{}, armed: math.MaxInt64}
}

func (ts *timers) open() error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("create timerfd: %w", err)
	}
	return ts.fd.Open(ts.loop, fd, ts)
}

func (ts *timers) close() { ts.fd.Close() }

// Start has owner told when d has passed. A running timer is started afresh; a d of 0 or less only stops it. It is for the
// few durations that the configuration names: each has a list that stays. Others are for StartAt.
func (l *Loop) Start(t *Timer, d time.Duration, owner Expirer) {
	t.Stop()
	if d <= 0 {
		return
	}
	ts := &l.timers
	if ts.length != d {
		list := ts.byLength[d]
		if list == nil {
			list = &timerList{}
			list.init()
			ts.byLength[d] = list
			ts.lists = append(ts.lists, list)
		}
		ts.length, ts.list = d, list
	}
	t.owner, t.deadline = owner, l.now+int64(d)
	ts.list.append(t)
	if t.deadline < ts.armed {
		ts.arm(t.deadline)
	}
}

// arm sets the one kernel timer of the loop. It is left alone when its deadline was stopped in the meantime: it fires
// then for nothing, once per timeout and not once per request.
func (ts *timers) arm(deadline int64) {
	ts.armed = deadline
	wait := max(deadline-ts.loop.Clock(), 1)
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(wait)}
	_, _, _ = syscall.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(ts.fd.fd), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
}

// Ready takes the tick of the timerfd; run does the work.
func (ts *timers) Ready(Event) {
	var count [8]byte
	_, _ = ts.fd.Read(count[:])
}

// run tells the owners of timers that ran out, and arms for the next one.
func (ts *timers) run() {
	now := ts.loop.now
	if now < ts.armed {
		return
	}
	ts.armed = math.MaxInt64
	for i := 0; i < len(ts.lists); i++ {
		head := &ts.lists[i].head
		for head.next != head && head.next.deadline <= now {
			t := head.next
			t.Stop()
			t.owner.Expired(t)
		}
	}
	next := int64(math.MaxInt64)
	if ts.wheel != nil {
		next = ts.wheel.run(now)
	}
	for _, list := range ts.lists {
		if first := list.head.next; first != &list.head {
			next = min(next, first.deadline)
		}
	}
	if next < ts.armed {
		ts.arm(next)
	}
}
