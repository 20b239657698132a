package gossip

import (
	"math/rand/v2"
	"net"
	"testing"
	"time"
)

// A stranger sends what it likes to an open ring; the node goes on, and its streams are bounded.
func TestStranger(t *testing.T) {
	t.Parallel()
	control := start(t, Options{HostID: "control", Role: Control})
	at := control.Addr().String()
	random := rand.New(rand.NewPCG(1, 2))
	udp, err := net.Dial("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	var streams []net.Conn
	for i := range 300 {
		b := make([]byte, 1+random.IntN(maxPacket+100))
		for j := range b {
			b[j] = byte(random.Uint32())
		}
		label := append([]byte{244, byte(len(label))}, label...) // past the first gate
		b = append(label, b...)
		if i%3 == 0 {
			b[len(label)] = byte(i) % 14 // a message type that there is
		}
		_, _ = udp.Write(b)
		if i < maxStreams*3/2 {
			conn, err := net.DialTimeout("tcp", at, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			streams = append(streams, conn)
			if i%2 == 0 {
				_, _ = conn.Write(b) // the others stay silent and hold their stream
			}
		}
	}
	if got := len(control.udptcp.slots); got > maxStreams {
		t.Errorf("%d streams at a time, want at most %d", got, maxStreams)
	}
	// Who holds all streams delays others until its streams time out, no longer.
	host := start(t, Options{HostID: "h1", Role: Proxy, Config: seeds(control)})
	if err := host.Announce(announcement("web")); err != nil {
		t.Fatal(err)
	}
	until(t, control, "the host", announces("h1", "web"))
	if len(streams) == 0 {
		t.Error("nothing was held")
	}
}
