package loop_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hostmesh/hostmesh/proxy/loop"
)

// The types of records (RFC 8446 section 5.1), and of a message.
const (
	recordHandshake = 22
	recordData      = 23
	keyUpdate       = 24
)

// rawPeer is a client of TLS 1.3 that writes its own records after the handshake: crypto/tls sends no KeyUpdate.
type rawPeer struct {
	conn    net.Conn
	out, in direction
}

// direction has the keys of one direction (RFC 8446 section 7.3), for the suites that crypto/tls likes best: with AES where the
// processor knows that, else with ChaCha20.
type direction struct {
	suite  uint16
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func expand(secret []byte, label string, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(append(info, "tls13 "+label...), 0)
	out, err := hkdf.Expand(sha256.New, secret, string(info), n)
	if err != nil {
		panic(err)
	}
	return out
}

func (d *direction) use(secret []byte) {
	d.secret, d.iv, d.seq = secret, expand(secret, "iv", 12), 0
	if d.suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		d.aead = newChaCha(expand(secret, "key", 32))
		return
	}
	block, err := aes.NewCipher(expand(secret, "key", 16))
	if err != nil {
		panic(err)
	}
	if d.aead, err = cipher.NewGCM(block); err != nil {
		panic(err)
	}
}

// update goes over to the next keys.
func (d *direction) update() { d.use(expand(d.secret, "traffic upd", 32)) }

func (d *direction) nonce() []byte {
	nonce := bytes.Clone(d.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, d.seq) {
		nonce[4+i] ^= b
	}
	d.seq++
	return nonce
}

// record encrypts a record.
func (d *direction) record(kind byte, content ...byte) []byte {
	n := len(content) + 1 + 16
	header := []byte{recordData, 3, 3, byte(n >> 8), byte(n)}
	return d.aead.Seal(header, d.nonce(), append(bytes.Clone(content), kind), header)
}

// next reads and decrypts a record.
func (p *rawPeer) next() (kind byte, content []byte, err error) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(p.conn, header); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(p.conn, body); err != nil {
		return 0, nil, err
	}
	plain, err := p.in.aead.Open(nil, p.in.nonce(), body, header)
	if err != nil {
		return 0, nil, err
	}
	plain = bytes.TrimRight(plain, "\x00")
	return plain[len(plain)-1], plain[:len(plain)-1], nil
}

// rawClient makes the client's side of a handshake with a server that gives no session tickets.
func rawClient(t *testing.T, conn net.Conn, client *tls.Config) *rawPeer {
	t.Helper()
	var keys bytes.Buffer
	cfg := client.Clone()
	cfg.KeyLogWriter = &keys
	c := tls.Client(conn, cfg)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	suite := c.ConnectionState().CipherSuite
	if suite != tls.TLS_AES_128_GCM_SHA256 && suite != tls.TLS_CHACHA20_POLY1305_SHA256 {
		t.Fatalf("crypto/tls chose %s, want one of the two that it likes best", tls.CipherSuiteName(suite))
	}
	p := &rawPeer{conn: conn, out: direction{suite: suite}, in: direction{suite: suite}}
	for line := range strings.Lines(keys.String()) {
		fields := strings.Fields(line)
		secret, err := hex.DecodeString(fields[2])
		if err != nil {
			t.Fatal(err)
		}
		switch fields[0] {
		case "CLIENT_TRAFFIC_SECRET_0":
			p.out.use(secret)
		case "SERVER_TRAFFIC_SECRET_0":
			p.in.use(secret)
		}
	}
	return p
}

// mirror sends back what it reads, if it is to; otherwise it drops it.
type mirror struct {
	loop.Conn
	l    *loop.Loop
	back bool
	got  atomic.Int64
	most atomic.Int64 // ciphertext that ever waited
	end  chan error
}

func newMirror(t testing.TB, l *loop.Loop, fd int, cfg *tls.Config, server, back bool) *mirror {
	t.Helper()
	m := &mirror{l: l, back: back, end: make(chan error, 2)}
	do(t, l, func() {
		if err := m.Open(l, fd, m); err != nil {
			t.Error(err)
		}
		m.Secure(cfg, server, m)
	})
	t.Cleanup(func() { do(t, l, m.Close) })
	return m
}

func (m *mirror) Secured(err error) {
	if err != nil {
		m.end <- err
	}
}

func (m *mirror) Ready(e loop.Event) {
	for e&(loop.In|loop.Hup|loop.Err) != 0 {
		n, err := m.Read(m.l.Shared())
		m.got.Add(int64(n))
		m.most.Store(max(m.most.Load(), int64(m.PendingBytes())))
		if errors.Is(err, syscall.EAGAIN) {
			return
		}
		if err == nil && m.back {
			_, err = m.Write(m.l.Shared()[:n])
		}
		if err != nil {
			m.end <- err
			m.Close()
			return
		}
	}
}

