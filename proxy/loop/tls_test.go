package loop_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

// TestTLSByteForByte has ends on a loop talk with crypto/tls's own, in both directions at once, with tiny buffers in
// between, until both have told their end.
func TestTLSByteForByte(t *testing.T) {
	server, client := configs(t)
	type pair func(testing.TB, int) (int, net.Conn)
	l := run(t)
	seed := byte(1)
	for _, tt := range []struct {
		name    string
		pair    pair
		buffers int
		version uint16 // 0: plain
		suite   uint16
		sizing  bool
		size    int
	}{
		{"plain TCP", tcpPair, 4096, 0, 0, false, 1 << 20},
		{"TLS 1.3 TCP", tcpPair, 0, tls.VersionTLS13, 0, false, 4 << 20},
		{"TLS 1.3 TCP tiny", tcpPair, 4096, tls.VersionTLS13, 0, false, 1 << 20},
		{"TLS 1.3 unix tiny", unixPair, 4096, tls.VersionTLS13, 0, false, 1 << 20},
		{"TLS 1.3 dynamic sizes", tcpPair, 4096, tls.VersionTLS13, 0, true, 1 << 20},
		{"TLS 1.2 TCP", tcpPair, 0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false, 4 << 20},
		{"TLS 1.2 TCP tiny", tcpPair, 4096, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, false, 1 << 20},
		{"TLS 1.2 CBC unix", unixPair, 4096, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, false, 1 << 20},
	} {
		for _, onLoop := range []string{"server", "client"} {
			t.Run(fmt.Sprintf("%s, %s on the loop", tt.name, onLoop), func(t *testing.T) {
				seed++
				sc, cc := server.Clone(), client.Clone()
				for _, cfg := range []*tls.Config{sc, cc} {
					cfg.MinVersion, cfg.MaxVersion, cfg.DynamicRecordSizingDisabled = tt.version, tt.version, !tt.sizing
					if tt.suite != 0 {
						cfg.CipherSuites = []uint16{tt.suite}
					}
				}
				own, others := sc, cc
				if onLoop == "client" {
					own, others = cc, sc
				}
				fd, conn := tt.pair(t, tt.buffers)
				other := conn.(halfCloser)
				switch {
				case tt.version == 0:
					own = nil
				case onLoop == "server":
					other = tls.Client(conn, others)
				default:
					other = tls.Server(conn, others)
				}
				a := newAgent(l, uint64(seed), newStream(seed, tt.size), newStream(seed+100, tt.size))
				a.start(t, fd, own, onLoop == "server")
				exchanged := make(chan error, 1)
				go func() {
					exchanged <- exchange(other, uint64(seed), newStream(seed+100, tt.size), newStream(seed, tt.size))
				}()
				if err := wait(t, "the loop's end", a.done); err != nil {
					t.Errorf("the loop's end: %v", err)
				}
				if err := wait(t, "the other end", exchanged); err != nil {
					t.Errorf("the other end: %v", err)
				}
				if limit := 17 << 10; a.most > limit {
					t.Errorf("%d bytes of ciphertext waited, want %d at most: one record", a.most, limit)
				}
			})
		}
	}
}

var _ loop.Handler = (*agent)(nil)
