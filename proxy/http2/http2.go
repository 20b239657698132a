// Package http2 is the HTTP/2 protocol core without I/O: bytes in, actions out.
//
// A [Conn] is one end of one connection: [Conn.Feed] reads what the peer sent and tells a [Handler] what it means; the Append
// methods write what is to be sent. It is strict (RFC 9113 and RFC 7541): a message that is malformed resets its stream before
// anybody has seen it. It reads no clock, allocates nothing once its arrays have grown, and nothing in it is safe for
// concurrent use.
package http2

// ErrCode is an error code of RFC 9113 section 7. As an error it says why a connection cannot go on.
type ErrCode uint32

// The error codes.
const (
	NoError ErrCode = iota
	ProtocolError
	InternalError
	FlowControlError
	SettingsTimeout
	StreamClosed
	FrameSizeError
	RefusedStream
	Cancel
	CompressionError
	ConnectError
	EnhanceYourCalm
	InadequateSecurity
	HTTP11Required
)

var codeTexts = [...]string{
	"no error", "protocol error", "internal error", "flow control error", "settings time-out", "stream closed", "frame size error",
	"refused stream", "cancelled", "compression error", "connect error", "enhance your calm", "inadequate security", "HTTP/1.1 required",
}

// Error is the code in words.
func (c ErrCode) Error() string {
	if int(c) >= len(codeTexts) {
		return "http2: unknown error code"
	}
	return "http2: " + codeTexts[c]
}

// Limits bounds what a peer can make a connection do. A limit of 0 takes its default.
//
// Content that nobody takes is bounded by Streams times Window, 6.4 MiB by default: that is what as many connections of HTTP/1 with a
// buffer of Window each would hold. ConnWindow is no bound of memory. It opens again as content comes, held or not, so that streams
// which are not read stall nobody but themselves.
type Limits struct {
	HeaderBytes int // of a field section, decoded, with 32 bytes for each field; and of its encoded form; default 60 KiB
	Fields      int // field lines; default 100
	Streams     int // that the peer has open at once; default 100
	Window      int // of each stream: what is held of it unconsumed at most; default 64 KiB
	ConnWindow  int // of the connection: what is under way to all streams at most; default 1 MiB, at least twice Window

	// Noise bounds the frames that make work and move nothing: a bucket of that size that time and finished streams empty. Window
	// updates and pings that follow from content we sent are none, nor is what was under way to streams that this side reset. Resets is the same for streams that are cut off by a client
	// within a second or two and before they are finished. Defaults 1,000 and 200.
	Noise, Resets int

	// ExtendedConnect lets a client open tunnels by :protocol (RFC 8441).
	ExtendedConnect bool
}

const (
	maxWindow       = 1<<31 - 1
	initialWindow   = 65535   // before SETTINGS tell otherwise
	maxFrame        = 16384   // what we receive; it is not raised
	maxSendFrame    = 1 << 15 // what we send at most, if the peer takes it
	tableSize       = 4096    // of both dynamic tables at most
	controlBytes    = 16 << 10
	blockFrames     = 32 // CONTINUATION frames of one field section
	defaultFields   = 100
	headerOverhead  = 32 // RFC 7541 section 4.1
	frameHeaderSize = 9
	overNoise       = 50 // what a field section beyond the limits counts as at least: it had to be decoded
	overBytes       = 64 // and as one more for so many bytes of it
	emptyNoise      = 50 // what a DATA frame without content counts as: nobody needs any but the last (Envoy takes one in a row)
	lateFrames      = 3  // that may be under way to a stream when it is reset, besides content: a head, trailers or an end, a reset
	echoesPerFrame  = 10 // window updates and pings that a DATA frame we send may bring; Envoy's limit
)

func (l Limits) orDefaults() Limits {
	for _, d := range []struct {
		limit *int
		value int
	}{{&l.HeaderBytes, 60 << 10}, {&l.Fields, defaultFields}, {&l.Streams, 100}, {&l.Window, 64 << 10}, {&l.ConnWindow, 1 << 20}, {&l.Noise, 1000}, {&l.Resets, 200}} {
		if *d.limit <= 0 {
			*d.limit = d.value
		}
	}
	l.Window = min(l.Window, maxWindow)
	l.ConnWindow = min(max(l.ConnWindow, 2*l.Window, initialWindow), maxWindow)
	l.Fields = min(l.Fields, 1<<16-1)
	return l
}
