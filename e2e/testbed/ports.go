package testbed

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// FreePort returns a port that nobody listens on, over TCP and UDP and at any address, at the moment of asking. It lies
// below the range from which the kernel takes ports for outgoing connections: one of those it may give to a connection,
// or to another test's server at another address, before the caller listens.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			continue
		}
		u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		_ = l.Close()
		if err == nil {
			_ = u.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

const lowestPort, highestPort = 10000, 32000

// freePorts returns n ports of 127.0.0.1 that are free for TCP and UDP at this moment. They lie below the range from
// which the kernel takes ports for outgoing connections, so only another test that guesses the same can be faster;
// whoever starts a server on them tries again with others when that happened.
func freePorts(n int) ([]int, error) {
	var ports []int
	held := make([]interface{ Close() error }, 0, 2*n)
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for range 1000 {
		if len(ports) == n {
			return ports, nil
		}
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		held = append(held, tcp)
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		held = append(held, udp)
		ports = append(ports, port)
	}
	return nil, fmt.Errorf("find %d free ports: got %d", n, len(ports))
}
