package e2e

import (
	"slices"
	"testing"
)

// The judges themselves are judged by a stock Envoy: what it passes can be passed. (Of h2spec it fails twelve cases; HAProxy passes
// that one.)

func TestJudgesOfEnvoyInterop(t *testing.T) { judgeInterop(t, stockEnvoy) }

func TestJudgesOfEnvoyGRPC(t *testing.T) { judgeGRPC(t, stockEnvoy) }

func TestJudgesOfEnvoyWebSocket(t *testing.T) {
	judgeWebSocket(t, stockEnvoy, append(wsByHTTP2(), wsByHTTP1())...)
}

func TestJudgesOfEnvoyChurn(t *testing.T) { judgeChurn(t, stockEnvoy) }

// TestJudgesOfEnvoyHostile: an Envoy ends what the attackers of HTTP/2 do.
func TestJudgesOfEnvoyHostile(t *testing.T) {
	judgeHostile(t, stockEnvoy, bothHTTP, slices.DeleteFunc(http2Hostilities(), func(k hostility) bool {
		return !slices.Contains([]string{"rapid-reset", "continuation", "ping"}, k.attack)
	}))
}
