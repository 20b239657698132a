package zookeeper_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// oldServer stands in front of a server and refuses what ZooKeeper 3.5 does not know as that does: it answers
// UNIMPLEMENTED and closes the session. All else is the server's. It returns its address.
func oldServer(t *testing.T, server string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { refuseNew(conn, server) })
		}
	})
	t.Cleanup(func() { _ = listener.Close(); running.Wait() })
	return listener.Addr().String()
}

func refuseNew(client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	var answers sync.WaitGroup
	answers.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	defer answers.Wait()
	defer server.Close()
	head := make([]byte, 12) // length, xid, operation; the request for a session is longer too
	for first := true; ; first = false {
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		op := binary.BigEndian.Uint32(head[8:])
		if !first && (op == 22 || op == 106) {
			answer := append([]byte{0, 0, 0, 16}, head[4:8]...)
			_, _ = client.Write(append(answer, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xfa))
			return
		}
		if _, err := server.Write(head); err != nil {
			return
		}
		if _, err := io.CopyN(server, client, int64(binary.BigEndian.Uint32(head))-8); err != nil {
			return
		}
	}
}
