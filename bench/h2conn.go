package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/http2/hpack"
)

// Frames and settings of RFC 9113.
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 1 // of DATA and HEADERS
	flagAck        = 1 // of SETTINGS and PING
	flagEndHeaders = 4
	flagPadded     = 8
	flagPriority   = 32

	settingTableSize = 1
	settingStreams   = 3
	settingWindow    = 4

	clientPreface  = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeadBytes = 9
	defaultWindow  = 65535
	wideWindow     = 1 << 30 // that an end opens for the whole connection
	tableSize      = 4096    // of HPACK
)

// h2conn is what both ends of an HTTP/2 connection do: cut frames, answer SETTINGS and PING, and keep the windows of the connection.
// It is only as much of HTTP/2 as the load needs; what a proxy may do and it does not know ends the measurement with a message.
type h2conn struct {
	partial  []byte // of a frame
	settled  bool   // the other side's first SETTINGS came
	table    uint32 // its HPACK table
	most     uint32 // streams that it lets be open
	initial  uint32 // window of a stream
	window   int    // DATA that it takes on the connection
	consumed int    // DATA taken from it and not yet given back as window
}

func newH2Conn() h2conn {
	return h2conn{table: tableSize, most: 1 << 30, initial: defaultWindow, window: defaultWindow}
}

func appendFrameHead(b []byte, length int, kind, flags byte, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return binary.BigEndian.AppendUint32(b, stream)
}

// appendGreeting is SETTINGS, which leave the defaults but for more streams, and a window that does not stand in the way.
func appendGreeting(b []byte) []byte {
	b = appendFrameHead(b, 6, frameSettings, 0, 0)
	b = binary.BigEndian.AppendUint16(b, settingStreams)
	b = binary.BigEndian.AppendUint32(b, 1024)
	return appendWindow(b, wideWindow-defaultWindow)
}

func appendWindow(b []byte, more int) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHead(b, 4, frameWindow, 0, 0), uint32(more))
}

// frames cuts what was read and has what concerns the whole connection done; the rest is the end's.
func (c *h2conn) frames(e *end, b []byte, stream func(e *end, kind, flags byte, id uint32, payload []byte) error) error {
	if len(c.partial) > 0 {
		b = append(c.partial, b...)
	}
	for len(b) >= frameHeadBytes {
		length := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
		if len(b) < frameHeadBytes+length {
			break
		}
		kind, flags, id := b[3], b[4], binary.BigEndian.Uint32(b[5:])&(1<<31-1)
		payload := b[frameHeadBytes : frameHeadBytes+length]
		b = b[frameHeadBytes+length:]
		var err error
		if id == 0 {
			err = c.connection(e, kind, flags, payload)
		} else {
			if kind == frameData {
				if c.consumed += length; c.consumed > wideWindow/2 {
					e.out = appendWindow(e.out, c.consumed)
					c.consumed = 0
				}
			}
			err = stream(e, kind, flags, id, payload)
		}
		if err != nil {
			return err
		}
	}
	c.partial = append(c.partial[:0], b...)
	return nil
}

// connection takes a frame of stream 0.
func (c *h2conn) connection(e *end, kind, flags byte, payload []byte) error {
	switch kind {
	case frameSettings:
		if flags&flagAck != 0 {
			return nil
		}
		for ; len(payload) >= 6; payload = payload[6:] {
			value := binary.BigEndian.Uint32(payload[2:])
			switch binary.BigEndian.Uint16(payload) {
			case settingTableSize:
				c.table = value
			case settingStreams:
				c.most = value
			case settingWindow:
				c.initial = value
			}
		}
		c.settled = true
		e.out = appendFrameHead(e.out, 0, frameSettings, flagAck, 0)
	case framePing:
		if flags&flagAck == 0 {
			e.out = append(appendFrameHead(e.out, len(payload), framePing, flagAck, 0), payload...)
		}
	case frameWindow:
		if len(payload) == 4 {
			c.window += int(binary.BigEndian.Uint32(payload))
		}
	case frameGoAway:
		if len(payload) >= 8 && binary.BigEndian.Uint32(payload[4:]) != 0 {
			return fmt.Errorf("proxy ended an HTTP/2 connection with error %d: %q", binary.BigEndian.Uint32(payload[4:]), payload[8:])
		}
		if e.client {
			return errors.New("proxy ended a client's HTTP/2 connection")
		}
	}
	return nil
}

// block returns the field block of HEADERS without padding and priority.
func block(flags byte, payload []byte) ([]byte, error) {
	if flags&flagEndHeaders == 0 {
		return nil, errors.New("proxy sent CONTINUATION, which the load does not read")
	}
	padding := 0
	if flags&flagPadded != 0 && len(payload) > 0 {
		padding, payload = int(payload[0]), payload[1:]
	}
	if flags&flagPriority != 0 && len(payload) >= 5 {
		payload = payload[5:]
	}
	if padding > len(payload) {
		return nil, errors.New("proxy sent more padding than HEADERS")
	}
	return payload[:len(payload)-padding], nil
}

// fieldsText writes fields as lines, to look for what must be there.
func fieldsText(fields []hpack.HeaderField) string {
	var b bytes.Buffer
	b.WriteString("\n")
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	return b.String()
}

// coded is a list of fields in the three ways that a connection needs it: put into an empty dynamic table, taken from there, and
// without a table.
type coded struct{ first, again, plain []byte }

// code codes lists that go over one connection in this order, each again and again afterwards.
func code(lists ...[]hpack.HeaderField) []coded {
	var b bytes.Buffer
	encode := func(e *hpack.Encoder, fields []hpack.HeaderField, sensitive bool) []byte {
		b.Reset()
		for _, f := range fields {
			f.Sensitive = sensitive // these do not enter the table
			e.WriteField(f)         // to a buffer: no error
		}
		return bytes.Clone(b.Bytes())
	}
	table, none := hpack.NewEncoder(&b), hpack.NewEncoder(&b)
	out := make([]coded, len(lists))
	for i, fields := range lists {
		out[i].first, out[i].plain = encode(table, fields, false), encode(none, fields, true)
	}
	for i, fields := range lists {
		out[i].again = encode(table, fields, false)
	}
	return out
}

// of returns the block to send: nth counts the blocks of this list that the connection has had.
func (c *coded) of(conn *h2conn, nth int) []byte {
	switch {
	case conn.table < tableSize && nth == 0:
		return append([]byte{0x20}, c.plain...) // the table is set to 0 first (RFC 7541, 4.2)
	case conn.table < tableSize:
		return c.plain
	case nth == 0:
		return c.first
	}
	return c.again
}
