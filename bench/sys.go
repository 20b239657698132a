package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls of the load, which never block. They are made without telling Go's scheduler: otherwise its watchdog would run all the
// time, at the expense of the load's processor, and the load would be slower than the fastest proxies.

func rawRead(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, errno)
}

func rawWrite(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return result(n, errno)
}

// discard has the kernel throw away what came, at most a mebibyte; nothing is written to b.
func discard(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), 1<<20, unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
	return result(n, errno)
}

// waitFor returns the events there are, or waits for some, at most some milliseconds.
func waitFor(epoll int, events []unix.EpollEvent, wait int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if errno != 0 || n > 0 || wait == 0 {
		return result(n, errno)
	}
	return unix.EpollWait(epoll, events, wait)
}

func result(n uintptr, errno unix.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
