package http2

import "encoding/binary"

type frameType uint8

const (
	frameData frameType = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// frame is the header of a frame (RFC 9113 section 4.1).
type frame struct {
	length int
	kind   frameType
	flags  uint8
	stream uint32
}

func (f frame) has(flag uint8) bool { return f.flags&flag != 0 }

// parseFrame reads a frame header; b holds at least its nine bytes.
func parseFrame(b []byte) frame {
	_ = b[frameHeaderSize-1]
	return frame{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   frameType(b[3]),
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & maxWindow, // the reserved bit is ignored
	}
}

func (f frame) bytes() (b [frameHeaderSize]byte) {
	b[0], b[1], b[2] = byte(f.length>>16), byte(f.length>>8), byte(f.length)
	b[3], b[4] = byte(f.kind), f.flags
	binary.BigEndian.PutUint32(b[5:], f.stream)
	return b
}

func (f frame) append(dst []byte) []byte {
	b := f.bytes()
	return append(dst, b[:]...)
}

// unpad removes padding: the length byte and what stands at the end (RFC 9113 section 6.1).
func (f frame) unpad(p []byte) ([]byte, ErrCode) {
	if !f.has(flagPadded) {
		return p, NoError
	}
	if len(p) == 0 {
		return nil, FrameSizeError
	}
	pad := int(p[0])
	if pad >= len(p) {
		return nil, ProtocolError
	}
	return p[1 : len(p)-pad], NoError
}

func appendReset(dst []byte, stream uint32, code ErrCode) []byte {
	dst = frame{4, frameReset, 0, stream}.append(dst)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

func appendGoAway(dst []byte, last uint32, code ErrCode) []byte {
	dst = frame{8, frameGoAway, 0, 0}.append(dst)
	dst = binary.BigEndian.AppendUint32(dst, last)
	return binary.BigEndian.AppendUint32(dst, uint32(code))
}

func appendWindowUpdate(dst []byte, stream uint32, n int) []byte {
	dst = frame{4, frameWindowUpdate, 0, stream}.append(dst)
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

// appendBlock appends a HEADERS frame and the CONTINUATION frames it needs: dst[start:] is the encoded section, with room for one
// frame header in front of it. Sections that need more than one frame are rare; they are moved apart in place.
func appendBlock(dst []byte, start int, stream uint32, end bool, limit int) []byte {
	f := frame{len(dst) - start, frameHeaders, flagEndHeaders, stream}
	if end {
		f.flags |= flagEndStream
	}
	if f.length <= limit {
		h := f.bytes()
		copy(dst[start-frameHeaderSize:], h[:])
		return dst
	}
	f.length, f.flags = limit, f.flags&^flagEndHeaders
	h := f.bytes()
	copy(dst[start-frameHeaderSize:], h[:])
	for at := start + limit; at < len(dst); at += limit {
		rest := len(dst) - at
		dst = append(dst, h[:]...) // room; the bytes are overwritten
		copy(dst[at+frameHeaderSize:], dst[at:at+rest])
		c := frame{min(rest, limit), frameContinuation, 0, stream}
		if rest <= limit {
			c.flags = flagEndHeaders
		}
		h := c.bytes()
		copy(dst[at:], h[:])
		at += frameHeaderSize
	}
	return dst
}
