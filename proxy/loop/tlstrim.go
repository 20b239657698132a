package loop

import (
	"bytes"
	"crypto/tls"
	"reflect"
	"time"
)

const (
	// trimAfter is how long a connection must be without input before what crypto/tls keeps for it is given back.
	trimAfter = 5 * time.Second
	// trimAbove is the size of records for which that is worth while.
	trimAbove = 4 << 10
)

// drained notes that all input was read. After a large record crypto/tls has a buffer of its size, up to 37 KiB, for as
// long as the connection lives: more than all the rest of it. So it is given back when the connection is idle.
func (s *session) drained() {
	switch {
	case s.records.longest <= trimAbove:
	case s.idle.Running():
		s.busy = true
	default:
		s.conn.loop.Start(&s.idle, trimAfter, s)
	}
}

// Expired gives the buffer back if nothing came meanwhile.
func (s *session) Expired(*Timer) {
	if s.busy || !s.trim() {
		s.busy = false
		s.conn.loop.Start(&s.idle, trimAfter, s)
	}
}

// trim takes the empty buffers of input from crypto/tls and reports whether they were empty. It is an economy only: with a
// crypto/tls that is built otherwise the buffers stay.
func (s *session) trim() bool {
	s.records.longest = 0
	received, messages, plain := field[bytes.Buffer](s.tls, "rawInput"), field[bytes.Buffer](s.tls, "hand"), field[bytes.Reader](s.tls, "input")
	if received == nil || messages == nil || plain == nil {
		return true
	}
	if received.Len() > 0 || messages.Len() > 0 || plain.Len() > 0 {
		return false
	}
	*received, *messages, *plain = bytes.Buffer{}, bytes.Buffer{}, bytes.Reader{}
	return true
}

// field finds a field of crypto/tls's connection; nil if there is none of that name and type.
func field[T any](conn *tls.Conn, name string) *T {
	f := reflect.ValueOf(conn).Elem().FieldByName(name)
	if !f.IsValid() || f.Type() != reflect.TypeFor[T]() {
		return nil
	}
	return (*T)(f.Addr().UnsafePointer())
}
