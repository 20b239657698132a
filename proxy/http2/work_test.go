package http2

import (
	"fmt"
	"slices"
	"testing"

	oracle "golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// ask makes a request with fields of which most repeat, has it answered, and returns how long its field section was.
func ask(t *testing.T, client, server *recorder, path string) int {
	t.Helper()
	h := new(message.Head)
	h.Reset()
	h.MethodText, h.Method = h.Put("GET"), message.MethodGet
	h.Scheme, h.Authority = h.Put("http"), h.Put("web")
	h.SetPath(h.Put(path))
	for n := range 5 {
		h.AddField(fmt.Sprint("x-", n), fmt.Sprint("value ", n))
	}
	s := client.conn.Open()
	block := client.conn.AppendHeaders(client.conn.AppendControl(nil), s, h, nil, true)
	n := len(block)
	if _, err := server.conn.Feed(block, server); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%d headers true %s", s.ID(), render(h)); !slices.Contains(server.lines, want) {
		t.Fatalf("got %q, want %q", server.lines, want)
	}
	h.Reset()
	h.Status = 200
	of := server.streams[len(server.streams)-1]
	block = server.conn.AppendHeaders(server.conn.AppendControl(nil), of, h, nil, true)
	server.conn.Release(of)
	if _, err := client.conn.Feed(block, client); err != nil {
		t.Fatal(err)
	}
	client.conn.Release(s)
	client.conn.AppendControl(nil)
	return n
}

// TestConnectionsRest: at rest connections have nothing that others could use. They know what they knew, and find it: what was in a
// table is told as shortly as before.
func TestConnectionsRest(t *testing.T) {
	const pairs = 4
	a := new(Arena)
	var clients, servers [pairs]recorder
	for i := range pairs {
		clients[i].conn.InitClient(Limits{}, a)
		servers[i].conn.InitServer(Limits{}, a)
	}
	first, short := 0, 0
	for round := range 12 {
		for i := range pairs {
			n := ask(t, &clients[i], &servers[i], fmt.Sprint("/", i))
			switch {
			case round == 0:
				first = n
			case round == 3:
				short = n
			case round > 3 && n != short || short > first/2:
				t.Errorf("request %d of connection %d is told in %d bytes, want %d, the first had %d", round, i, n, short, first)
			}
		}
		for i := range pairs {
			for _, c := range []*Conn{&clients[i].conn, &servers[i].conn} {
				if round < 3 {
					continue
				}
				if c.Rest(); c.work != nil {
					t.Fatal("a connection does not rest")
				}
			}
		}
	}
	if len(a.works) != 2*pairs {
		t.Errorf("%d are there to be used, want %d", len(a.works), 2*pairs)
	}
}

// TestBusyConnectionsDoNotRest: what is under way goes on as if nobody had asked for rest.
func TestBusyConnectionsDoNotRest(t *testing.T) {
	for _, c := range []struct {
		name        string
		write, then func(p *peer)
		sent        bool // what is to be said
		want        string
	}{
		{"a field section", func(p *peer) {
			_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82, 0x86}, EndStream: true})
		}, func(p *peer) { _ = p.WriteContinuation(1, true, []byte{0x84, 0x01, 1, 'a'}) }, true, "1 headers true GET http a /"},
		{"a stream", func(p *peer) { p.request(1, false) }, func(p *peer) { _ = p.WriteData(1, true, []byte("abc")) }, true, "1 data abc"},
		{"content that nobody gets", func(p *peer) {
			p.headers(1, false, "x", "y")
			_ = p.WriteData(1, false, []byte("abc"))
			p.out.Truncate(p.out.Len() - 1)
		}, func(p *peer) { p.out.WriteByte('c'); p.request(3, true) }, true, "3 headers true POST http a /"},
		{"a refusal that is not sent", func(p *peer) { p.headers(1, true, "x", "y") }, func(*peer) {}, false, "rst 1 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, p := serverOf(Limits{}), newPeer()
			r.release = true
			if err := r.fed(p); err != nil {
				t.Fatal(err)
			}
			for _, write := range []func(*peer){c.write, c.then} {
				write(p)
				if _, err := r.conn.Feed(p.out.Bytes(), r); err != nil {
					t.Fatal(err)
				}
				p.out.Reset()
				if c.sent {
					r.conn.AppendControl(nil)
				}
				r.conn.Rest()
			}
			if got := r.run(t, nil); !slices.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
