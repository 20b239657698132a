package http1

import "bytes"

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

// chunked advances over one span that is all kept or all dropped. An error is told at the start of a span.
func (b *Body) chunked(buf []byte) (n int, keep bool, err error) {
	for n < len(buf) && !b.done {
		take, pass := 0, false
		switch b.state {
		case atData:
			take = int(min(b.remain, int64(len(buf)-n)))
			pass = true
		case atTrailer:
			take, pass, err = b.trailer(buf[n:])
			if err == nil && take == 0 {
				return n, keep, nil
			}
		default:
			take, pass = 1, !b.unwrap && !b.inExtension(buf[n])
		}
		if n > 0 && (err != nil || pass != keep) {
			return n, keep, nil
		}
		if err == nil {
			err = b.advance(buf[n:], take)
		}
		if err != nil && n > 0 {
			return n, keep, nil // what is before it comes first; the next call finds the same error
		}
		if err != nil {
			return 0, false, err
		}
		n, keep = n+take, pass
	}
	return n, keep, nil
}

// inExtension reports whether c, the next byte, belongs to an extension.
func (b *Body) inExtension(c byte) bool {
	switch b.state {
	case atSize:
		return c == ';'
	case atExtName, atExtValue, atExtQuoted, atExtEscaped:
		return true
	case atExtNameRest, atExtToken, atExtQuotedEnd:
		return c != '\r'
	}
	return false
}

// advance moves the state over the take bytes at the start of buf.
func (b *Body) advance(buf []byte, take int) error {
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
		b.extras += int32(take)
		b.done = buf[0] == '\r'
	default:
		return b.extension(c)
	}
	return nil
}

func (b *Body) size(c byte) error {
	if d := unhex(c); d >= 0 {
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
	token := classes[c]&isToken != 0
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
		case classes[c]&isQuoted == 0:
			return ErrChunkExtension
		}
	case atExtEscaped:
		if c != '"' && c != '\\' && classes[c]&isQuoted == 0 {
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

// trailer returns the length of the trailer line at the start of buf with its CRLF, 0 when more bytes are needed, and whether
// it is passed on. The empty line ends the body.
func (b *Body) trailer(buf []byte) (n int, keep bool, err error) {
	lf := bytes.IndexByte(buf, '\n')
	line := buf
	if lf >= 0 {
		line = buf[:lf]
	}
	cr := bytes.IndexByte(line, '\r')
	switch {
	case cr >= 0 && cr < len(line)-1:
		return 0, false, ErrBareCR
	case lf < 0 && (len(line) >= maxTrailer || int(b.extras)+len(line) > maxExtras):
		return 0, false, ErrTrailer
	case lf < 0:
		return 0, false, nil
	case cr < 0:
		return 0, false, ErrBareLF
	case lf >= maxTrailer || int(b.extras)+lf+1 > maxExtras:
		return 0, false, ErrTrailer
	case cr == 0:
		return 2, !b.unwrap, nil
	}
	var f Field
	if err := f.parse(line, 0, cr); err != 0 {
		return 0, false, err
	}
	return lf + 1, !b.unwrap && allowedTrailer(line[:f.nameEnd], f), nil
}

// allowedTrailer reports whether a field may stand in a trailer section (RFC 9110 section 6.5.1): not one that frames, routes,
// authenticates or describes the content, and none that the proxy sets.
func allowedTrailer(name []byte, f Field) bool {
	if f.Name != Other || f.Hop {
		return false
	}
	for _, prefix := range [...]string{"x-forwarded-", "x-envoy-", "content-", "access-control-", "if-", "proxy-", "sec-"} {
		if hasPrefixFold(name, prefix) {
			return false
		}
	}
	for _, forbidden := range [...]string{
		"age", "cache-control", "expires", "location", "max-forwards", "pragma", "range", "retry-after", "set-cookie",
		"traceparent", "tracestate", "vary", "warning", "www-authenticate",
	} {
		if equalFold(name, forbidden) {
			return false
		}
	}
	return true
}
