// Package steer has the kernel give connections to any address and port of loopback.Range to one listening socket.
//
// It is a program of type sk_lookup (Linux 5.9), which the kernel asks for each new connection of a network namespace before it looks
// for a listening socket itself. So neither a program of the host that listens on all addresses gets such a connection, nor does
// anything stand in the way of that program's ports. While the socket is closed there is nobody: connections time out, they never
// reach anybody else.
//
// The program and its map need no process: a link pinned to the BPF file system holds them.
package steer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/loopback"
)

// DefaultPin is where the link is pinned.
const DefaultPin = "/sys/fs/bpf/hostmesh/steer"

// The verdicts of a program of type sk_lookup.
const (
	drop = 0
	pass = 1
)

// On begins to steer connections of this network namespace to the listening TCP socket fd, which stays the caller's. It needs
// CAP_BPF and CAP_NET_ADMIN. What steered before under that pin is replaced in one step.
func On(pin string, fd int) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("steer connections: %w", err)
		}
	}()
	sockets, err := ebpf.NewMap(&ebpf.MapSpec{Name: "hostmesh_steer", Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer sockets.Close()
	if err := sockets.Put(uint32(0), uint64(fd)); err != nil {
		return fmt.Errorf("take socket: %w (it has to be a listening socket of TCP, not of MPTCP)", err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "hostmesh_steer", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "MIT", Instructions: instructions(sockets.FD()),
	})
	if err != nil {
		return err
	}
	defer program.Close()
	if err := os.MkdirAll(filepath.Dir(pin), 0o700); err != nil {
		return err
	}
	old, err := link.LoadPinnedLink(pin, nil)
	if err == nil {
		defer old.Close()
		if err = old.Update(program); err == nil {
			return nil
		}
		// It is of a namespace that is gone, or nothing of ours.
		return fmt.Errorf("replace what %s holds: %w; mesh steer --off removes it", pin, err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return attach(pin, program)
}

// attach has the program asked in this network namespace.
func attach(pin string, program *ebpf.Program) error {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	l, err := link.AttachNetNs(int(ns.Fd()), program)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Pin(pin); err != nil {
		return fmt.Errorf("pin at %s: %w (is a BPF file system mounted there?)", pin, err)
	}
	return nil
}

// Off ends what On began. It is no error if nothing was steered.
func Off(pin string) error {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(l.Unpin(), l.Close())
	}
	if err != nil {
		return fmt.Errorf("end steering: %w", err)
	}
	return nil
}

// instructions are the program: what is not for loopback.Range passes, TCP goes to the socket in the map, the rest is dropped.
func instructions(sockets int) asm.Instructions {
	// struct bpf_sk_lookup in linux/bpf.h
	const family, protocol, localIP4 = 8, 12, 40
	prefix := loopback.Range()
	network := prefix.Addr().As4()
	mask := int32(-1) << (32 - prefix.Bits())
	const (
		context = asm.R6
		socket  = asm.R7
		failed  = asm.R8
	)
	return asm.Instructions{
		asm.Mov.Reg(context, asm.R1),
		asm.LoadMem(asm.R2, context, family, asm.Word),
		asm.JNE.Imm(asm.R2, unix.AF_INET, "pass"),
		asm.LoadMem(asm.R2, context, localIP4, asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.And.Imm32(asm.R2, mask),
		asm.JNE.Imm32(asm.R2, int32(binary.BigEndian.Uint32(network[:])), "pass"),
		asm.LoadMem(asm.R2, context, protocol, asm.Word),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "drop"),

		asm.StoreImm(asm.RFP, -4, 0, asm.Word), // the map's only key
		asm.LoadMapPtr(asm.R1, sockets),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "drop"),
		asm.Mov.Reg(socket, asm.R0),
		asm.Mov.Reg(asm.R1, context),
		asm.Mov.Reg(asm.R2, socket),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(failed, asm.R0),
		asm.Mov.Reg(asm.R1, socket),
		asm.FnSkRelease.Call(),
		asm.JNE.Imm(failed, 0, "drop"),

		asm.Mov.Imm(asm.R0, pass).WithSymbol("pass"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, drop).WithSymbol("drop"),
		asm.Return(),
	}
}
