package message

import (
	"math"
	"strconv"
	"time"
)

// Statuses of gRPC (google.golang.org/grpc/codes) that are named here; GRPCInvalid is what is none.
const (
	GRPCInvalid          = -1
	GRPCUnknown          = 2
	GRPCDeadlineExceeded = 4
)

// IsGRPC reports whether a content type is that of gRPC as such, which gRPC-Web is not.
func IsGRPC(contentType []byte) bool {
	const name = "application/grpc"
	return len(contentType) >= len(name) && string(contentType[:len(name)]) == name && (len(contentType) == len(name) || contentType[len(name)] == '+')
}

// ParseGRPC reads a status of gRPC.
func ParseGRPC(value []byte) int {
	if n, ok := ParseLength(value); ok && n < 1<<31 {
		return int(n)
	}
	return GRPCInvalid
}

// GRPCOf is the status of gRPC for a call that got a response of HTTP instead of an answer.
func GRPCOf(status int) int {
	switch status {
	case 400:
		return 13 // internal
	case 401:
		return 16 // unauthenticated
	case 403:
		return 7 // permission denied
	case 404:
		return 12 // unimplemented
	case 429, 502, 503, 504:
		return 14 // unavailable
	}
	return GRPCUnknown
}

// OfGRPC is the status of HTTP that says of a host what a status of gRPC does.
func OfGRPC(status int) int {
	if status < 0 || status >= len(ofGRPC) {
		return 500
	}
	return int(ofGRPC[status])
}

var ofGRPC = [...]uint16{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}

// AppendGRPCText appends a text as the field grpc-message has it: gRPC's percent-encoding.
func AppendGRPCText(dst []byte, text string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '%' {
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

const maxGRPCTimeout = 99_999_999 // eight digits

// ParseGRPCTimeout reads a grpc-timeout: at most eight digits and a unit. A part of a millisecond is taken as a whole one.
func ParseGRPCTimeout(value []byte) (d time.Duration, ok bool) {
	if len(value) < 2 {
		return 0, false
	}
	digits := value[:len(value)-1]
	n, ok := ParseLength(digits)
	if !ok || n > maxGRPCTimeout || len(digits) > 8 {
		return 0, false
	}
	unit := time.Duration(0)
	switch value[len(value)-1] {
	case 'H':
		unit = time.Hour
		n = min(n, int64(math.MaxInt64/time.Hour)) // 292 years
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	d = time.Duration(n) * unit
	if rest := d % time.Millisecond; rest > 0 {
		d += time.Millisecond - rest
	}
	return d, true
}

// AppendGRPCTimeout writes a grpc-timeout in the finest unit, but for parts of a millisecond, that eight digits allow.
func AppendGRPCTimeout(dst []byte, d time.Duration) []byte {
	unit, n := byte('m'), int64(d/time.Millisecond)
	for _, next := range [...]struct {
		unit byte
		of   int64
	}{{'S', 1000}, {'M', 60}, {'H', 60}} {
		if n <= maxGRPCTimeout {
			break
		}
		unit, n = next.unit, n/next.of
	}
	return append(strconv.AppendInt(dst, min(n, maxGRPCTimeout), 10), unit)
}
