package loop

// buffers keeps the loop's free buffers in a few sizes.
type buffers struct {
	free [len(bufferSizes)][][]byte
}

// The third holds a record of TLS.
var bufferSizes = [...]int{1 << 10, 4 << 10, 18 << 10, 72 << 10}

// keptBytes of each size stay in the pool; more than that goes back to the garbage collector after a burst.
const keptBytes = 512 << 10

// Buffer returns an empty buffer with room for at least n bytes. It is the caller's until Release.
func (l *Loop) Buffer(n int) []byte {
	for i, size := range bufferSizes {
		if n > size {
			continue
		}
		free := l.buffers.free[i]
		if last := len(free) - 1; last >= 0 {
			b := free[last]
			free[last] = nil
			l.buffers.free[i] = free[:last]
			return b
		}
		return make([]byte, 0, size)
	}
	return make([]byte, 0, n)
}

// Release gives a buffer of Buffer back; nil is ignored. It must have its whole capacity and not be used afterwards.
func (l *Loop) Release(b []byte) {
	for i, size := range bufferSizes {
		if cap(b) == size && len(l.buffers.free[i]) < keptBytes/size {
			l.buffers.free[i] = append(l.buffers.free[i], b[:0])
			return
		}
	}
}

// Grow returns a buffer with the content of b and room for n more bytes: b itself, or a larger one and b was released.
func (l *Loop) Grow(b []byte, n int) []byte {
	if cap(b)-len(b) >= n {
		return b
	}
	larger := append(l.Buffer(max(len(b)+n, 2*len(b))), b...)
	l.Release(b)
	return larger
}
