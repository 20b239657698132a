package mux_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2"

	"github.com/hostmesh/hostmesh/proxy/http2"
)

const (
	idle   = 99           // a stream that nobody has begun
	widest = 1<<31 - 1    // the largest window
	huge   = 16<<10 + 1   // longer than a frame may be
	server = "a server"   // only that is spoken to so
	client = "a client"   // or only that
	both   = ""           //
	last   = uint32(1001) // a server's stream by which is seen that the connection goes on
)

// misuse is something that a peer does.
type misuse struct {
	clause string // of RFC 9113, where it does not say otherwise
	name   string
	to     string
	write  func(p *peer)
	want   string   // the answer, but for what answers every ping
	told   []string // nil: not looked at
}

var goAwayOf = [8]byte{0, 0, 0, 5}

// misuses is what h2spec does not do to a client, and what it leaves out for a server.
var misuses = []misuse{
	{"4.1", "flags without a meaning", both, func(p *peer) { p.raw(oracle.FramePing, 0xfe, 0, 'o', 'd', 'd', 0, 0, 0, 0, 0) }, "pong odd", nil},
	{"4.1", "the reserved bit of a stream's number", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameData, 0, 1<<31|1, 'a') }, "", []string{"1 begun", `1 "a"`}},
	{"4.2", "the longest frame", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameData, 0, 1, make([]byte, huge-1)...) }, "", nil},
	{"4.2", "a longer frame", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameData, 0, 1, make([]byte, huge)...) }, "goaway FRAME_SIZE_ERROR", nil},
	{"4.2", "a longer frame of no known type", both, func(p *peer) { p.raw(77, 0, 0, make([]byte, huge)...) }, "goaway FRAME_SIZE_ERROR", nil},
	{"4.3", "a field that is in no table", both, func(p *peer) { p.raw(oracle.FrameHeaders, oracle.FlagHeadersEndHeaders, 1, 0xff, 0x7f) }, "goaway COMPRESSION_ERROR", nil},
	{"4.3", "a section that ends within a field", both, func(p *peer) { p.raw(oracle.FrameHeaders, oracle.FlagHeadersEndHeaders, 1, 0x40, 5, 'a') }, "goaway COMPRESSION_ERROR", nil},
	{"4.3", "a table that is larger than allowed", both, func(p *peer) { p.raw(oracle.FrameHeaders, oracle.FlagHeadersEndHeaders, 1, 0x3f, 0xe2, 0x1f) }, "goaway COMPRESSION_ERROR", nil},

	{"5.1", "content of an idle stream", both, func(p *peer) { _ = p.WriteData(idle, true, []byte("a")) }, "goaway PROTOCOL_ERROR", nil},
	{"5.1", "the reset of an idle stream", both, func(p *peer) { _ = p.WriteRSTStream(idle, oracle.ErrCodeCancel) }, "goaway PROTOCOL_ERROR", nil},
	{"5.1", "a window of an idle stream", both, func(p *peer) { _ = p.WriteWindowUpdate(idle, 1) }, "goaway PROTOCOL_ERROR", nil},
	{"5.1", "content behind the end", both, func(p *peer) { p.message(1, true); _ = p.WriteData(1, true, []byte("a")) }, "1 reset STREAM_CLOSED", nil},
	{"5.1", "a head behind the end", both, func(p *peer) { p.message(1, true); p.message(1, true) }, "1 reset STREAM_CLOSED", nil},
	{"5.1", "content behind a reset", both, func(p *peer) {
		p.message(1, false)
		_ = p.WriteRSTStream(1, oracle.ErrCodeCancel)
		_ = p.WriteData(1, true, []byte("a"))
	}, "1 reset STREAM_CLOSED", []string{"1 begun", "1 cut off by peer: CANCEL", "rejected"}},
	{"5.1", "a head behind a reset", both, func(p *peer) {
		p.message(1, false)
		_ = p.WriteRSTStream(1, oracle.ErrCodeCancel)
		p.message(1, true)
	}, "goaway STREAM_CLOSED", nil},
	{"5.1", "a window and a reset behind a reset", both, func(p *peer) {
		p.message(1, false)
		_ = p.WriteRSTStream(1, oracle.ErrCodeCancel)
		_ = p.WriteWindowUpdate(1, 1)
		_ = p.WriteRSTStream(1, oracle.ErrCodeCancel)
	}, "", []string{"1 begun", "1 cut off by peer: CANCEL"}},
	{"5.1.1", "a stream of a server's own", client, func(p *peer) { p.message(2, true) }, "goaway PROTOCOL_ERROR", nil},
	{"5.1.1", "a response to no request", client, func(p *peer) { p.message(idle, true) }, "goaway PROTOCOL_ERROR", nil},
	{"5.1.1", "a stream with an even number", server, func(p *peer) { p.message(2, true) }, "goaway PROTOCOL_ERROR", nil},

	{"5.3.2", "priorities of streams of every state", both, func(p *peer) {
		_ = p.WritePriority(idle, oracle.PriorityParam{StreamDep: 1, Weight: 255, Exclusive: true})
		p.message(1, false)
		_ = p.WritePriority(1, oracle.PriorityParam{StreamDep: idle})
		_ = p.WriteData(1, true, nil)
		_ = p.WritePriority(1, oracle.PriorityParam{})
	}, "", []string{"1 begun", `1 "" end`}},
	{"5.3.2", "a priority in a head", both, func(p *peer) {
		_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(p.start()...), EndHeaders: true, Priority: oracle.PriorityParam{StreamDep: 3, Weight: 7}})
	}, "", []string{"1 begun"}},
	{"6.3", "a priority of no stream", both, func(p *peer) { p.raw(oracle.FramePriority, 0, 0, 0, 0, 0, 3, 1) }, "goaway PROTOCOL_ERROR", nil},
	{"6.3", "a priority of the wrong length", both, func(p *peer) { p.message(1, false); p.raw(oracle.FramePriority, 0, 1, 0, 0, 0, 3) }, "1 reset FRAME_SIZE_ERROR", nil},
	{"5.5", "frames of no known type", both, func(p *peer) {
		p.raw(77, 0xff, 0, 1, 2)
		p.raw(78, 0, idle)
		p.message(1, false)
		p.raw(79, 0xff, 1, 1)
		_ = p.WriteData(1, true, []byte("a"))
	}, "", []string{"1 begun", `1 "a" end`}},
	{"5.5", "such a frame within a section", both, func(p *peer) { p.raw(oracle.FrameHeaders, 0, 1, 0x88); p.raw(77, 0, 1) }, "goaway PROTOCOL_ERROR", nil},

	{"6.1", "content of no stream", both, func(p *peer) { p.raw(oracle.FrameData, 0, 0, 'a') }, "goaway PROTOCOL_ERROR", nil},
	{"6.1", "all of a frame is padding", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameData, oracle.FlagDataPadded, 1, 2, 0, 0) }, "", []string{"1 begun"}},
	{"6.1", "more than a frame is padding", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameData, oracle.FlagDataPadded, 1, 3, 0, 0) }, "goaway PROTOCOL_ERROR", nil},
	{"6.1", "padding of a length that is not told", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameData, oracle.FlagDataPadded, 1) }, "goaway FRAME_SIZE_ERROR", nil},
	{"6.2", "a head of no stream", both, func(p *peer) { p.raw(oracle.FrameHeaders, oracle.FlagHeadersEndHeaders, 0, 0x88) }, "goaway PROTOCOL_ERROR", nil},
	{"6.2", "more than a head is padding", both, func(p *peer) {
		p.raw(oracle.FrameHeaders, oracle.FlagHeadersEndHeaders|oracle.FlagHeadersPadded, 1, 2, 0x88)
	}, "goaway PROTOCOL_ERROR", nil},
	{"6.2", "a head with half a priority", both, func(p *peer) {
		p.raw(oracle.FrameHeaders, oracle.FlagHeadersEndHeaders|oracle.FlagHeadersPriority, 1, 0, 0, 0)
	}, "goaway FRAME_SIZE_ERROR", nil},
	{"6.4", "the reset of no stream", both, func(p *peer) { p.raw(oracle.FrameRSTStream, 0, 0, 0, 0, 0, 8) }, "goaway PROTOCOL_ERROR", nil},
	{"6.4", "a reset of the wrong length", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameRSTStream, 0, 1, 0, 0, 8) }, "goaway FRAME_SIZE_ERROR", nil},
	{"7", "a reset with an unknown code", both, func(p *peer) { p.message(1, false); _ = p.WriteRSTStream(1, 0xbad) }, "", []string{"1 begun", "1 cut off by peer: unknown error code 0xbad"}},

	{"6.5", "settings of a stream", both, func(p *peer) { p.raw(oracle.FrameSettings, 0, 1) }, "goaway PROTOCOL_ERROR", nil},
	{"6.5", "settings of the wrong length", both, func(p *peer) { p.raw(oracle.FrameSettings, 0, 0, 0, 4, 0, 0, 0) }, "goaway FRAME_SIZE_ERROR", nil},
	{"6.5", "an acknowledgement with settings", both, func(p *peer) { p.raw(oracle.FrameSettings, oracle.FlagSettingsAck, 0, 0, 4, 0, 0, 0, 0) }, "goaway FRAME_SIZE_ERROR", nil},
	{"6.5.2", "settings without a meaning", both, func(p *peer) { _ = p.WriteSettings(oracle.Setting{ID: 0x99, Val: 1}, oracle.Setting{ID: 0, Val: 1}) }, "", nil},
	{"6.5.2", "push: 2", both, setting(oracle.SettingEnablePush, 2), "goaway PROTOCOL_ERROR", nil},
	{"6.5.2", "push: 1, by a server", client, setting(oracle.SettingEnablePush, 1), "goaway PROTOCOL_ERROR", nil},
	{"6.5.2", "push: 0, by a server", client, setting(oracle.SettingEnablePush, 0), "", nil},
	{"6.5.2", "a window that is too large", both, setting(oracle.SettingInitialWindowSize, 1<<31), "goaway FLOW_CONTROL_ERROR", nil},
	{"6.5.2", "frames that are too small", both, setting(oracle.SettingMaxFrameSize, 1<<14-1), "goaway PROTOCOL_ERROR", nil},
	{"6.5.2", "frames that are too large", both, setting(oracle.SettingMaxFrameSize, 1<<24), "goaway PROTOCOL_ERROR", nil},
	{"3 of RFC 8441", "tunnels: 2", both, setting(oracle.SettingEnableConnectProtocol, 2), "goaway PROTOCOL_ERROR", nil},
	{"3 of RFC 8441", "tunnels, and none after all", both, func(p *peer) {
		_ = p.WriteSettings(oracle.Setting{ID: oracle.SettingEnableConnectProtocol, Val: 1})
		_ = p.WriteSettings(oracle.Setting{ID: oracle.SettingEnableConnectProtocol, Val: 0})
	}, "goaway PROTOCOL_ERROR", nil},
	{"6.6", "a promise", both, func(p *peer) {
		p.message(1, false)
		_ = p.WritePushPromise(oracle.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: p.encode(p.start()...), EndHeaders: true})
	}, "goaway PROTOCOL_ERROR", nil},
	{"6.7", "a ping of the wrong length", both, func(p *peer) { p.raw(oracle.FramePing, 0, 0, 1, 2, 3, 4, 5, 6, 7) }, "goaway FRAME_SIZE_ERROR", nil},
	{"6.7", "a ping of a stream", both, func(p *peer) { p.raw(oracle.FramePing, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8) }, "goaway PROTOCOL_ERROR", nil},
	{"6.7", "the answer to no ping", both, func(p *peer) { _ = p.WritePing(true, [8]byte{}) }, "", []string{"ping answered"}},
	{"6.8", "the end of a stream's streams", both, func(p *peer) { p.raw(oracle.FrameGoAway, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0) }, "goaway PROTOCOL_ERROR", nil},
	{"6.8", "half an end", both, func(p *peer) { p.raw(oracle.FrameGoAway, 0, 0, goAwayOf[:7]...) }, "goaway FRAME_SIZE_ERROR", nil},
	{"6.8", "an end that moves away", both, func(p *peer) {
		_ = p.WriteGoAway(5, oracle.ErrCodeNo, nil)
		_ = p.WriteGoAway(7, oracle.ErrCodeNo, nil)
	}, "goaway PROTOCOL_ERROR", nil},

	{"6.9", "a window of the wrong length", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameWindowUpdate, 0, 1, 0, 0, 1) }, "goaway FRAME_SIZE_ERROR", nil},
	{"6.9", "a stream's window grows by nothing", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameWindowUpdate, 0, 1, 0, 0, 0, 0) }, "1 reset PROTOCOL_ERROR", nil},
	{"6.9", "the connection's window grows by nothing", both, func(p *peer) { p.raw(oracle.FrameWindowUpdate, 0, 0, 0, 0, 0, 0) }, "goaway PROTOCOL_ERROR", nil},
	{"6.9", "the reserved bit of a window", both, func(p *peer) { p.message(1, false); p.raw(oracle.FrameWindowUpdate, 0, 1, 0x80, 0, 0, 1) }, "", nil},
	{"6.9.1", "a stream's window overflows", both, func(p *peer) { p.message(1, false); _ = p.WriteWindowUpdate(1, widest) }, "1 reset FLOW_CONTROL_ERROR", nil},
	{"6.9.1", "the connection's window overflows", both, func(p *peer) { _ = p.WriteWindowUpdate(0, widest) }, "goaway FLOW_CONTROL_ERROR", nil},
	{"6.9.2", "a setting has a stream's window overflow", both, func(p *peer) {
		p.message(1, false)
		_ = p.WriteWindowUpdate(1, widest-65535)
		_ = p.WriteSettings(oracle.Setting{ID: oracle.SettingInitialWindowSize, Val: 65536})
	}, "goaway FLOW_CONTROL_ERROR", nil},
	{"6.10", "the rest of no section", both, func(p *peer) { _ = p.WriteContinuation(1, true, []byte{0x88}) }, "goaway PROTOCOL_ERROR", nil},
	{"6.10", "the rest of a section that has ended", both, func(p *peer) { p.message(1, false); _ = p.WriteContinuation(1, true, []byte{0x88}) }, "goaway PROTOCOL_ERROR", nil},
	{"6.10", "the rest of another stream's section", both, func(p *peer) {
		p.raw(oracle.FrameHeaders, 0, 1, 0x88)
		_ = p.WriteContinuation(3, true, []byte{0x88})
	}, "goaway PROTOCOL_ERROR", nil},
	{"6.10", "a ping within a section", both, func(p *peer) { p.raw(oracle.FrameHeaders, 0, 1, 0x88); _ = p.WritePing(false, [8]byte{}) }, "goaway PROTOCOL_ERROR", nil},
	{"6.10", "a section in many pieces", both, func(p *peer) {
		block := p.encode(p.start("x-a", "b")...)
		_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 1, EndStream: true})
		for i := range block {
			_ = p.WriteContinuation(1, i == len(block)-1, block[i:i+1])
		}
	}, "", []string{"1 begun end"}},

	{"8.1", "content before the head", client, func(p *peer) { _ = p.WriteData(1, false, []byte("a")) }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1", "trailers", both, func(p *peer) {
		p.message(1, false)
		_ = p.WriteData(1, false, []byte("a"))
		p.headers(1, true, "x-t", "1")
	}, "", []string{"1 begun", `1 "a"`, "1 trailers x-t=1"}},
	{"8.1", "trailers that end nothing", both, func(p *peer) { p.message(1, false); p.headers(1, false, "x-t", "1") }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1", "a second head", both, func(p *peer) { p.message(1, false); p.message(1, true) }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1", "informational responses", client, func(p *peer) {
		p.headers(1, false, ":status", "100")
		p.headers(1, false, ":status", "103", "link", "</a>")
		p.message(1, true)
	}, "", []string{"1 100", "1 103", "1 200 end"}},
	{"8.1", "an informational response that ends", client, func(p *peer) { p.headers(1, true, ":status", "103") }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1", "an informational response behind the final one", client, func(p *peer) { p.message(1, false); p.headers(1, false, ":status", "103") }, "1 reset PROTOCOL_ERROR", nil},
	{"8.6", "a protocol is switched", client, func(p *peer) { p.headers(1, false, ":status", "101") }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1.1", "less content than was told", both, func(p *peer) { p.message(1, false, "content-length", "2"); _ = p.WriteData(1, true, []byte("a")) }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1.1", "less content than was told, and trailers", both, func(p *peer) { p.message(1, false, "content-length", "2"); p.headers(1, true, "x-t", "1") }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1.1", "no content although some was told", both, func(p *peer) { p.message(1, true, "content-length", "2") }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1.1", "more content than was told", both, func(p *peer) { p.message(1, false, "content-length", "2"); _ = p.WriteData(1, false, []byte("abc")) }, "1 reset PROTOCOL_ERROR", nil},
	{"8.1.1", "as much content as was told", both, func(p *peer) {
		p.message(1, false, "content-length", "2")
		_ = p.WriteDataPadded(1, true, []byte("ab"), make([]byte, 9))
	}, "", []string{"1 begun", `1 "ab" end`}},
	{"8.2.1", "a name in capitals", both, func(p *peer) { p.message(1, true, "X-A", "b") }, "1 reset PROTOCOL_ERROR", nil},
	{"8.2.2", "a field of the connection", both, func(p *peer) { p.message(1, true, "connection", "x-a") }, "1 reset PROTOCOL_ERROR", nil},
	{"8.3", "a field of the start in trailers", both, func(p *peer) { p.message(1, false); p.headers(1, true, ":path", "/") }, "1 reset PROTOCOL_ERROR", nil},

	{"10.5.1", "more fields than are taken", both, func(p *peer) { p.message(1, true, slices.Repeat([]string{"x-a", "b"}, 200)...) }, "1 reset ENHANCE_YOUR_CALM", nil},
	{"10.5.1", "longer fields than are taken", both, func(p *peer) { p.message(1, true, "x-a", strings.Repeat("b", 9<<10)) }, "1 reset ENHANCE_YOUR_CALM", nil},
	{"10.5.1", "more trailers than are taken", both, func(p *peer) {
		p.message(1, false)
		p.headers(1, true, slices.Repeat([]string{"x-a", "b"}, 200)...)
	}, "1 reset ENHANCE_YOUR_CALM", nil},
	{"10.5.1", "a section that goes on and on", both, func(p *peer) {
		_ = p.WriteHeaders(oracle.HeadersFrameParam{StreamID: 1, BlockFragment: p.encode(p.start()...)})
		for range 3 {
			_ = p.WriteContinuation(1, false, bytes.Repeat([]byte{0x88}, 4<<10))
		}
	}, "goaway ENHANCE_YOUR_CALM", nil},
}

