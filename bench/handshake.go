package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// handshakes is a generator of connections: each makes a full handshake of TLS 1.3, asks once and closes. Its clients are threads,
// because crypto/tls cannot be interrupted in a handshake; the backend is that of a load, which has no clients.
type handshakes struct {
	*load
	config  *tls.Config
	clients int
	to      netip.AddrPort
}

func (h *handshakes) connect(to netip.AddrPort) error { h.to = to; return nil }

// run makes connections for a while and returns how many were answered.
func (h *handshakes) run(d time.Duration) (int, error) {
	var answered atomic.Int64
	var stop atomic.Bool
	var group sync.WaitGroup
	failed := make(chan error, h.clients)
	for range h.clients {
		group.Go(func() {
			for !stop.Load() {
				if err := h.once(); err != nil {
					failed <- err
					return
				}
				answered.Add(1)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	_, err := h.load.run(d)
	stop.Store(true)
	for waiting := true; waiting && err == nil; { // the last ones need the backend
		select {
		case <-done:
			waiting = false
		default:
			_, err = h.load.run(5 * time.Millisecond)
		}
	}
	select {
	case failure := <-failed:
		err = errors.Join(err, failure)
	default:
	}
	return int(answered.Load()), err
}

func (h *handshakes) once() error {
	fd, err := dial(h.to)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	c := tls.Client(&wire{fd: fd}, h.config)
	if err := c.Handshake(); err != nil {
		return fmt.Errorf("shake hands: %w", err)
	}
	if err := checkTLS(c); err != nil {
		return err
	}
	if _, err := c.Write(wholeRequest); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return fmt.Errorf("read response: %w", err)
	}
	n, err := io.Copy(io.Discard, response.Body)
	if want := int64(h.protocol.(*http1).size); err != nil || response.StatusCode != http.StatusOK || n != want {
		return fmt.Errorf("proxy answered %s with %d bytes, want 200 with %d (%v)", response.Status, n, want, err)
	}
	return c.CloseWrite()
}