// TestKeyUpdate: a peer changes its keys and asks for others of ours, in pieces, between bytes.
func TestKeyUpdate(t *testing.T) {
	server, client := configs(t)
	server.SessionTicketsDisabled = true
	l := run(t)
	fd, conn := tcpPair(t, 0)
	m := newMirror(t, l, fd, server, true, true)
	p := rawClient(t, conn, client)
	for i := range 3 {
		send := p.out.record(recordData, []byte("before")...)
		send = append(send, p.out.record(recordHandshake, keyUpdate, 0)...)
		send = append(send, p.out.record(recordHandshake, 0, 1, 1)...) // the message's last byte: update requested
		p.out.update()
		send = append(send, p.out.record(recordData, []byte("after")...)...)
		if i == 1 {
			for _, b := range send {
				_, _ = conn.Write([]byte{b})
				time.Sleep(10 * time.Microsecond) // so that most bytes come alone; all the same if not
			}
		} else {
			_, _ = conn.Write(send)
		}
		var got []byte
		for updated := false; string(got) != "beforeafter" || !updated; {
			kind, content, err := p.next()
			switch {
			case err != nil:
				t.Fatalf("after %q: %v", got, err)
			case kind == recordHandshake && bytes.Equal(content, []byte{keyUpdate, 0, 0, 1, 0}):
				updated = true
				p.in.update()
			case kind == recordData:
				got = append(got, content...)
			default:
				t.Fatalf("a record of type %d: %x", kind, content)
			}
		}
	}
	if len(m.end) > 0 {
		t.Error(<-m.end)
	}
}

// TestCVEClass16_UnreadAnswersAreBounded: a peer that makes crypto/tls answer all the time, and reads nothing, is not read either from
// some point on. When it reads, all goes on, wherever the rest is: in the kernel, or in crypto/tls.
func TestCVEClass16_UnreadAnswersAreBounded(t *testing.T) {
	server, client := configs(t)
	server.SessionTicketsDisabled = true
	l := run(t)
	for updates := 1000; updates < 1600; updates += 150 {
		testUnreadAnswers(t, l, server, client, updates)
	}
}

func testUnreadAnswers(t *testing.T, l *loop.Loop, server, client *tls.Config, updates int) {
	fd, conn := unixPair(t, 4096)
	m := newMirror(t, l, fd, server, true, false)
	p := rawClient(t, conn, client)
	if err := conn.(*net.UnixConn).SetWriteBuffer(1 << 20); err != nil { // all is in the kernel before the first byte is read
		t.Fatal(err)
	}
	const large = 16 << 10 // so that crypto/tls reads many records at once
	send := p.out.record(recordData, make([]byte, large)...)
	for range updates {
		send = append(send, p.out.record(recordHandshake, keyUpdate, 0, 0, 1, 1)...)
		p.out.update()
		send = append(send, p.out.record(recordData, 'x')...)
	}
	if _, err := conn.Write(send); err != nil {
		t.Fatal(err)
	}
	const limit = 20 << 10
	for until := time.Now().Add(deadline); m.most.Load() <= limit; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d bytes wait after %d bytes were read, want more than %d", m.most.Load(), m.got.Load(), limit)
		}
	}
	for range 10 { // who would read on does it now
		do(t, l, func() {})
	}
	if got := m.got.Load(); got == int64(large+updates) {
		t.Error("all was read")
	}
	for i := range updates {
		kind, content, err := p.next()
		if err != nil || kind != recordHandshake || content[0] != keyUpdate {
			t.Fatalf("answer %d of %d is a record of type %d, %x, %v", i, updates, kind, content, err)
		}
		p.in.update()
	}
	do(t, l, func() {})
	if most := m.most.Load(); most > limit+4096 {
		t.Errorf("%d bytes waited, want %d at most", most, limit+4096)
	}
}

// TestCVEClass16_ManySmallRecords: a peer with a byte in each record is read in turns with others, to the end.
func TestCVEClass16_ManySmallRecords(t *testing.T) {
	server, client := configs(t)
	server.SessionTicketsDisabled = true
	l := run(t)
	fd, conn := tcpPair(t, 0)
	s := secure(t, l, fd, server, true)
	defer s.close(t)
	p := rawClient(t, conn, client)
	if err := wait(t, "handshake", s.ended); err != nil {
		t.Fatal(err)
	}
	const records = 2000
	var send []byte
	for range records {
		send = append(send, p.out.record(recordData, 'x')...)
	}
	_, _ = conn.Write(send)
	got := 0
	for got < records {
		select {
		case <-s.events:
		case <-time.After(deadline):
			t.Fatalf("no event came after %d bytes", got)
		}
		do(t, l, func() {
			n, err := s.Read(l.Shared())
			if n > 130 {
				t.Errorf("%d records were read at once", n)
			}
			if err != nil && !errors.Is(err, syscall.EAGAIN) {
				t.Error(err)
			}
			got += n
		})
	}
	if got != records {
		t.Errorf("%d bytes came, want %d", got, records)
	}
}
