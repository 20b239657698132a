package loop

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// OriginalDst is where a connection was going before the kernel redirected it; invalid when it does not know of that.
func OriginalDst(fd int) netip.AddrPort {
	for _, level := range [...]uintptr{unix.SOL_IP, unix.SOL_IPV6} {
		var sa unix.RawSockaddrAny
		size := uint32(unix.SizeofSockaddrInet6)
		_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), level, soOriginalDst, uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 {
			return addrPort(&sa)
		}
	}
	return netip.AddrPort{}
}

// LocalAddr is the address a descriptor is bound to.
func LocalAddr(fd int) netip.AddrPort {
	s := Socket{fd: fd}
	return s.LocalAddr()
}