func setting(id oracle.SettingID, value uint32) func(p *peer) {
	return func(p *peer) { _ = p.WriteSettings(oracle.Setting{ID: id, Val: value}) }
}

// TestPeersThatMisuseAConnection: each thing that RFC 9113 forbids is answered as it says, the stream or the connection told of it,
// and nothing else; what it allows passes. Behind all that concerns a stream alone the connection goes on, its tables in step.
func TestPeersThatMisuseAConnection(t *testing.T) {
	l := run(t)
	limits := http2.Limits{HeaderBytes: 8 << 10}
	for _, m := range misuses {
		for _, to := range []string{server, client} {
			if m.to != both && m.to != to {
				continue
			}
			t.Run(m.clause+" "+m.name+" to "+to, func(t *testing.T) {
				begin, beyond := serve, last
				if to == client {
					begin, beyond = dial, 5
				}
				p := begin(t, l, limits)
				m.write(p)
				p.message(beyond, true)
				got := p.fence()
				if code, over := strings.CutPrefix(m.want, "goaway "); over {
					if len(got) != 2 || !strings.HasPrefix(got[0], "goaway ") || !strings.HasSuffix(got[0], " "+code) || got[1] != "end" {
						t.Errorf("got %q, want %q and the end", got, m.want)
					}
					var why http2.ErrCode
					if err := p.e.ended(); !errors.As(err, &why) || oracle.ErrCode(why).String() != code {
						t.Errorf("ended by %v, want %s", err, code)
					}
					judgeLoss(t, p)
					return
				}
				if want := strings.Fields(m.want); len(got) != min(1, len(want)) || len(want) > 0 && got[0] != m.want {
					t.Errorf("got %q, want %q", got, m.want)
				}
				judgeTold(t, p, m, beyond)
			})
		}
	}
}

