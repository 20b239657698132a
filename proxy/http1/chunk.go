package http1

import (
	"bytes"
	"strconv"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// chunkState is where in a chunked body (RFC 9112 section 7.1) the next byte is.
type chunkState uint8

const (
	atSize    chunkState = iota // digits of a size
	atExtName                   // first byte of an extension's name
	atExtNameRest
	atExtValue // first byte of its value
	atExtToken
	atExtQuoted
	atExtEscaped
	atExtQuotedEnd
	atSizeLF
	atData
	atDataCR
	atDataLF
	atTrailer // start of a trailer line or of the last CRLF
)

// chunked advances over one span that is all content or all dropped. An error is told at the start of a span.
func (b *Body) chunked(buf []byte, trailers *message.Fields) (n int, keep bool, err error) {
	for n < len(buf) && !b.done {
		take, content := 1, b.state == atData
		switch b.state {
		case atData:
			take = int(min(b.remain, int64(len(buf)-n)))
		case atTrailer:
			take, err = b.trailer(buf[n:])
			if err == nil && take == 0 {
				return n, keep, nil
			}
		}
		if n > 0 && (err != nil || content != keep) {
			return n, keep, nil
		}
		if err == nil {
			err = b.advance(buf[n:], take, trailers)
		}
		if err != nil && n > 0 {
			return n, keep, nil // what is before it comes first; the next call finds the same error
		}
		if err != nil {
			return 0, false, err
		}
		n, keep = n+take, content
	}
	return n, keep, nil
}

// advance moves the state over the take bytes at the start of buf.
func (b *Body) advance(buf []byte, take int, trailers *message.Fields) error {
	c := buf[0]
	switch b.state {
	case atSize:
		return b.size(c)
	case atSizeLF:
		if c != '\n' {
			return ErrBareCR
		}
		b.state = atData
		if b.remain == 0 {
			b.state = atTrailer
		}
		b.digits, b.ext = 0, 0
	case atData:
		b.content += uint64(take)
		b.remain -= int64(take)
		if b.remain == 0 {
			b.state = atDataCR
		}
	case atDataCR:
		if c != '\r' {
			return ErrChunkEnd
		}
		b.state = atDataLF
	case atDataLF:
		if c != '\n' {
			return ErrChunkEnd
		}
		b.state = atSize
	case atTrailer:
		if c != '\r' {
			if err := b.addTrailer(buf[:take], trailers); err != nil {
				return err
			}
		}
		b.done = c == '\r'
		b.extras += int32(take)
	default:
		return b.extension(c)
	}
	return nil
}

func (b *Body) size(c byte) error {
	if d := message.Unhex(c); d >= 0 {
		if b.digits++; b.digits > 16 || b.remain > maxChunk>>4 {
			return ErrChunkSize
		}
		b.remain = b.remain<<4 | int64(d)
		return nil
	}
	switch {
	case b.digits == 0:
		return ErrChunkSize
	case c == '\r':
		b.state = atSizeLF
		return nil
	case c == ';':
		return b.extension(c)
	case c == '\n':
		return ErrBareLF
	}
	return ErrChunkSize
}

// extension follows *( ";" name [ "=" ( token / quoted-string ) ] ). The whitespace that the grammar calls bad is refused.
func (b *Body) extension(c byte) error {
	if c == '\n' {
		return ErrBareLF
	}
	b.ext++
	b.extras++
	if b.ext > maxExtension || b.extras > maxExtras {
		return ErrChunkExtension
	}
	token := message.TokenByte(c)
	switch b.state {
	case atSize:
		b.state = atExtName
	case atExtName, atExtNameRest:
		first := b.state == atExtName
		switch {
		case token:
			b.state = atExtNameRest
		case first:
			return ErrChunkExtension
		case c == '=':
			b.state = atExtValue
		default:
			return b.extensionEnd(c)
		}
	case atExtValue:
		switch {
		case c == '"':
			b.state = atExtQuoted
		case token:
			b.state = atExtToken
		default:
			return ErrChunkExtension
		}
	case atExtToken:
		if !token {
			return b.extensionEnd(c)
		}
	case atExtQuoted:
		switch {
		case c == '"':
			b.state = atExtQuotedEnd
		case c == '\\':
			b.state = atExtEscaped
		case !text(c):
			return ErrChunkExtension
		}
	case atExtEscaped:
		if !text(c) {
			return ErrChunkExtension
		}
		b.state = atExtQuoted
	case atExtQuotedEnd:
		return b.extensionEnd(c)
	}
	return nil
}

// extensionEnd takes the byte after a complete extension.
func (b *Body) extensionEnd(c byte) error {
	switch c {
	case ';':
		b.state = atExtName
	case '\r':
		b.state = atSizeLF
	default:
		return ErrChunkExtension
	}
	return nil
}

// text reports whether c may stand in a quoted string: no control character but HTAB.
func text(c byte) bool { return c >= ' ' && c != 0x7f || c == '\t' }

// trailer returns the length of the trailer line at the start of buf with its CRLF, 0 when more bytes are needed. The empty line
// ends the body.
func (b *Body) trailer(buf []byte) (n int, err error) {
	lf := bytes.IndexByte(buf, '\n')
	line := buf
	if lf >= 0 {
		line = buf[:lf]
	}
	cr := bytes.IndexByte(line, '\r')
	switch {
	case cr >= 0 && cr < len(line)-1:
		return 0, ErrBareCR
	case lf < 0 && (len(line) >= maxTrailer || int(b.extras)+len(line) > maxExtras):
		return 0, ErrTrailer
	case lf < 0:
		return 0, nil
	case cr < 0:
		return 0, ErrBareLF
	case lf >= maxTrailer || int(b.extras)+lf+1 > maxExtras:
		return 0, ErrTrailer
	}
	return lf + 1, nil
}

// addTrailer takes a line with its CRLF.
func (b *Body) addTrailer(line []byte, trailers *message.Fields) error {
	var f message.Field
	at := uint32(0)
	if trailers != nil {
		at = uint32(len(trailers.Text))
	}
	switch {
	case readField(line, &f, at) == 0:
		return fieldError(line[:len(line)-len("\r\n")])
	case b.lines >= maxTrailers:
		return ErrTrailer
	}
	b.lines++
	if trailers != nil && allowedTrailer(line[:f.Name.End-at], &f) {
		trailers.Text = append(trailers.Text, line[:f.Value.End-at]...)
		trailers.Add(f)
	}
	return nil
}

// WrapChunk makes buf[from:to], which is not empty, a chunk and returns where it stands now. There must be room for 18 bytes
// before it and 2 behind it.
func WrapChunk(buf []byte, from, to int) (int, int) {
	var size [18]byte
	head := append(strconv.AppendInt(size[:0], int64(to-from), 16), "\r\n"...)
	from -= len(head)
	copy(buf[from:], head)
	return from, to + copy(buf[to:], "\r\n")
}

// AppendLastChunk appends the end of a chunked body with its trailers, which may be nil, as far as they are allowed there.
func AppendLastChunk(dst []byte, trailers *message.Fields) []byte {
	dst = append(dst, "0\r\n"...)
	if trailers != nil {
		fields := trailers.Fields()
		for i := range fields {
			f := &fields[i]
			if name := trailers.Bytes(f.Name); allowedTrailer(name, f) {
				dst = append(append(dst, name...), ": "...)
				dst = append(append(dst, trailers.Bytes(f.Value)...), "\r\n"...)
			}
		}
	}
	return append(dst, "\r\n"...)
}
