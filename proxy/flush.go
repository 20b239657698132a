package proxy

import (
	"math"
	"time"
)

// flushTime is how long a client may take nothing of the last response before its connection is reset, and flushLooks how often is looked
// in that time whether it did.
const (
	flushTime  = 30 * time.Second
	flushLooks = 15
)

// flush watches a client take the last of what it is sent.
type flush struct{ left, looks int }

func newFlush() flush { return flush{left: math.MaxInt} }

// begun reports whether something was left at a look.
func (f *flush) begun() bool { return f.left < math.MaxInt }

// stalls is called at every look with what the client has not got yet, in bytes, and reports whether it has taken nothing for the
// whole time.
func (f *flush) stalls(left int) bool {
	f.looks++
	if left < f.left {
		f.looks = 0
	}
	f.left = left
	return f.looks >= flushLooks
}
