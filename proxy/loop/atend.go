package loop

// Flusher is told when the events of a turn are handled.
type Flusher interface {
	Flush()
}

// AtEnd has f flushed once at the end of this turn of the loop, after all events, timers and tasks of it: what many of them
// wrote to one connection is then sent at once. The caller must not ask twice before it was flushed.
func (l *Loop) AtEnd(f Flusher) { l.flush = append(l.flush, f) }

// flushAll flushes those that asked for it. One may ask again, or others, while it runs.
func (l *Loop) flushAll() {
	for i := 0; i < len(l.flush); i++ {
		f := l.flush[i]
		l.flush[i] = nil
		f.Flush()
	}
	l.flush = l.flush[:0]
}
