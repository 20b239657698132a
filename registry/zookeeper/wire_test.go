package zookeeper

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
)

// hello is what a server answers to a request for a session.
func hello() []byte {
	b := make([]byte, 4+connectResponseSize)
	binary.BigEndian.PutUint32(b, connectResponseSize)
	binary.BigEndian.PutUint32(b[8:], 6000)
	b[19] = 1
	binary.BigEndian.PutUint32(b[20:], 16)
	return b
}

// frame is an answer with its length.
func frame(xid, code int32, body ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(headerSize+len(body)))
	b = binary.BigEndian.AppendUint32(b, uint32(xid))
	b = binary.BigEndian.AppendUint64(b, 7)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, body...)
}

// answerer answers each request with the next frame of answers, and ends when there is none.
func answerer(conn net.Conn, answers []byte) {
	request := make([]byte, 4<<10)
	for len(answers) > 0 {
		if _, err := conn.Read(request); err != nil {
			return
		}
		n := len(answers)
		if n > 4 {
			n = min(n, 4+int(binary.BigEndian.Uint32(answers)))
		}
		if _, err := conn.Write(answers[:n]); err != nil {
			return
		}
		answers = answers[n:]
	}
}

// stranger answers so at a local address.
func stranger(t testing.TB, answers []byte) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			answerer(conn, answers)
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return listener.Addr().String()
}

