package main

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// pipe is a proxy of TCP; copyUp moves what a client sends.
func pipe(t *testing.T, backend netip.AddrPort, copyUp func(up, client *net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				up, err := net.Dial("tcp4", backend.String())
				if err != nil {
					return
				}
				defer up.Close()
				go copyUp(up.(*net.TCPConn), c.(*net.TCPConn))
				io.Copy(c, up)
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func TestStream(t *testing.T) {
	for _, tt := range []struct {
		name string
		up   func(up, client *net.TCPConn)
		want string // part of the error; empty: none
	}{
		{"right", func(up, client *net.TCPConn) { io.Copy(up, client); up.CloseWrite() }, ""},
		{"changed", func(up, client *net.TCPConn) { up.Write([]byte("x")); io.Copy(up, client); up.CloseWrite() }, "changed"},
		{"without half-close", func(up, client *net.TCPConn) { io.Copy(up, client); client.Close() }, "closed"},
		{"short", func(up, client *net.TCPConn) {
			io.CopyN(up, client, 100<<10)
			io.Copy(io.Discard, client)
			up.CloseWrite()
		}, "passed on"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := newStream(2, 64<<10)
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			if err := s.connect(pipe(t, s.addr, tt.up)); err != nil {
				t.Fatal(err)
			}
			_, err = runSome(s, 200*time.Millisecond)
			if end := s.disconnect(); err == nil {
				err = end
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
