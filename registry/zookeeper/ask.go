package zookeeper

import (
	"encoding/binary"
	"errors"
)

// errTooLarge means that an answer is larger than maxFrame, and was left.
var errTooLarge = errors.New("the answer is too large")

// reply is the answer to a request of our own.
type reply struct {
	body []byte
	err  error
}

// ask sends a request of our own and waits for the answer, whose body is the caller's. It may be called by several
// goroutines; their requests are under way together.
func (w *wire) ask(op int32, request []byte) ([]byte, error) {
	replies := make(chan reply, 1)
	p := make([]byte, 12, 12+len(request))
	binary.BigEndian.PutUint32(p, uint32(8+len(request)))
	binary.BigEndian.PutUint32(p[8:], uint32(op))
	p = append(p, request...)

	w.sending.Lock()
	w.asks++
	xid := xidOurs | w.asks&(xidOurs-1)
	binary.BigEndian.PutUint32(p[4:], xid)
	w.send(asked{xid: xid, op: op, reply: replies}, p)
	w.sending.Unlock()

	select {
	case r := <-replies:
		return r.body, r.err
	case <-w.failed:
	}
	select {
	case r := <-replies: // it came before the failure, and may be why
		return r.body, r.err
	default:
		return nil, w.cause()
	}
}

// isOurs tells whether the answer that follows is to a request of ours.
func (w *wire) isOurs() bool {
	xid, err := w.in.Peek(4)
	return err == nil && int32(binary.BigEndian.Uint32(xid)) >= xidOurs
}

// leave skips an answer to a request of ours.
func (w *wire) leave(size int) error {
	xid, err := w.in.Peek(4)
	if err != nil {
		return err
	}
	a, err := w.answered(binary.BigEndian.Uint32(xid))
	if err != nil {
		return err
	}
	if _, err := w.in.Discard(size); err != nil {
		return err
	}
	a.reply <- reply{err: errTooLarge}
	return nil
}
