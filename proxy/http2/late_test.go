package http2

import (
	"slices"
	"testing"

	oracle "golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/message"
)

// answerEarly answers a request whose content has not ended, and has done with it.
func (r *recorder) answerEarly(s *Stream) {
	h := new(message.Head)
	h.Reset()
	h.Status = 403
	r.conn.AppendHeaders(nil, s, h, nil, true)
	r.conn.Release(s)
}

// opens begins so many requests of a client.
func (r *recorder) opens(n int) (all []*Stream) {
	for range n {
		s := r.conn.Open()
		r.conn.AppendHeaders(nil, s, requestHead(), nil, false)
		all = append(all, s)
	}
	return all
}

// dialed returns a client with so many streams at most, and what its server writes.
func dialed(streams int) (*recorder, *peer) {
	r, p := new(recorder), newPeer()
	r.conn.InitClient(Limits{Streams: streams}, new(Arena))
	p.out.Reset()
	_ = p.WriteSettings()
	return r, p
}

// fed feeds what p wrote and reports how it went.
func (r *recorder) fed(p *peer) error {
	_, err := r.conn.Feed(p.out.Bytes(), r)
	p.out.Reset()
	r.conn.AppendControl(nil)
	return err
}

// TestWhatIsUnderWayIsNoFlood: small messages fill the window of a stream with thousands of frames. When it is reset they are under
// way, which costs the other streams of the connection nothing, and what comes beyond them ends it.
func TestWhatIsUnderWayIsNoFlood(t *testing.T) {
	const window, size, noise = 64 << 10, 16, 1000
	messages := func(p *peer, stream uint32, n int) {
		for range n {
			_ = p.WriteData(stream, false, make([]byte, size))
		}
	}
	for _, c := range []struct {
		name  string
		write func(r *recorder, p *peer)
		left  int // frames that may come besides content
	}{
		{"an early answer", func(r *recorder, p *peer) {
			p.request(3, false)
			_ = r.fed(p)
			r.answerEarly(r.streams[1])
			messages(p, 3, window/size)
			p.headers(3, true, "x-late", "1")
			_ = p.WriteRSTStream(3, oracle.ErrCodeCancel)
		}, 1},
		{"an early answer, when half of the content was there", func(r *recorder, p *peer) {
			r.keep = true
			p.request(3, false)
			messages(p, 3, window/size/2)
			_ = r.fed(p)
			r.answerEarly(r.streams[1])
			messages(p, 3, window/size/2)
			_ = p.WriteData(3, true, nil)
		}, 2},
		{"a request that is malformed", func(_ *recorder, p *peer) {
			p.headers(3, false, "x", "y")
			messages(p, 3, window/size)
		}, 3},
		{"content that is longer than was told", func(_ *recorder, p *peer) {
			p.request(3, false, "content-length", "1")
			messages(p, 3, window/size) // the first was within the window
		}, 3},
		{"a request after the end", func(r *recorder, p *peer) {
			r.conn.Shutdown(true)
			p.request(3, false)
			messages(p, 3, window/size)
			_ = r.fed(p)
			r.conn.noise-- // the head itself counts
		}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, p := serverOf(Limits{Window: window, Noise: noise}), newPeer()
			r.conn.Tick(10)
			_ = p.WriteSettingsAck()
			p.request(1, false)
			if err := r.fed(p); err != nil {
				t.Fatal(err)
			}
			r.conn.noise = 0
			c.write(r, p)
			_ = p.WriteData(1, false, []byte("alive"))
			if err := r.fed(p); err != nil || !slices.Contains(r.lines, "1 data alive") {
				t.Fatalf("%v, %q", err, r.lines)
			}
			if got := r.conn.underWay; got != (underWay{0, int32(c.left)}) {
				t.Errorf("%+v may come still, want %d frames and no content", got, c.left)
			}
			taken := 0
			for ; r.fed(p) == nil && taken < 2*noise; taken++ {
				messages(p, 3, 1)
			}
			if want := c.left + noise + 1; taken != want {
				t.Errorf("the connection ended by frame %d too many, want %d", taken, want)
			}
		})
	}
}

// TestCancelledRequestsAreNoFlood: what a host was about to say on many requests that time out at once ends nothing.
func TestCancelledRequestsAreNoFlood(t *testing.T) {
	const many, noise = 1000, 1000
	r, p := dialed(many + 1)
	all := r.opens(many + 1)
	for _, s := range all[1:] {
		r.conn.Release(s)
	}
	for i := range uint32(many) {
		p.headers(2*i+3, false, ":status", "200")
		_ = p.WriteData(2*i+3, false, []byte("abc"))
		p.headers(2*i+3, true, "x-late", "1")
		_ = p.WriteRSTStream(2*i+3, oracle.ErrCodeNo)
	}
	p.headers(1, true, ":status", "200")
	if err := r.fed(p); err != nil || !slices.Contains(r.lines, "1 headers true 200") {
		t.Fatalf("%v, %q", err, r.lines)
	}
	r.conn.noise = 0
	taken := 0
	for ; r.fed(p) == nil && taken < 2*noise; taken++ {
		_ = p.WriteRSTStream(3, oracle.ErrCodeNo)
	}
	if want := noise + 1; taken != want {
		t.Errorf("the connection ended by reset %d too many, want %d", taken, want)
	}
}

// TestHostsThatRefuseEndNothing: a host resets what it was asked for, once each, however many those are; its long streams go on.
func TestHostsThatRefuseEndNothing(t *testing.T) {
	r, p := dialed(100)
	r.release = true
	r.opens(1)
	for i := range uint32(5000) {
		r.opens(1)
		_ = p.WriteRSTStream(2*i+3, oracle.ErrCodeRefusedStream)
		if err := r.fed(p); err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
	}
	p.headers(1, true, ":status", "200")
	if err := r.fed(p); err != nil || !slices.Contains(r.lines, "1 headers true 200") {
		t.Errorf("%v, the long stream was not answered", err)
	}
}

// TestCVEClass15_AllowancesAreBounded: what did not come on many streams that were reset is no licence to flood.
func TestCVEClass15_AllowancesAreBounded(t *testing.T) {
	r, p := dialed(100)
	_ = p.WriteSettings()
	if err := r.fed(p); err != nil {
		t.Fatal(err)
	}
	for range 5000 {
		r.conn.Release(r.opens(1)[0])
		r.conn.AppendControl(nil)
	}
	if got, want := r.conn.underWay, (underWay{1 << 20, 100 * lateFrames}); got != want {
		t.Errorf("%+v may come, want %+v", got, want)
	}
}

// TestNoContentIsExpectedOfWhoHasEnded: who has said all has nothing under way but the end of his patience.
func TestNoContentIsExpectedOfWhoHasEnded(t *testing.T) {
	r, p := serverOf(Limits{}), newPeer()
	p.request(1, true)
	if err := r.fed(p); err != nil {
		t.Fatal(err)
	}
	r.conn.Release(r.streams[0])
	if got, want := r.conn.underWay, (underWay{0, lateFrames}); got != want {
		t.Errorf("%+v may come, want %+v", got, want)
	}
}
