package http2

// Counter is one of the figures of connections.
type Counter uint8

// The counters, by Envoy's names where it has them (see String). Floods are counted once, by what broke the budget.
const (
	HeaderOverflow             Counter = iota // field sections, or runs of CONTINUATION, beyond the limits
	InboundEmptyFramesFlood                   // DATA and CONTINUATION without content
	InboundPriorityFramesFlood                //
	InboundWindowUpdateFlood                  //
	InboundUselessFramesFlood                 // ours: of unknown types, for streams that are reset, answers to nothing
	OutboundControlFlood                      // SETTINGS and PING, which want an answer each
	MessagingError                            // malformed messages, and connections that broke the rules
	ResetReceived                             // RST_STREAM
	ResetSent
	GoAwaySent
	KeepaliveTimeout // pings without an answer
	Trailers         // sections received
	NumCounters
)

var counterNames = [NumCounters]string{
	HeaderOverflow:             "header_overflow",
	InboundEmptyFramesFlood:    "inbound_empty_frames_flood",
	InboundPriorityFramesFlood: "inbound_priority_frames_flood",
	InboundWindowUpdateFlood:   "inbound_window_update_frames_flood",
	InboundUselessFramesFlood:  "inbound_useless_frames_flood",
	OutboundControlFlood:       "outbound_control_flood",
	MessagingError:             "rx_messaging_error",
	ResetReceived:              "rx_reset",
	ResetSent:                  "tx_reset",
	GoAwaySent:                 "goaway_sent",
	KeepaliveTimeout:           "keepalive_timeout",
	Trailers:                   "trailers",
}

// String is the counter's name.
func (c Counter) String() string {
	if c >= NumCounters {
		return "none"
	}
	return counterNames[c]
}

// Counts are the counters of connections that share them.
type Counts [NumCounters]uint64

// Add adds those of others.
func (n *Counts) Add(other *Counts) {
	for i, v := range other {
		n[i] += v
	}
}

// Count has what happens from now on counted in n, which other connections on the same loop may share.
func (c *Conn) Count(n *Counts) { c.counts = n }

// CountOne counts what the connection's user has found out.
func (c *Conn) CountOne(k Counter) { c.count(k) }

func (c *Conn) count(k Counter) {
	if c.counts != nil {
		c.counts[k]++
	}
}
