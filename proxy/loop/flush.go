package loop

// Flusher does what is best done once for many events.
type Flusher interface {
	Flush()
}

// flushMore bounds how many are flushed beyond those that were added when the flushing began.
const flushMore = 4096

// AtEnd has f called once, when all events, timers, tasks and turns of this batch were handled, before the loop waits for
// others. Who is added twice is called twice. Flushers may add others, or themselves again: they are called in the
// same batch, but for a flood of them, whose rest comes with the next one.
func (l *Loop) AtEnd(f Flusher) { l.flushers = append(l.flushers, f) }

func (l *Loop) flush() {
	if len(l.flushers) == 0 {
		return
	}
	bound := len(l.flushers) + flushMore
	i := 0
	for ; i < len(l.flushers) && i < bound; i++ {
		f := l.flushers[i]
		l.flushers[i] = nil
		f.Flush()
	}
	rest := copy(l.flushers, l.flushers[i:])
	clear(l.flushers[rest:])
	l.flushers = l.flushers[:rest]
}
