package main

import (
	"io"
	"net"
	"net/netip"
	"os"
)

// sink takes an access log over TCP and appends it to a file: for a peer to which that costs less than writing itself.
type sink struct {
	addr     netip.AddrPort
	listener net.Listener
	done     chan struct{}
}

func openSink(file string) (*sink, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		f.Close()
		return nil, err
	}
	s := &sink{netip.MustParseAddrPort(l.Addr().String()), l, make(chan struct{})}
	go func() {
		defer close(s.done)
		defer f.Close()
		buf := make([]byte, 256<<10)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{c}, buf) // plain reads and writes: splice would wake for each line
			c.Close()
			if err != nil {
				return
			}
		}
	}()
	return s, nil
}

// close is to be called when the peer has ended.
func (s *sink) close() error {
	if s == nil {
		return nil
	}
	err := s.listener.Close()
	<-s.done
	return err
}
