package e2e

import (
	"testing"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

// TestJudgeH2spec: h2spec, strict, finds nothing in plaintext and nothing over TLS.
func TestJudgeH2spec(t *testing.T) {
	certs := testbed.NewCerts(t)
	for _, c := range []struct {
		name, hcm string
		tls       *testbed.Certs
	}{{"h2c", "codec_type: HTTP2", nil}, {"TLS", "", &certs}} { // in plaintext, what is no preface may be HTTP/1

		t.Run(c.name, func(t *testing.T) {
			h := startHop(t, meshProxy, hopSpec{to: []string{h2specBackend(t)}, tls: c.tls, hcm: c.hcm})
			judgeH2spec(t, h.addr, c.tls != nil, 0)
		})
	}
}

// TestJudgeInterop: gRPC's own 16 cases over one hop, one with TLS, and two with mTLS between them.
func TestJudgeInterop(t *testing.T) { judgeInterop(t, meshProxy) }

// TestJudgeGRPC: cancel, deadlines, trailers, metadata, large messages, back-pressure and many streams over the same ways.
func TestJudgeGRPC(t *testing.T) { judgeGRPC(t, meshProxy) }

// TestJudgeWebSocketByExtendedConnect: websockets in every pairing with HTTP/2 (RFC 8441), byte for byte.
func TestJudgeWebSocketByExtendedConnect(t *testing.T) {
	judgeWebSocket(t, meshProxy, wsByHTTP2()...)
}

// Floods of HTTP/2 hold nobody back; they are ended or answered, counted and cost little memory.
func TestCVEClass15_FloodsOfFramesHoldNobodyBack(t *testing.T) {
	judgeHostile(t, meshProxy, bothHTTP, http2Hostilities())
}

// Handshakes that stall, and floods within TLS, hold nobody back.
func TestCVEClass16_StalledTLSHoldsNobodyBack(t *testing.T) {
	judgeHostile(t, meshProxy, bothOverTLS, tlsHostilities())
}

// tlsHostilities are what a listener of TLS meets before HTTP.
func tlsHostilities() []hostility {
	const handshakes = `listener\..*\.(downstream_cx_transport_socket_connect_timeout|downstream_pre_cx_timeout)`
	return []hostility{
		{attack: "silence", connections: 200, lasts: slowly, ended: true, counted: handshakes},
		{attack: "half-hello", connections: 200, lasts: slowly, ended: true, counted: handshakes},
		{attack: "dripped-hello", connections: 200, lasts: slowly, ended: true, counted: handshakes},
		{attack: "rapid-reset", connections: 4, tls: true, ended: true, counted: countedResets},
		{attack: "continuation", connections: 4, tls: true, ended: true, counted: `http2\.header_overflow`},
		{attack: "hpack-bomb", connections: 4, tls: true, counted: `http2\.header_overflow`},
	}
}

// What is malformed in HTTP/2 becomes no request of HTTP/1, and no two.
func TestCVEClass14_DowngradesSmuggleNothing(t *testing.T) { judgeDowngrade(t, meshProxy) }

// TestJudgesOfEnvoyDowngrade: an Envoy is lenient in four cases.
func TestJudgesOfEnvoyDowngrade(t *testing.T) {
	judgeDowngrade(t, stockEnvoy, "space before a value", "space behind a value", "tab before a value", "host that differs")
}
