// Package dnstap logs what a DNS server is asked and answers, as dnstap (https://dnstap.info): protocol buffers in frame
// streams, to a receiver's unix socket or to a file.
//
// Nothing waits for it. What the receiver, or the disk, does not take in time is dropped and counted.
package dnstap

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/dnstap/golang-dnstap"
	"google.golang.org/protobuf/proto"

	"github.com/hostmesh/hostmesh/dnsserver"
)

// What may wait to be written. It is a few seconds' worth for a receiver that restarts, and bounded for one that never comes.
const (
	maxExchanges = 8192
	maxBytes     = 16 << 20

	retryTime = time.Second
	writeTime = 2 * time.Second // for a receiver to take what is written, and to say that it has
)

// Options say where the log goes.
type Options struct {
	Socket string // path of the unix socket of a receiver; it is connected to again when it goes
	File   string // path, if there is no Socket. A file that is there becomes File.1, as one does that is too large
	// FileBytes is how large the file may be: it takes twice as much on disk.
	FileBytes int64
	// Sample: of so many exchanges one is logged, by chance. 0 and 1: all.
	Sample            uint32
	Identity, Version string // of the server, in each message
	Log               *slog.Logger
}

// Log is a dnsserver.Tap. It is made by New and runs once.
type Log struct {
	opts  Options
	queue chan *exchange
	free  sync.Pool // of *exchange
	bytes atomic.Int64

	written, dropped atomic.Uint64
	state            atomic.Pointer[string] // what is wrong, "" for nothing, nil before the first attempt
}

// exchange is one that waits to be written, with its own bytes.
type exchange struct {
	dnsserver.Exchange
	memory []byte
}

// Stats are what a Log has done since it was made.
type Stats struct {
	Written uint64 // exchanges
	Dropped uint64 // exchanges that were to be logged and could not
	// Error is why nothing is written now, "" if it is.
	Error string
}

// New returns a Log that keeps what it is shown until Run.
func New(o Options) *Log { return &Log{opts: o, queue: make(chan *exchange, maxExchanges)} }

// Show implements dnsserver.Tap.
func (l *Log) Show(e dnsserver.Exchange) {
	if l.opts.Sample > 1 && rand.Uint32N(l.opts.Sample) != 0 {
		return
	}
	size := int64(len(e.Query) + len(e.Answer))
	if l.bytes.Add(size) > maxBytes {
		l.bytes.Add(-size)
		l.dropped.Add(1)
		return
	}
	kept, _ := l.free.Get().(*exchange)
	if kept == nil {
		kept = &exchange{}
	}
	kept.memory = append(append(kept.memory[:0], e.Query...), e.Answer...)
	kept.Exchange = e
	kept.Query, kept.Answer = kept.memory[:len(e.Query)], kept.memory[len(e.Query):]
	select {
	case l.queue <- kept:
	default:
		l.release(kept)
		l.dropped.Add(1)
	}
}

// maxKept is how large memory may be that is used again: some answers are large, most are not.
const maxKept = 4096

func (l *Log) release(e *exchange) {
	l.bytes.Add(-int64(len(e.memory)))
	if cap(e.memory) <= maxKept {
		l.free.Put(e)
	}
}

// Stats returns what was counted so far.
func (l *Log) Stats() Stats {
	s := Stats{Written: l.written.Load(), Dropped: l.dropped.Load(), Error: "not begun yet"}
	if state := l.state.Load(); state != nil {
		s.Error = *state
	}
	return s
}

// Run writes until ctx ends, then what waits, for two seconds at most. A receiver that is not there is tried again every second. It
// returns ctx's cause.
func (l *Log) Run(ctx context.Context) error {
	for {
		err := l.write(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.tell(err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryTime):
		}
	}
}

// tell says once what is wrong, until it is something else.
func (l *Log) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch was := l.state.Swap(&text); {
	case was != nil && *was == text:
	case err != nil:
		l.opts.Log.Warn("the query log is not written, trying again", "err", err)
	default:
		l.opts.Log.Info("writing the query log", "socket", l.opts.Socket, "file", l.opts.File)
	}
}

