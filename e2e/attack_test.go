package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// attack is what one connection of an attacker does until it is ended, by the other side or by ctx. The bytes that it is sent are
// read away for it unless it is deaf.
type attack struct {
	name string
	deaf bool // it never reads
	run  func(ctx context.Context, conn net.Conn) error
}

func attacks() []attack {
	return append(append(slowAttacks(), http1Attacks()...), http2Attacks()...)
}

// tally is what attackers report.
type tally struct {
	Connections, Ended, Open int64 // made; ended by the other side; still open when the time was over
}

// playAttack is an attacker's process: NAME ADDRESS CONNECTIONS DURATION [tls]. When a connection has ended it makes another.
func playAttack(args ...string) error {
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19) // the clients and the proxy have one machine with it
	runtime.GOMAXPROCS(1)
	connections, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	d, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for _, a := range attacks() {
		if a.name == args[0] {
			return runAttack(ctx, a, args[1], connections, len(args) > 4)
		}
	}
	return fmt.Errorf("no attack %s", args[0])
}

func runAttack(ctx context.Context, a attack, addr string, connections int, overTLS bool) error {
	var made, ended, open atomic.Int64
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			for ctx.Err() == nil {
				conn, err := net.DialTimeout("tcp", addr, time.Second)
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				made.Add(1)
				if overTLS {
					conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
				}
				if attackOnce(ctx, a, conn) {
					ended.Add(1)
				} else {
					open.Add(1)
				}
				time.Sleep(5 * time.Millisecond) // making connections is not what this is about
			}
		})
	}
	all.Wait()
	_, err := fmt.Printf("%d %d %d\n", made.Load(), ended.Load(), open.Load())
	return err
}

// attackOnce reports whether the other side has ended the connection.
func attackOnce(ctx context.Context, a attack, conn net.Conn) (ended bool) {
	defer conn.Close()
	one, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(one, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	if !a.deaf {
		go func() {
			defer cancel() // the other side has nothing more to say
			_, _ = io.Copy(io.Discard, conn)
		}()
	}
	err := a.run(one, conn)
	return ctx.Err() == nil && (one.Err() != nil || err != nil && !errors.Is(err, os.ErrDeadlineExceeded))
}

func readTally(text string) (t tally, err error) {
	_, err = fmt.Sscan(text, &t.Connections, &t.Ended, &t.Open)
	return t, err
}

// drip writes a byte now and then.
func drip(ctx context.Context, conn net.Conn, first, then string, every time.Duration) error {
	if _, err := io.WriteString(conn, first); err != nil {
		return err
	}
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
		if _, err := io.WriteString(conn, then[i%len(then):i%len(then)+1]); err != nil {
			return err
		}
	}
}

const attackPost = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"

// slowAttacks hold connections by doing next to nothing.
func slowAttacks() []attack {
	const often = 100 * time.Millisecond
	wait := func(ctx context.Context, _ net.Conn) error { <-ctx.Done(); return nil }
	return []attack{
		{"silence", false, wait},
		{"slow-head", false, func(ctx context.Context, conn net.Conn) error {
			return drip(ctx, conn, "GET / HTTP/1.1\r\nHost: a\r\n", "X-a: b\r\n", often)
		}},
		{"slow-body", false, func(ctx context.Context, conn net.Conn) error { return drip(ctx, conn, attackPost, "body", often) }},
		{"stopped-body", false, func(ctx context.Context, conn net.Conn) error {
			_, _ = io.WriteString(conn, attackPost+"body")
			return wait(ctx, conn)
		}},
		{"slow-read", true, func(ctx context.Context, conn net.Conn) error {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetReadBuffer(4096)
			}
			_, _ = io.WriteString(conn, strings.Repeat("GET /large HTTP/1.1\r\nHost: a\r\n\r\n", 20))
			one := make([]byte, 1)
			for ctx.Err() == nil {
				if _, err := conn.Read(one); err != nil {
					return err
				}
				time.Sleep(often)
			}
			return nil
		}},
		{"half-hello", false, func(ctx context.Context, conn net.Conn) error {
			// The head of a TLS record and of a ClientHello of which the rest never comes.
			_, _ = conn.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 7, 7, 7})
			return wait(ctx, conn)
		}},
		{"dripped-hello", false, func(ctx context.Context, conn net.Conn) error {
			return drip(ctx, conn, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "\x07", often)
		}},
	}
}

// http1Attacks make work.
func http1Attacks() []attack {
	again := func(text string) func(context.Context, net.Conn) error {
		return func(ctx context.Context, conn net.Conn) error {
			for ctx.Err() == nil {
				if _, err := io.WriteString(conn, text); err != nil {
					return err
				}
			}
			return nil
		}
	}
	const head = "GET / HTTP/1.1\r\nHost: a\r\n"
	return []attack{
		{"many-headers", false, again(head + strings.Repeat("x: y\r\n", 10000) + "\r\n")},
		{"endless-header", false, func(ctx context.Context, conn net.Conn) error {
			_, _ = io.WriteString(conn, head+"x: ")
			return again(strings.Repeat("y", 16<<10))(ctx, conn)
		}},
		{"endless-chunk", false, func(ctx context.Context, conn net.Conn) error {
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;")
			return again(strings.Repeat("y", 16<<10))(ctx, conn)
		}},
		{"endless-trailer", false, func(ctx context.Context, conn net.Conn) error {
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
			return again(strings.Repeat("x: y\r\n", 1000))(ctx, conn)
		}},
		{"garbage", false, again(strings.Repeat("\x00\xff", 8<<10))},
		{"pipeline", true, again(strings.Repeat(head+"\r\n", 100))},
	}
}

func sleepBriefly() { time.Sleep(200 * time.Millisecond) }
