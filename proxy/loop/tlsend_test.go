package loop_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

const deadline = 60 * time.Second // for what should take milliseconds

// configs makes the configurations of a server and of a client, each with a certificate that the other trusts.
func configs(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web"}, DNSNames: []string{"web.mesh.internal"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	own := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	server = &tls.Config{
		Certificates: own, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, NextProtos: []string{"h2", "http/1.1"},
		DynamicRecordSizingDisabled: true,
	}
	client = &tls.Config{
		Certificates: own, RootCAs: pool, ServerName: "web.mesh.internal", NextProtos: []string{"h2"},
		DynamicRecordSizingDisabled: true,
	}
	return server, client
}

// descriptor takes a connection's descriptor away from it.
func descriptor(t testing.TB, conn net.Conn) int {
	t.Helper()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if cerr := raw.Control(func(own uintptr) { fd, err = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	conn.Close()
	return fd
}

// tcpPair connects two ends by TCP; the first is for a loop. Buffers of 0 bytes are the kernel's default.
func tcpPair(t testing.TB, buffers int) (int, net.Conn) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	conn, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	other, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if buffers > 0 {
		for _, c := range []net.Conn{conn, other} {
			_ = c.(*net.TCPConn).SetWriteBuffer(buffers) // not the other one: TCP with a tiny window waits for timers
		}
	}
	t.Cleanup(func() { other.Close() })
	return descriptor(t, conn), other
}

// unixPair connects two ends by a pair of unix sockets.
func unixPair(t testing.TB, buffers int) (int, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if buffers > 0 {
		for _, fd := range fds {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, buffers)
		}
	}
	f := os.NewFile(uintptr(fds[1]), "pair")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return fds[0], conn
}

// stream is a sequence of bytes that both ends can make.
type stream struct {
	bytes *mathrand.ChaCha8
	left  int
	buf   []byte
}

func newStream(seed byte, size int) *stream {
	return &stream{bytes: mathrand.NewChaCha8([32]byte{seed}), left: size}
}

// next returns the next n bytes, or as many as there are.
func (s *stream) next(n int) []byte {
	n = min(n, s.left)
	s.left -= n
	if cap(s.buf) < n {
		s.buf = make([]byte, 2*n)
	}
	_, _ = s.bytes.Read(s.buf[:n])
	return s.buf[:n]
}

// check takes what arrived.
func (s *stream) check(p []byte) error {
	at := s.left
	if want := s.next(len(p)); !bytes.Equal(p, want) {
		return fmt.Errorf("%d bytes, %d before the end of the stream, are not those that were sent", len(p), at)
	}
	return nil
}

// agent is an end of a connection on a loop. It sends one stream and receives another, each with its end, in random
// pieces and with pauses.
type agent struct {
	loop.Conn
	l       *loop.Loop
	rand    *mathrand.Rand
	out, in *stream
	rest    []byte // of out, to be written
	pause   loop.Timer
	pauses  bool

	readable, hup, eof, shut bool
	most                     int // ciphertext that ever waited
	over                     bool
	done                     chan error
}

func newAgent(l *loop.Loop, seed uint64, out, in *stream) *agent {
	return &agent{l: l, rand: mathrand.New(mathrand.NewPCG(seed, 0)), out: out, in: in, pauses: true, done: make(chan error, 1)}
}

// start opens the connection and secures it, if there is a configuration.
func (a *agent) start(t testing.TB, fd int, cfg *tls.Config, server bool) {
	t.Helper()
	do(t, a.l, func() {
		if err := a.Open(a.l, fd, a); err != nil {
			t.Error(err)
		}
		if cfg != nil {
			a.Secure(cfg, server, a)
		}
	})
}

func (a *agent) Secured(err error) {
	if err != nil {
		a.end(err)
	}
}

func (a *agent) end(err error) {
	if !a.over {
		a.over = true
		a.pause.Stop()
		a.Close()
		a.done <- err
	}
}

func (a *agent) Ready(e loop.Event) {
	a.hup = a.hup || e&(loop.Hup|loop.Err) != 0
	a.readable = a.readable || e&(loop.In|loop.Hup|loop.Err) != 0
	if e&loop.Out != 0 && a.PendingBytes() > 0 {
		a.end(errors.New("told Out while ciphertext is pending"))
	}
	a.advance()
}

func (a *agent) Expired(*loop.Timer) { a.advance() }

func (a *agent) advance() {
	if a.over {
		return
	}
	if err := errors.Join(a.receive(), a.transmit()); err != nil {
		a.end(err)
		return
	}
	if a.shut && a.eof && !a.Pending() {
		var err error
		if a.in.left > 0 {
			err = fmt.Errorf("the end came %d bytes too early", a.in.left)
		}
		a.end(err)
	}
}

func (a *agent) receive() error {
	for a.readable && !a.eof && !a.pause.Running() {
		if a.pauses && a.rand.IntN(50) == 0 {
			a.l.Start(&a.pause, time.Millisecond, a)
			return nil
		}
		p := a.l.Shared()[:1+a.rand.IntN(40_000)]
		n, err := a.Read(p)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			a.readable = false
		case errors.Is(err, io.EOF):
			a.eof = true
		case err != nil:
			return err
		default:
			a.readable = n == len(p) || a.hup
		}
		if err := a.in.check(p[:n]); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) transmit() error {
	for len(a.rest) > 0 || a.out.left > 0 {
		if len(a.rest) == 0 {
			a.rest = a.out.next(1 + a.rand.IntN(50_000))
		}
		n, err := a.Write(a.rest)
		a.rest = a.rest[n:]
		a.most = max(a.most, a.PendingBytes())
		if errors.Is(err, syscall.EAGAIN) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if !a.shut {
		a.shut = true
		a.CloseWrite()
	}
	return nil
}

func wait(t testing.TB, what string, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(deadline):
		t.Fatalf("%s: still going on after %v", what, deadline)
		return nil
	}
}

// halfCloser is what crypto/tls's, TCP and unix connections have in common.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// exchange sends and receives as an agent does, on goroutines.
func exchange(conn halfCloser, seed uint64, out, in *stream) error {
	sent := make(chan error, 1)
	go func() {
		r := mathrand.New(mathrand.NewPCG(seed, 1))
		for out.left > 0 {
			if r.IntN(50) == 0 {
				time.Sleep(time.Millisecond)
			}
			if _, err := conn.Write(out.next(1 + r.IntN(50_000))); err != nil {
				sent <- fmt.Errorf("write: %w", err)
				return
			}
		}
		sent <- conn.CloseWrite()
	}()
	r := mathrand.New(mathrand.NewPCG(seed, 2))
	p := make([]byte, 40_000)
	var err error
	for err == nil {
		if r.IntN(50) == 0 {
			time.Sleep(time.Millisecond)
		}
		var n int
		n, err = conn.Read(p[:1+r.IntN(len(p))])
		if err := in.check(p[:n]); err != nil {
			return err
		}
	}
	if !errors.Is(err, io.EOF) || in.left > 0 {
		return fmt.Errorf("read: %w with %d bytes to come", err, in.left)
	}
	return <-sent
}
