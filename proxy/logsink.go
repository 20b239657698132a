package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hostmesh/hostmesh/proxy/accesslog"
	"github.com/hostmesh/hostmesh/proxy/config"
)

const (
	logQueue = 64          // buffers on their way to a file
	logTime  = time.Second // for what is queued to be written when the proxy ends
)

// sink writes access-log lines to one place, on a goroutine of its own: a slow disk drops lines, it never stops a loop.
type sink struct {
	path    string
	open    func() (io.Writer, func() error, error)
	failed  func(error) // told when the file cannot be opened again
	w       io.Writer
	close   func() error
	queue   chan []byte
	free    chan []byte
	again   chan struct{} // open the file again
	done    chan struct{} // closed when nothing is written any more
	writing atomic.Uint64 // lines that are being written
	dropped atomic.Uint64 // lines that were not
}

func newSink(path string, open func() (io.Writer, func() error, error), failed func(error)) (*sink, error) {
	w, closeFile, err := open()
	if err != nil {
		return nil, err
	}
	s := &sink{
		path: path, open: open, failed: failed, w: w, close: closeFile,
		queue: make(chan []byte, logQueue), free: make(chan []byte, logQueue), again: make(chan struct{}, 1), done: make(chan struct{}),
	}
	go s.run()
	return s, nil
}

func (s *sink) run() {
	defer close(s.done)
	for {
		select {
		case b, ok := <-s.queue:
			if !ok {
				return
			}
			n := countLines(b)
			s.writing.Store(n)
			if _, err := s.w.Write(b); err != nil {
				s.dropped.Add(n)
			}
			s.writing.Store(0)
			select {
			case s.free <- b[:0]:
			default:
			}
		case <-s.again:
			s.reopen()
		}
	}
}

// reopen opens the file by its name again. While that does not work the lines go to the file that is open.
func (s *sink) reopen() {
	w, closeFile, err := s.open()
	if err != nil {
		s.failed(err)
		return
	}
	if s.close != nil {
		_ = s.close()
	}
	s.w, s.close = w, closeFile
}

// stop waits until what is queued is written, after the queue was closed, and the file closed. When that is not done before late is closed, the rest is given up: who
// reads a pipe may have stopped for good, and the proxy is to end all the same. The number of lines given up is returned; some of
// those that are being written may have got through. No loop may use the sink any more.
func (s *sink) stop(late <-chan struct{}) (lost uint64) {
	select {
	case <-s.done:
	case <-late:
		lost = s.writing.Load()
		for b := range s.queue {
			lost += countLines(b)
		}
		s.dropped.Add(lost)
		return lost // its goroutine ends when its write does
	}
	if s.close != nil {
		_ = s.close()
	}
	return 0
}

func countLines(b []byte) uint64 { return uint64(bytes.Count(b, []byte{'\n'})) }

// stopSinks ends all access logs; the loops have flushed.
func (b *binder) stopSinks() {
	late, cancel := context.WithTimeout(context.Background(), logTime)
	defer cancel()
	for _, s := range b.sinks {
		close(s.queue)
	}
	for _, s := range b.sinks {
		if lost := s.stop(late.Done()); lost > 0 {
			b.p.log.Warn("nobody takes the last lines of an access log: they are lost", "path", s.path, "lines", lost)
		}
	}
}

// ReopenLogs has the files of the access logs opened by their names again, as after a rotation. It does not wait for that.
func (p *Proxy) ReopenLogs() {
	p.binder.mu.Lock()
	defer p.binder.mu.Unlock()
	for _, s := range p.binder.sinks {
		select {
		case s.again <- struct{}{}:
		default: // asked already
		}
	}
}

// lines are the access logs of a listener that have a format or a filter of their own.
type lines struct {
	logs  []line
	names accesslog.Names // fields that they read
	needs accesslog.Needs
}

type line struct {
	sink    *sink
	program *accesslog.Program
	filter  *accesslog.Filter
}

// write writes what the logs have to say about r.
func (l *lines) write(w *worker, r *accesslog.Record) {
	for i := range l.logs {
		log := &l.logs[i]
		if !log.filter.Takes(r) {
			continue
		}
		b := w.log(log.sink)
		b.buf = log.program.Append(b.buf, r)
		b.wrote()
	}
}

// logsOf opens the access logs of a listener's chain: places for Envoy's default line about everything, and the others.
func (b *binder) logsOf(l *config.Listener, chain *config.FilterChain) ([]*sink, *lines) {
	if chain.HTTP != nil {
		return b.logs(l, chain.HTTP.AccessLogs, true)
	}
	return b.logs(l, chain.TCP.AccessLogs, true)
}

// logs opens access logs. One that cannot be opened or compiled is left out and said. Of those that write Envoy's default line about
// everything only the places are returned, if apart says so.
func (b *binder) logs(l *config.Listener, logs []config.AccessLog, apart bool) ([]*sink, *lines) {
	var sinks []*sink
	others := &lines{}
	hostname, _ := os.Hostname()
	c := accesslog.Compiler{Hostname: hostname}
	for _, log := range logs {
		s, err := b.sink(log.Path)
		if err != nil {
			b.p.log.Error("cannot write access log", "listener", l.Name, "err", err)
			continue
		}
		if apart && log.Format == nil && log.Filter == nil {
			if !slices.Contains(sinks, s) {
				sinks = append(sinks, s)
			}
			continue
		}
		compiled := line{sink: s}
		if compiled.program, err = compileFormat(&c, log.Format); err == nil {
			compiled.filter, err = c.Filter(log.Filter)
		}
		if err != nil {
			b.p.log.Error("cannot write access log", "listener", l.Name, "path", log.Path, "err", err)
			continue
		}
		others.logs = append(others.logs, compiled)
	}
	if len(others.logs) == 0 {
		return sinks, nil
	}
	others.names, others.needs = c.Names, c.Needs
	return sinks, others
}

func compileFormat(c *accesslog.Compiler, f *config.LogFormat) (*accesslog.Program, error) {
	switch {
	case f == nil:
		return c.Text(accesslog.Default, false)
	case f.JSON != nil:
		return c.JSON(f.JSON, f.OmitEmpty)
	}
	return c.Text(f.Text, f.OmitEmpty)
}

// sink returns the sink of a path.
func (b *binder) sink(path string) (*sink, error) {
	if s := b.sinks[path]; s != nil {
		return s, nil
	}
	s, err := newSink(path, func() (io.Writer, func() error, error) { return b.openLog(path) },
		func(err error) { b.p.log.Error("cannot reopen access log, the old file is written on", "err", err) })
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	b.sinks[path] = s
	b.mu.Unlock()
	return s, nil
}

func (b *binder) openLog(path string) (io.Writer, func() error, error) {
	switch {
	case b.p.opts.AccessLog != nil:
		return b.p.opts.AccessLog, nil, nil
	case path == "/dev/stdout":
		return os.Stdout, nil, nil
	case path == "/dev/stderr":
		return os.Stderr, nil, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, nil, fmt.Errorf("open access log: %w", err)
	}
	return f, f.Close, nil
}
