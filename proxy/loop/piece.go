package loop

// Piece is content in a buffer: Buf[From:To]. What stands before and behind it in Buf, up to its capacity, may be overwritten by
// whoever is given the piece, so that a head, or the ends of a chunk, can be put around it and all be sent at once. It is valid
// during the call.
type Piece struct {
	Buf      []byte
	From, To int
}

// Bytes is the content itself.
func (p Piece) Bytes() []byte { return p.Buf[p.From:p.To] }

// Len is how many bytes it has.
func (p Piece) Len() int { return p.To - p.From }

// Sealed makes a piece of bytes that have no free space around them.
func Sealed(b []byte) Piece { return Piece{Buf: b[:len(b):len(b)], To: len(b)} }

// Prepend puts b in front of the piece. It reports false, and does nothing, when there is no room.
func (p *Piece) Prepend(b []byte) bool {
	if p.From < len(b) {
		return false
	}
	p.From -= len(b)
	copy(p.Buf[p.From:], b)
	return true
}
