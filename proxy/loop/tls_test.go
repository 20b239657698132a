package loop_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
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

// stutter is a connection that, when it is to, gives a byte at a time with EAGAIN in between.
type stutter struct {
	net.Conn
	on, pause bool
}

func (s *stutter) Read(p []byte) (int, error) {
	if !s.on {
		return s.Conn.Read(p)
	}
	if s.pause = !s.pause; s.pause {
		return 0, syscall.EAGAIN
	}
	return s.Conn.Read(p[:1])
}

// TestCryptoTLSGoesOnAfterEAGAIN pins what everything here rests on: for crypto/tls an error of reading that is temporary is no
// end, wherever it comes, and it is returned as it is.
func TestCryptoTLSGoesOnAfterEAGAIN(t *testing.T) {
	_, is := error(syscall.EAGAIN).(net.Error)
	if err, may := error(syscall.EAGAIN).(interface{ Temporary() bool }); !is || !may || !err.Temporary() {
		t.Fatal("EAGAIN is no temporary net.Error")
	}
	server, client := configs(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := client.Clone()
		cfg.MaxVersion = version
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1) // has the server send tickets behind the handshake of TLS 1.3
		a, b := net.Pipe()
		go func() {
			s := tls.Server(b, server)
			_, _ = io.WriteString(s, "hello")
			_, _ = io.WriteString(s, "world")
			s.Close()
		}()
		under := &stutter{Conn: a}
		c := tls.Client(under, cfg)
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		under.on = true
		var got []byte
		pauses := 0
		for {
			p := make([]byte, 100)
			n, err := c.Read(p)
			got = append(got, p[:n]...)
			if err == syscall.EAGAIN {
				pauses++
			} else if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != "helloworld" || pauses < 50 {
			t.Errorf("version %x: %q with %d pauses", version, got, pauses)
		}
	}
}

// drip is a connection that writes a few bytes at a time.
type drip struct{ net.Conn }

func (d drip) Write(p []byte) (int, error) {
	for at := 0; at < len(p); {
		n, err := d.Conn.Write(p[at:min(at+1+at%3, len(p))])
		if err != nil {
			return at, err
		}
		at += n
		time.Sleep(10 * time.Microsecond)
	}
	return len(p), nil
}

// TestTLSDripping: all of a connection comes in a few bytes at a time, the handshake and what TLS sends behind it too.
func TestTLSDripping(t *testing.T) {
	server, client := configs(t)
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	l := run(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, onLoop := range []string{"server", "client"} {
			t.Run(fmt.Sprintf("%x, %s on the loop", version, onLoop), func(t *testing.T) {
				server.MaxVersion, client.MaxVersion = version, version
				fd, conn := tcpPair(t, 0)
				var other *tls.Conn
				own := server
				if onLoop == "server" {
					other = tls.Client(drip{conn}, client)
				} else {
					own, other = client, tls.Server(drip{conn}, server)
				}
				a := newAgent(l, 1, newStream(1, 2000), newStream(2, 2000))
				a.start(t, fd, own, onLoop == "server")
				if err := exchange(other, 1, newStream(2, 2000), newStream(1, 2000)); err != nil {
					t.Error(err)
				}
				if err := wait(t, "the loop's end", a.done); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