// write opens the sink and writes to it until ctx ends or something fails.
func (l *Log) write(ctx context.Context) error {
	to, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { to.end(writeTime) })()
	l.tell(nil)
	if err := l.copy(ctx, to); err != nil {
		to.abandon()
		return fmt.Errorf("write the query log to %s: %w", to.name, err)
	}
	return to.close()
}

// copy writes what comes, and sees to it that what is written is sent as soon as nothing more is there.
func (l *Log) copy(ctx context.Context, to *sink) error {
	e := encoder{identity: []byte(l.opts.Identity), version: []byte(l.opts.Version)}
	for {
		if to.over.Load() {
			return l.flush(to)
		}
		var next *exchange
		select {
		case next = <-l.queue:
		default:
			if err := l.flush(to); err != nil || ctx.Err() != nil {
				return err
			}
			select {
			case <-ctx.Done():
				continue // what came meanwhile
			case next = <-l.queue:
			}
		}
		err := e.write(to, &next.Exchange)
		l.release(next)
		to.pending++
		if err == nil && to.full() {
			if err = l.flush(to); err == nil {
				err = to.roll()
			}
		}
		if err != nil {
			l.dropped.Add(to.pending)
			return err
		}
	}
}

func (l *Log) flush(to *sink) error {
	if to.pending == 0 {
		return nil
	}
	if err := to.frames.Flush(); err != nil {
		l.dropped.Add(to.pending)
		return err
	}
	l.written.Add(to.pending)
	to.pending = 0
	return nil
}

// encoder makes frames, in memory that is used again.
type encoder struct {
	identity, version []byte
	frame             []byte
}

// kinds are the types of messages of queries; that of their answers is the next.
var kinds = map[dnsserver.Kind]pb.Message_Type{
	dnsserver.FromZone: pb.Message_AUTH_QUERY, dnsserver.FromForwarder: pb.Message_CLIENT_QUERY, dnsserver.FromUpstream: pb.Message_FORWARDER_QUERY,
}

var protocols = map[string]pb.SocketProtocol{
	"udp": pb.SocketProtocol_UDP, "tcp": pb.SocketProtocol_TCP, "tls": pb.SocketProtocol_DOT, "https": pb.SocketProtocol_DOH,
}

// write writes a message for the query and one for the answer, if there is one.
func (e *encoder) write(to *sink, x *dnsserver.Exchange) error {
	m := &pb.Message{
		Type: kinds[x.Kind].Enum(), SocketFamily: pb.SocketFamily_INET.Enum(), SocketProtocol: protocols[x.Transport].Enum(),
		QueryTimeSec: proto.Uint64(uint64(x.Asked.Unix())), QueryTimeNsec: proto.Uint32(uint32(x.Asked.Nanosecond())),
		QueryMessage: x.Query,
	}
	if x.Asker.Addr().Is6() || x.Answerer.Addr().Is6() { // of what we ask others, who asks is not known
		m.SocketFamily = pb.SocketFamily_INET6.Enum()
	}
	if x.Asker.IsValid() {
		m.QueryAddress, m.QueryPort = x.Asker.Addr().AsSlice(), proto.Uint32(uint32(x.Asker.Port()))
	}
	if x.Answerer.IsValid() {
		m.ResponseAddress, m.ResponsePort = x.Answerer.Addr().AsSlice(), proto.Uint32(uint32(x.Answerer.Port()))
	}
	if x.Zone != "" {
		m.QueryZone = []byte(x.Zone)
	}
	if err := e.message(to, m); err != nil || len(x.Answer) == 0 {
		return err
	}
	m.Type = (kinds[x.Kind] + 1).Enum()
	m.QueryMessage, m.ResponseMessage = nil, x.Answer
	m.ResponseTimeSec, m.ResponseTimeNsec = proto.Uint64(uint64(x.Answered.Unix())), proto.Uint32(uint32(x.Answered.Nanosecond()))
	return e.message(to, m)
}

func (e *encoder) message(to *sink, m *pb.Message) (err error) {
	tap := &pb.Dnstap{Type: pb.Dnstap_MESSAGE.Enum(), Message: m, Identity: e.identity, Version: e.version}
	if e.frame, err = (proto.MarshalOptions{}).MarshalAppend(e.frame[:0], tap); err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	n, err := to.frames.WriteFrame(e.frame)
	to.size += int64(n)
	return err
}
