package http1

import (
	"strconv"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// Compact follows b through data and moves the content to its start: data[:kept]. What begins at data[used] was not used: it
// belongs to what comes next, or makes sense only with more behind it. Trailers and errors are those of [Body.Next].
func Compact(b *Body, data []byte, trailers *message.Fields) (kept, used int, err error) {
	for used < len(data) {
		n, keep, err := b.Next(data[used:], trailers)
		if err != nil {
			return kept, used, err
		}
		if n == 0 {
			break
		}
		if keep {
			if kept != used {
				copy(data[kept:], data[used:used+n])
			}
			kept += n
		}
		used += n
	}
	return kept, used, nil
}

// AppendChunkSize appends the line in front of a chunk of n bytes.
func AppendChunkSize(dst []byte, n int) []byte {
	return append(strconv.AppendInt(dst, int64(n), 16), "\r\n"...)
}
