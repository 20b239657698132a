package testbed

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// freePorts returns n ports of 127.0.0.1 that are free for TCP and UDP at this moment. They lie below the range from
// which the kernel takes ports for outgoing connections, so only another test that guesses the same can be faster;
// whoever starts a server on them tries again with others when that happened.
func freePorts(n int) ([]int, error) {
	const low, high = 10000, 32000
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
		port := low + rand.IntN(high-low)
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