// judgeLoss looks whether all streams of a client were told of the end of the connection, which is the last that is told.
func judgeLoss(t *testing.T, p *peer) {
	t.Helper()
	told := p.e.told()
	if len(told) == 0 || !strings.HasPrefix(told[len(told)-1], "over: ") {
		t.Errorf("told %q", told)
	}
	if p.server {
		return
	}
	for _, id := range []string{"1", "3", "5"} {
		if n := count(told, id+" cut off by "); n != 1 && count(told, id+" 200 end") == 0 {
			t.Errorf("stream %s was told %d times of its end: %q", id, n, told)
		}
	}
}

// judgeTold looks at what was told of a stream that was misused, and of the one behind it.
func judgeTold(t *testing.T, p *peer, m misuse, beyond uint32) {
	t.Helper()
	told := p.e.told()
	begun, after := "1 200", "5 200 end"
	if p.server {
		begun, after = "1 POST /", "1001 POST / end"
	}
	if len(told) == 0 || told[len(told)-1] != after {
		t.Fatalf("told %q, want %q in the end: stream %d is all right", told, after, beyond)
	}
	told = told[:len(told)-1]
	if code, reset := strings.CutPrefix(m.want, "1 reset "); reset && m.told == nil {
		if n := count(told, "1 cut off by us: "+code) + count(told, "rejected"); n != 1 {
			t.Errorf("told %q, want that the stream was cut off for %s", told, code)
		}
	}
	if m.told == nil {
		return
	}
	want := slices.Clone(m.told)
	for i, line := range want {
		want[i] = strings.Replace(line, "1 begun", begun, 1)
	}
	told = slices.DeleteFunc(told, func(line string) bool { return line == "idle" })
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// count counts the lines that begin so.
func count(lines []string, prefix string) (n int) {
	for _, line := range lines {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

// TestHowConnectionsBegin: the first that a peer sends is the preface, of a client, and settings; whatever pieces they come in.
func TestHowConnectionsBegin(t *testing.T) {
	l := run(t)
	for _, c := range []struct {
		name   string
		server bool
		begin  func(p *peer)
		want   string // "" if the connection goes on
	}{
		{"a client in good order", true, func(p *peer) { p.out.WriteString(oracle.ClientPreface); _ = p.WriteSettings() }, ""},
		{"a server in good order", false, func(p *peer) { _ = p.WriteSettings() }, ""},
		{"a ping before a client's settings", true, func(p *peer) { p.out.WriteString(oracle.ClientPreface); _ = p.WritePing(false, [8]byte{}) }, "PROTOCOL_ERROR"},
		{"a ping before a server's settings", false, func(p *peer) { _ = p.WritePing(false, [8]byte{}) }, "PROTOCOL_ERROR"},
		{"an acknowledgement before a server's settings", false, func(p *peer) { _ = p.WriteSettingsAck() }, "PROTOCOL_ERROR"},
		{"a server that sends a preface", false, func(p *peer) { p.out.WriteString(oracle.ClientPreface); _ = p.WriteSettings() }, "FRAME_SIZE_ERROR"},
		{"a server of HTTP/1", false, func(p *peer) { p.out.WriteString("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") }, "FRAME_SIZE_ERROR"},
		{"a client of HTTP/1", true, func(p *peer) { p.out.WriteString("GET / HTTP/1.1\r\nHost: web\r\n\r\n") }, "PROTOCOL_ERROR"},
	} {
		for _, cut := range []int{0, 1} { // whole; or a byte at a time, for which the loop has its turns
			t.Run(c.name, func(t *testing.T) {
				fd, conn := pair(t, 0)
				e := newEnd(t, l, fd)
				p := newPeer(t, e, conn, c.server)
				c.begin(p)
				if cut == 0 {
					p.send()
				}
				e.begin(c.server, http2.Limits{}, nil)
				for p.out.Len() > 0 {
					if _, err := conn.Write(p.out.Next(cut)); err != nil {
						break // it has seen enough
					}
					e.do(func() {})
				}
				if !c.server {
					p.skipPreface()
				}
				got := p.fence()
				if c.want == "" && len(got) != 0 || c.want != "" && (len(got) != 2 || got[0] != "goaway 0 "+c.want || got[1] != "end") {
					t.Errorf("got %q, want %q", got, c.want)
				}
			})
		}
	}
}
