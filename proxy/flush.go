package proxy

import (
	"math"
	"time"
)

// flushTime is how long a client may take nothing of the last response before its connection is reset, and flushLooks how often is looked
// in that time whether it did. Of a unix socket the kernel tells no more than which pieces were read whole, and they have up to 36 KB:
// a client there has its time unixTimes, or one that reads a kilobyte a second would be taken for one that reads nothing.
const (
	flushTime  = 30 * time.Second
	flushLooks = 15
	unixTimes  = 10
)

// flush watches a client take the last of what it is sent.
type flush struct {
	left        int
	looks, most int32
}

func (d *downstream) newFlush() flush {
	f := flush{left: math.MaxInt, most: flushLooks}
	if d.a.addr.IsUnix() {
		f.most *= unixTimes
	}
	return f
}

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
	return f.looks >= f.most
}
