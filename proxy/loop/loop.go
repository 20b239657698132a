// Package loop is the engine under the data path: one epoll loop per core, and everything that belongs to it.
//
// A [Loop] owns sockets, timers, buffers and a queue of tasks from other goroutines. Whatever it calls (handlers, timers,
// tasks) runs on its one goroutine, so all state of a loop is used without locks. While nothing happens that goroutine
// is parked in the runtime's own netpoller, on the epoll descriptor itself: a thread blocked in epoll_wait would cost
// the scheduler several futex calls for each event at low rates.
package loop

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batch = 256 // events taken from the kernel at once

	// SharedSize is the size of a loop's shared read buffer behind its headroom.
	SharedSize = 64 << 10
	// Headroom is the space in front of the shared read buffer, for what is to be sent before what was read.
	Headroom = 16 << 10
)

// Handler is told what happened on its socket. It is called on the loop and must not block.
type Handler interface {
	Ready(Event)
}

// Event is a set of things that happened on a socket. Sockets are registered edge-triggered: each is told once, and the
// handler must go on until a call says EAGAIN, or ask for another turn with Again.
type Event uint32

// The events.
const (
	In    Event = unix.EPOLLIN
	Out   Event = unix.EPOLLOUT
	Hup   Event = unix.EPOLLRDHUP | unix.EPOLLHUP // the peer will send no more: read on to the end
	Err   Event = unix.EPOLLERR
	Retry Event = 1 << 29 // the turn that Again asked for; set along with In
)

// slot says who owns a descriptor. The generation tells an event of a closed socket from one of its successor, which
// the kernel gave the same number.
type slot struct {
	socket *Socket
	gen    uint32
}

// Loop is one event loop. Its methods are for its own goroutine, but for Post and Do.
type Loop struct {
	epfd   int
	file   *os.File
	raw    syscall.RawConn
	poll   func(uintptr) bool
	events [batch]unix.EpollEvent
	count  int // of events
	errno  syscall.Errno

	slots   []slot // by descriptor
	again   []*Socket
	turn    []*Socket
	start   time.Time
	now     int64
	timers  timers
	buffers buffers
	shared  []byte

	flushers   []Flusher
	handshakes *Handshakes

	wakeup Socket
	mu     sync.Mutex
	tasks  []func() // guarded by mu
	closed bool     // guarded by mu
	doing  []func()
}

// New makes a loop. It must be run, or closed by running it with an ended context.
func New() (*Loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	// The runtime takes a descriptor into its netpoller only if it is non-blocking.
	if err := unix.SetNonblock(epfd, true); err != nil {
		unix.Close(epfd)
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	l := &Loop{epfd: epfd, file: os.NewFile(uintptr(epfd), "epoll"), start: time.Now()}
	l.timers.init(l)
	l.poll = l.pollOnce
	if l.raw, err = l.file.SyscallConn(); err != nil {
		l.file.Close()
		return nil, fmt.Errorf("poll epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		l.file.Close()
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	if err := l.wakeup.Open(l, wake, (*waker)(l)); err != nil {
		l.file.Close()
		return nil, err
	}
	if err := l.timers.open(); err != nil {
		l.wakeup.Close()
		l.file.Close()
		return nil, err
	}
	return l, nil
}

// Run runs the loop until ctx ends, then closes what is the loop's own; sockets are their owners' to close. Tasks that
// were posted before ctx ended are still run. It returns nil then, or why the loop broke.
func (l *Loop) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, l.wake)
	defer stop()
	defer l.close()
	for {
		if err := l.raw.Read(l.poll); err != nil {
			return fmt.Errorf("wait on epoll: %w", err)
		}
		if l.errno != 0 {
			return fmt.Errorf("wait on epoll: %w", l.errno)
		}
		l.now = int64(time.Since(l.start))
		for i := range l.events[:l.count] {
			e := &l.events[i]
			if s := l.slots[e.Fd]; s.socket != nil && s.gen == uint32(e.Pad) {
				s.socket.handler.Ready(Event(e.Events))
			}
		}
		l.timers.run()
		l.takeTurns()
		l.flush()
		if ctx.Err() != nil {
			l.runTasks()
			l.flush()
			return nil
		}
	}
}

// pollOnce fetches events without waiting and reports whether there is work.
func (l *Loop) pollOnce(uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epfd),
			uintptr(unsafe.Pointer(&l.events[0])), batch, 0, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		l.errno = errno
		l.count = 0
		if errno == 0 {
			l.count = int(n)
		}
		return errno != 0 || n > 0 || len(l.again) > 0 || len(l.flushers) > 0
	}
}

// takeTurns serves the sockets that gave way to others, after everybody else had a turn.
func (l *Loop) takeTurns() {
	if len(l.again) == 0 {
		return
	}
	l.turn, l.again = l.again, l.turn[:0]
	for i, s := range l.turn {
		l.turn[i] = nil
		if s.queued {
			s.queued = false
			s.handler.Ready(In | Retry)
		}
	}
}

// Now is the time of this turn of the loop in nanoseconds since the loop was made; monotonic.
func (l *Loop) Now() int64 { return l.now }

// Clock is the present time on the scale of Now; for measuring, where the time of the turn is too coarse.
func (l *Loop) Clock() int64 { return int64(time.Since(l.start)) }

// Wall is the wall-clock time of a moment on the scale of Now.
func (l *Loop) Wall(at int64) time.Time { return l.start.Add(time.Duration(at)) }

// Shared returns the loop's read buffer: Headroom bytes and then SharedSize. Its content lives until the next call to
// any handler.
func (l *Loop) Shared() []byte {
	if l.shared == nil {
		l.shared = make([]byte, Headroom+SharedSize+64)
	}
	return l.shared[:Headroom+SharedSize]
}

// Post has f called on the loop soon. It never blocks, is safe from any goroutine and reports false when the loop has
// ended and f will not be called.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.tasks = append(l.tasks, f)
	first := len(l.tasks) == 1
	l.mu.Unlock()
	if first {
		l.wake()
	}
	return true
}

// Do has f called on the loop and waits until it returned, or until ctx ends; then f may still be called later.
func (l *Loop) Do(ctx context.Context, f func()) error {
	done := make(chan struct{})
	if !l.Post(func() { f(); close(done) }) {
		return fmt.Errorf("run on loop: %w", os.ErrClosed)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Loop) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	one := [8]byte{1}
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(l.wakeup.fd), uintptr(unsafe.Pointer(&one[0])), 8)
}

// waker is the loop as the handler of its eventfd.
type waker Loop

func (w *waker) Ready(Event) {
	var count [8]byte
	_, _ = w.wakeup.Read(count[:])
	(*Loop)(w).runTasks()
}

func (l *Loop) runTasks() {
	l.mu.Lock()
	l.doing, l.tasks = l.tasks, l.doing[:0]
	l.mu.Unlock()
	for i, f := range l.doing {
		l.doing[i] = nil
		f()
	}
}

func (l *Loop) close() {
	l.mu.Lock()
	l.closed = true
	l.wakeup.Close()
	l.mu.Unlock()
	l.timers.close()
	l.file.Close()
}
