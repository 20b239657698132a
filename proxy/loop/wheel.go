package loop

import (
	"math"
	"math/bits"
	"time"
)

const (
	wheelTick  = int64(10 * time.Millisecond)
	wheelSlots = 512
	// longestWait keeps deadlines far from the end of the clock, whatever duration a client or a configuration names.
	longestWait = 1 << 60
)

// wheel holds the timers whose durations are not known beforehand: a list for each of them, as Start keeps, would stay for
// ever. A timer stands in the slot of its tick, modulo the number of slots, whatever its round. A slot knows the earliest
// deadline that was put into it, so that timers of later rounds wake nobody.
type wheel struct {
	used  [wheelSlots / 64]uint64 // the slots that may hold a timer
	slots [wheelSlots]wheelSlot
	due   timerList // run out and not yet told
}

type wheelSlot struct {
	timerList
	earliest int64 // never later than the earliest deadline in the slot
}

func newWheel() *wheel {
	w := &wheel{}
	for i := range w.slots {
		w.slots[i].init()
	}
	w.due.init()
	return w
}

// StartAt has owner told when d has passed, at the next tick of 10 ms. It is for durations that are drawn or that a client
// chooses: any number of different ones costs nothing beyond the timers themselves. All else is as with Start.
func (l *Loop) StartAt(t *Timer, d time.Duration, owner Expirer) {
	t.Stop()
	if d <= 0 {
		return
	}
	ts := &l.timers
	if ts.wheel == nil {
		ts.wheel = newWheel()
	}
	tick := (l.now + min(int64(d), longestWait) + wheelTick - 1) / wheelTick
	at := tick % wheelSlots
	slot, mask := &ts.wheel.slots[at], uint64(1)<<(at%64)
	t.owner, t.deadline = owner, tick*wheelTick
	if used := &ts.wheel.used[at/64]; *used&mask == 0 || t.deadline < slot.earliest {
		*used |= mask
		slot.earliest = t.deadline
	}
	slot.append(t)
	if t.deadline < ts.armed {
		ts.arm(t.deadline)
	}
}

// run tells the owners of timers that ran out and returns when the next one may.
func (w *wheel) run(now int64) (next int64) {
	w.collect(now)
	for w.due.head.next != &w.due.head {
		t := w.due.head.next
		t.Stop()
		t.owner.Expired(t) // it may start and stop any timer, also those that are due
	}
	next = math.MaxInt64
	for word, used := range w.used {
		for ; used != 0; used &= used - 1 {
			next = min(next, w.slots[word*64+bits.TrailingZeros64(used)].earliest)
		}
	}
	return next
}

// collect moves the timers that ran out to the due ones.
func (w *wheel) collect(now int64) {
	for word, used := range w.used {
		for ; used != 0; used &= used - 1 {
			i := bits.TrailingZeros64(used)
			slot := &w.slots[word*64+i]
			if slot.earliest > now {
				continue
			}
			slot.earliest = math.MaxInt64
			for t := slot.head.next; t != &slot.head; {
				after := t.next
				if t.deadline <= now {
					t.Stop()
					w.due.append(t)
				} else {
					slot.earliest = min(slot.earliest, t.deadline)
				}
				t = after
			}
			if slot.earliest == math.MaxInt64 {
				w.used[word] &^= 1 << i
			}
		}
	}
}
