package http2

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// tiny is a server of one connection: it answers every request with what it was sent, or a few words.
type tiny struct {
	conn Conn
	out  []byte
	head message.Head
}

type reply struct {
	body []byte
	sent int
	all  bool // the request is whole
}

func (t *tiny) Headers(s *Stream, h *message.Head, end bool) {
	r := new(reply)
	s.User = r
	if h.Method == message.MethodGet {
		r.body = bytes.Repeat([]byte("mesh"), max(1, len(h.Bytes(h.Query))*100))
	}
	t.head.Reset()
	t.head.Status = 200
	t.head.AddField("content-type", "text/plain")
	t.out = t.conn.AppendHeaders(t.out, s, &t.head, nil, false)
	if end {
		r.all = true
		t.send(s)
	}
}

func (t *tiny) Data(s *Stream, p []byte, end bool) {
	r := s.User.(*reply)
	r.body = append(r.body, p...)
	t.conn.Consumed(s, len(p))
	if end {
		r.all = true
		t.send(s)
	}
}

func (t *tiny) Trailers(s *Stream, _ *message.Fields) {
	s.User.(*reply).all = true
	t.send(s)
}

func (t *tiny) Reset(s *Stream, _ ErrCode, _ bool) { t.conn.Release(s) }
func (t *tiny) Writable(s *Stream)                 { t.send(s) }
func (t *tiny) Event(Event)                        {}

func (t *tiny) send(s *Stream) {
	r := s.User.(*reply)
	t.out = t.conn.AppendControl(t.out) // the peer wants its settings acknowledged before it gets what they allow
	for {
		rest := r.body[r.sent:]
		header, n := t.conn.DataHeader(s, len(rest), true)
		if n == 0 && len(rest) > 0 {
			return
		}
		t.out = append(append(t.out, header[:]...), rest[:n]...)
		if r.sent += n; n == len(rest) {
			t.conn.Release(s)
			return
		}
	}
}

func (t *tiny) serve(c net.Conn) {
	defer c.Close()
	t.conn.InitServer(Limits{}, new(Arena))
	buf, have := make([]byte, 64<<10), 0
	for {
		n, readErr := c.Read(buf[have:])
		have += n
		used, err := t.conn.Feed(buf[:have], t)
		have = copy(buf, buf[used:have])
		t.out = t.conn.AppendControl(t.out)
		if _, writeErr := c.Write(t.out); writeErr != nil || readErr != nil || err != nil {
			if tcp, ok := c.(*net.TCPConn); ok && err != nil {
				_ = tcp.CloseWrite() // a reset would take the GOAWAY away
				_, _ = tcp.WriteTo(bytes.NewBuffer(nil))
			}
			return
		}
		t.out = t.out[:0]
	}
}

func listen(t *testing.T) *net.TCPAddr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go new(tiny).serve(c)
		}
	}()
	return l.Addr().(*net.TCPAddr)
}

func TestCurlIsServed(t *testing.T) {
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal("curl is not installed; run make setup")
	}
	addr := listen(t).String()
	file := filepath.Join(t.TempDir(), "body")
	body := strings.Repeat("0123456789", 100_000)
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"http://" + addr + "/"}, "mesh"},
		{[]string{"http://" + addr + "/?" + strings.Repeat("q", 1000)}, strings.Repeat("mesh", 100_000)},
		{[]string{"--data-binary", "@" + file, "http://" + addr + "/echo"}, body},
	} {
		out, err := exec.Command(curl, append([]string{"-sS", "--http2-prior-knowledge"}, c.args...)...).Output()
		if err != nil || string(out) != c.want {
			t.Errorf("%q: %v, %d bytes, want %d", c.args, err, len(out), len(c.want))
		}
	}
}
