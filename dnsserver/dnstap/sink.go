package dnstap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	pb "github.com/dnstap/golang-dnstap"
	framestream "github.com/farsightsec/golang-framestream"
)

// sink is where frames go: a connection to a receiver, or a file.
type sink struct {
	name    string
	frames  *framestream.Writer
	conn    net.Conn // nil for a file
	file    *os.File
	pending uint64 // exchanges that were written and not flushed
	size    int64  // bytes of frames
	most    int64  // bytes, of a file
	over    atomic.Bool
}

func (l *Log) open(ctx context.Context) (*sink, error) {
	if l.opts.Socket == "" {
		to := &sink{name: l.opts.File, most: l.opts.FileBytes}
		return to, to.openFile()
	}
	to := &sink{name: l.opts.Socket}
	dialer := net.Dialer{Timeout: writeTime}
	var err error
	if to.conn, err = dialer.DialContext(ctx, "unix", l.opts.Socket); err != nil {
		return nil, fmt.Errorf("connect to the receiver of the query log: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = to.conn.Close() })
	defer stop()
	// The timeout holds for each read and write, so for a receiver that reads no more too.
	to.frames, err = framestream.NewWriter(to.conn, &framestream.WriterOptions{ContentTypes: [][]byte{pb.FSContentType}, Bidirectional: true, Timeout: writeTime})
	if err != nil {
		_ = to.conn.Close()
		return nil, fmt.Errorf("greet the receiver of the query log at %s: %w (it has to take %s in frame streams)", to.name, err, pb.FSContentType)
	}
	return to, nil
}

// startBytes is more than a file has in which nothing is.
const startBytes = 64

// openFile begins a file. What is there is not added to: a file holds one stream. One in which nothing is is not kept in the place
// of a better one, as when the disk is full.
func (s *sink) openFile() error {
	if info, err := os.Stat(s.name); err == nil && info.Size() > startBytes {
		if err := os.Rename(s.name, s.name+".1"); err != nil {
			return fmt.Errorf("roll the query log: %w", err)
		}
	}
	var err error
	if s.file, err = os.OpenFile(s.name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil { // who asks for what is nobody's business
		return fmt.Errorf("open the query log: %w", err)
	}
	s.size = 0
	if s.frames, err = framestream.NewWriter(s.file, &framestream.WriterOptions{ContentTypes: [][]byte{pb.FSContentType}}); err != nil {
		return errors.Join(fmt.Errorf("begin the query log %s: %w", s.name, err), s.file.Close())
	}
	return nil
}

// full says whether a file has become too large.
func (s *sink) full() bool { return s.file != nil && s.most > 0 && s.size >= s.most }

// roll begins a new file. Nothing is pending.
func (s *sink) roll() error {
	if err := s.close(); err != nil {
		return err
	}
	return s.openFile()
}

// end gives a sink so long to be written and closed in good order, whatever still comes.
func (s *sink) end(after time.Duration) {
	time.AfterFunc(after, func() {
		s.over.Store(true)
		if s.conn != nil { // a write to a file ends by itself
			s.abandon()
		}
	})
}

// close ends the stream in good order.
func (s *sink) close() error { return errors.Join(s.frames.Close(), s.closer().Close()) }

// abandon closes what has failed.
func (s *sink) abandon() { _ = s.closer().Close() }

func (s *sink) closer() io.Closer {
	if s.conn != nil {
		return s.conn
	}
	return s.file
}
