package proxy_test

import (
	"bufio"
	"bytes"
	"net"
	"runtime"
	"testing"
)

// fixed is a back end that answers every read with the same response and allocates nothing for it.
func fixed(t *testing.T) string { return rawBackend(t, answerFixed) }

func answerFixed(conn net.Conn, _ *bufio.Reader) {
	response, buf := []byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nendz"), make([]byte, 4096)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
		if _, err := conn.Write(response); err != nil {
			return
		}
	}
}

// allocations are those of one request to a back end of that kind, on average.
func allocations(t *testing.T, p *testProxy, request string) float64 {
	t.Helper()
	conn, out, buf := p.dial(), []byte(request), make([]byte, 4096)
	run := func(n int) {
		for range n {
			_, _ = conn.Write(out)
			for got := 0; !bytes.HasSuffix(buf[:got], []byte("endz")); {
				m, err := conn.Read(buf[got:])
				if err != nil {
					t.Fatal(err)
				}
				got += m
			}
		}
	}
	run(500)
	const n = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run(n)
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / n
}