// What a server may send instead of an answer ends Watch with an error: nothing is published, nothing panics, nothing
// is believed about its own length.
func TestAnswersThatAreNone(t *testing.T) {
	list := binary.BigEndian.AppendUint32(nil, 0xffffffff) // a list of as many children
	list = append(list, make([]byte, statSize)...)
	synced := append(hello(), frame(1, 0, append([]byte{0, 0, 0, 5}, "/root"...)...)...)
	watched := slices.Clip(append(synced, frame(xidOurs+1, 0, 0, 0, 0, 0)...))
	for name, test := range map[string]struct {
		answer []byte
		want   string
	}{
		"nothing":                 {nil, "closed the connection without a word"},
		"another protocol":        {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), `begins with "HTTP"`},
		"a huge handshake":        {[]byte{0xff, 0xff, 0xff, 0xff}, "want a ZooKeeper server"},
		"half a handshake":        {hello()[:20], "closed the connection"},
		"no session":              {append(binary.BigEndian.AppendUint32(nil, 36), append(make([]byte, 16), append([]byte{0, 0, 0, 16}, make([]byte, 16)...)...)...), "gave no session"},
		"a damaged handshake":     {append(hello()[:4], bytes.Repeat([]byte{0xee}, connectResponseSize)...), "damaged"},
		"a huge answer":           {append(hello(), 0x7f, 0xff, 0xff, 0xff), "an answer of 2147483647 bytes"},
		"a tiny answer":           {append(hello(), 0, 0, 0, 3, 1, 2, 3), "an answer of 3 bytes"},
		"half an answer":          {append(hello(), frame(1, 0)[:9]...), "closed the connection"},
		"an answer to nothing":    {append(hello(), frame(99, 0)...), "another request"},
		"an event of no path":     {append(hello(), frame(xidEvent, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0x7f, 0, 0, 0)...), "damaged event"},
		"a negative xid":          {append(hello(), frame(-7, 0)...), "xid -7"},
		"a sync that fits not":    {append(hello(), frame(1, 0, 1, 2, 3)...), "damaged answer"},
		"children without an end": {append(append(hello(), frame(1, 0, append([]byte{0, 0, 0, 5}, "/root"...)...)...), frame(xidOurs+1, 0, list...)...), "damaged answer"},
		"parts of a huge size":    {append(watched, 0x7f, 0xff, 0xff, 0xff, 0x40, 0, 0, 2, 0, 0, 0, 0), "closed the connection"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := New(Config{Servers: []string{stranger(t, test.answer)}, Root: "/root"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			err = r.Watch(ctx, func(v registry.View) { t.Errorf("published %v", v) })
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

// An answer to many reads is damaged unless it has exactly what was asked for.
func TestParts(t *testing.T) {
	end := appendMultiHeader(nil, opNone, true, -1)
	list := append(appendMultiHeader(nil, opGetChildrenOnly, false, 0), 0, 0, 0, 1, 0, 0, 0, 3, 'w', 'e', 'b')
	data := append(appendMultiHeader(nil, opGetData, false, 0), 0xff, 0xff, 0xff, 0xff)
	data = append(data, make([]byte, statSize)...)
	gone := binary.BigEndian.AppendUint32(appendMultiHeader(nil, opNone, false, codeNoNode), 0xffffff9b)
	for name, test := range map[string]struct {
		answer [][]byte
		good   bool
		err    error
	}{
		"a list":              {[][]byte{list, data, end}, true, nil},
		"no such node":        {[][]byte{gone, gone, end}, true, zk.ErrNoNode},
		"gone between":        {[][]byte{list, gone, end}, true, zk.ErrNoNode},
		"nothing":             {nil, false, nil},
		"no end":              {[][]byte{list, data}, false, nil},
		"the end too early":   {[][]byte{list, end}, false, nil},
		"more after the end":  {[][]byte{list, data, end, end}, false, nil},
		"in another order":    {[][]byte{data, list, end}, false, nil},
		"two codes":           {[][]byte{list, append(gone[:len(gone)-1:len(gone)-1], 0), end}, false, nil},
		"half a Stat":         {[][]byte{list, data[:len(data)-8], end}, false, nil},
		"a list without end":  {[][]byte{append(appendMultiHeader(nil, opGetChildrenOnly, false, 0), 0x7f, 0xff, 0xff, 0xff), data, end}, false, nil},
		"a name of less than": {[][]byte{append(appendMultiHeader(nil, opGetChildrenOnly, false, 0), 0, 0, 0, 1, 0xff, 0, 0, 0), data, end}, false, nil},
	} {
		a := answer{node: &node{place: directory}}
		p := parts{rest: bytes.Join(test.answer, nil)}
		p.read(&a)
		if good := p.ended(); good != test.good || good && !errors.Is(a.err, test.err) {
			t.Errorf("%s: good %t with error %v, want %t with %v", name, good, a.err, test.good, test.err)
		}
	}
}

// FuzzAnswers sends any bytes after the handshake: the library must neither panic nor allocate what they ask for.
func FuzzAnswers(f *testing.F) {
	f.Add(frame(1, 0, append([]byte{0, 0, 0, 5}, "/root"...)...))
	f.Add(append(frame(1, 0, append([]byte{0, 0, 0, 5}, "/root"...)...), frame(2, 0, append(make([]byte, 4), make([]byte, statSize)...)...)...))
	f.Add(frame(xidEvent, 0, append([]byte{0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 5}, "/root"...)...))
	f.Add(frame(1, -102))
	watched := append(frame(1, 0, append([]byte{0, 0, 0, 5}, "/root"...)...), frame(xidOurs+1, 0, 0, 0, 0, 0)...)
	f.Add(append(slices.Clip(watched), frame(xidOurs+2, 0, appendMultiHeader(nil, opNone, true, -1)...)...))
	refused := binary.BigEndian.AppendUint32(appendMultiHeader(nil, opNone, false, codeNoAuth), 0xffffff9a)
	f.Add(append(slices.Clip(watched), frame(xidOurs+2, 0, append(slices.Repeat(refused, 3), appendMultiHeader(nil, opNone, true, -1)...)...)...))
	f.Fuzz(func(t *testing.T, answers []byte) {
		ours, theirs := net.Pipe()
		go func() {
			answerer(theirs, answers)
			_ = theirs.Close()
		}()
		w := newWire(ours, "pipe", hello())
		s, err := openOn(w, time.Second, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.run(t.Context()) }()
		if err := s.begin(nil, "/root"); err == nil {
			_ = s.readMany([]*node{{path: "/root", place: directory}, {path: "/root/a", place: instance}})
			_, _, _, _ = s.ChildrenW("/root")
			_, _, _, _ = s.GetW("/root/a")
		}
		if err := <-ended; err == nil {
			t.Error("the session ended without an error")
		}
	})
}

func FuzzConnectResponse(f *testing.F) {
	f.Add(hello())
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := readConnectResponse(bytes.NewReader(data))
		if err == nil && !bytes.HasPrefix(data, b) {
			t.Errorf("got %x of %x", b, data)
		}
	})
}

// A session that somebody closes, or that the server expires, ends Watch; the next one reads everything again.
func TestSessionClosedElsewhere(t *testing.T) {
	server := testbed.StartZooKeeper(t, testbed.ZooKeeperOptions{})[0]
	client := server.Client()
	for _, p := range []string{"/services", "/services/web", "/services/web/1"} {
		if _, err := client.Create(p, []byte(`{"address":"10.0.0.1","port":80}`), 0, zk.WorldACL(zk.PermAll)); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Servers: []string{server.Address}}.withDefaults()
	s, err := open(t.Context(), &cfg, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	views := make(chan registry.View, 8)
	ended := make(chan error, 1)
	go func() {
		ended <- follow(t.Context(), &cfg, layoutNamed(cfg.Layout), s, nil, func(v registry.View) { views <- v })
	}()
	if v := <-views; len(v.Services) != 1 {
		t.Fatalf("first view %v", v)
	}

	thief, err := net.Dial("tcp", server.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	claim := connectRequest(cfg.SessionTimeout)
	copy(claim[20:28], s.wire.hello[12:20]) // the session's ID
	copy(claim[32:48], s.wire.hello[24:40]) // its password
	closing := binary.BigEndian.AppendUint32(nil, 8)
	closing = binary.BigEndian.AppendUint32(closing, 1)
	closing = binary.BigEndian.AppendUint32(closing, 0xfffffff5) // opClose
	if _, err := thief.Write(append(claim, closing...)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
		t.Logf("Watch ended: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the session was closed, and Watch goes on")
	}
	if len(views) > 0 {
		t.Errorf("published %v for the end of a session", <-views)
	}
}
