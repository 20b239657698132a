// Package accesslog writes lines about requests and connections in formats that the configuration chooses: Envoy's command
// operators, in a text or in JSON.
//
// A format is compiled once ([Compile], [CompileJSON]); [Program.Append] then writes a line for a [Record] without
// allocating. What peers choose can neither end its field nor its line: see [Program.Append].
package accesslog

import (
	"net/netip"
	"time"

	"github.com/hostmesh/hostmesh/proxy/config"
	"github.com/hostmesh/hostmesh/proxy/message"
)

// Record is a request, or a TCP connection, that is over. What is not known is the zero value, a duration less than 0.
type Record struct {
	Start    time.Time // in UTC
	Duration time.Duration
	// After Start: the request's last byte received, its last byte sent upstream, the response's first byte from upstream.
	RequestDuration, RequestTX, ResponseDuration time.Duration
	ResponseTX                                   time.Duration // from the response's first byte to its last one sent

	Method, Path, Authority, Scheme, RequestID []byte
	Protocol, UpstreamProtocol                 string

	Status                   int
	Flags                    uint32   // bit i: FlagNames[i]
	FlagNames                []string // Envoy's short names
	Details                  string   // why this status
	Failure                  string   // why the upstream could not be reached
	BytesReceived, BytesSent uint64
	DownstreamFailure        string // why the handshake with the client failed
	Termination              string // why the client's connection was ended

	Route, Cluster string
	UpstreamRemote config.Address
	Connected      bool // the upstream was reached
	UpstreamLocal  netip.AddrPort
	Remote, Direct netip.AddrPort // of the client; Direct is the peer itself
	Local          config.Address
	Connection     uint64
	Attempts       int
	TCP            bool
	Listener       bool // the line is the listener's: it is about the connection, whatever that was used for

	Chain string // of filters
	TLS   *TLS   // nil: plaintext, or nothing is known

	UpstreamTLS *TLS   // the same of the upstream
	Unique      []byte // an identity of the record's own

	GRPC       bool // the request was a call of gRPC
	GRPCTold   bool // the response, call or not, told a status of gRPC:
	GRPCStatus int  // in its trailers, or else in its head; [message.GRPCInvalid] for what is none

	Request, Response, Trailer Values
	Random                     uint64 // for filters that take a share
}

// reached is the address of the upstream's end of a connection.
func (r *Record) reached() config.Address {
	if !r.Connected {
		return config.Address{}
	}
	return r.UpstreamRemote
}

// grpcStatus is how a call of gRPC ended; a response that does not tell says so by its status of HTTP.
func (r *Record) grpcStatus() (code int, ok bool) {
	if r.GRPCTold {
		return r.GRPCStatus, true
	}
	return message.GRPCOf(r.Status), r.Status > 0
}

// Fields are the header fields that the programs and filters of a listener read. Their values have to be kept while a request
// runs.
type Fields struct {
	names []fieldName
}

type fieldName struct {
	name string // lower case
	all  bool   // all lines, joined by commas; else the first line
}

// Empty reports whether no field is read.
func (f *Fields) Empty() bool { return len(f.names) == 0 }

func (f *Fields) slot(name string, all bool) int {
	want := fieldName{name, all}
	for i, n := range f.names {
		if n == want {
			return i
		}
	}
	f.names = append(f.names, want)
	return len(f.names) - 1
}

// Names are the fields of requests, of responses and of their trailers that are read.
type Names struct {
	Request, Response, Trailer Fields
}

// Values are the values of Fields in one head. Its memory is used again.
type Values struct {
	text  []byte
	spans []span
}

// span is a part of text; from is less than 0 for a field that is not there.
type span struct{ from, to int }

// Reset forgets the values.
func (v *Values) Reset() { v.text, v.spans = v.text[:0], v.spans[:0] }

// Size is how many bytes v keeps for the next values.
func (v *Values) Size() int { return cap(v.text) }

// Collect copies the values that f wants from a head with what e, which may be nil, changes in it.
func (v *Values) Collect(f *Fields, h *message.Head, e *message.Edit) {
	v.Reset()
	if e == nil {
		e = &message.Edit{}
	}
	for i := range f.names {
		v.spans = append(v.spans, v.find(&f.names[i], h, e))
	}
}

func (v *Values) find(f *fieldName, h *message.Head, e *message.Edit) span {
	s := span{-1, -1}
	if f.name == "host" && h.Status == 0 {
		v.add(&s, h.Bytes(h.Authority))
		return s
	}
	for i := 0; ; {
		value, next := h.Next(f.name, i)
		if next < 0 {
			break
		}
		if i = next; e.Drop.Has(h.Field(i-1).Known) && h.Field(i-1).Known != message.Other {
			continue
		}
		if v.add(&s, value); !f.all {
			return s
		}
	}
	for i := range e.Set {
		if message.EqualFold(e.Set[i].Name, f.name) {
			if v.add(&s, e.Set[i].Value); !f.all {
				return s
			}
		}
	}
	return s
}

// add appends a value of a field, behind the others by a comma.
func (v *Values) add(s *span, value []byte) {
	if s.from < 0 {
		s.from = len(v.text)
	} else {
		v.text = append(v.text, ',')
	}
	v.text = append(v.text, value...)
	s.to = len(v.text)
}

// at returns the value in a slot; ok is false when the field was not there.
func (v *Values) at(slot int) (value []byte, ok bool) {
	if slot >= len(v.spans) || v.spans[slot].from < 0 {
		return nil, false
	}
	return v.text[v.spans[slot].from:v.spans[slot].to], true
}
