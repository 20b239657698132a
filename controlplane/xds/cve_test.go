package xds_test

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// dialHTTP2 opens a connection to the server and reads its settings.
func dialHTTP2(t *testing.T, target string) (net.Conn, *http2.Framer, map[http2.SettingID]uint32) {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(target, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	framer := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	settings := map[http2.SettingID]uint32{}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			_ = s.ForeachSetting(func(s http2.Setting) error { settings[s.ID] = s.Val; return nil })
			return conn, framer, settings
		}
	}
}

// A client cannot have any number of streams, nor any length of head: not by opening and resetting streams, nor by a head
// that goes on for ever (CVE-2023-39325, CVE-2023-45288, CVE-2022-41723).
func TestCVEClass15_FloodsOfHTTP2AreBounded(t *testing.T) {
	m := newMesh(t)
	m.set("web", "10.0.0.1:80")
	m.publish()
	_, _, settings := dialHTTP2(t, m.target)
	if n, ok := settings[http2.SettingMaxConcurrentStreams]; !ok || n > 1000 {
		t.Errorf("%d streams at a time, said: %v", n, ok)
	}
	if n, ok := settings[http2.SettingMaxHeaderListSize]; !ok || n > 64<<10 {
		t.Errorf("heads of %d bytes, said: %v", n, ok)
	}

	conn, framer, _ := dialHTTP2(t, m.target)
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	var fields strings.Builder
	block := hpack.NewEncoder(&fields)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "http"},
		{":authority", "x"},
		{":path", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		_ = block.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	head := []byte(fields.String())
	for i := range uint32(5000) { // rapid reset
		id := 2*i + 1
		if framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndHeaders: true}) != nil || framer.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break // it is also right to end such a connection
		}
	}

	conn, framer, _ = dialHTTP2(t, m.target)
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(io.Discard, conn) }()
	err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head})
	fields.Reset()
	_ = block.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("x", 8<<10), Sensitive: true})
	sent := 0
	for more := []byte(fields.String()); err == nil && sent < 64<<20; sent += len(more) {
		err = framer.WriteContinuation(1, false, more)
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a head of %d bytes was taken: %v", sent, err)
	}
	<-ended

	// Who asks as one should is served meanwhile.
	c := m.delta(proxy())
	c.subscribe(cds, cluster("web"))
	c.want(cds, cluster("web"))
}
