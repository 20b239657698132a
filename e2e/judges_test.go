package e2e

import "testing"

// TestJudgeChurn: 24 listeners and 1,000 clusters that change 50 times a second under load, by xDS of another's making.
func TestJudgeChurn(t *testing.T) { judgeChurn(t, meshProxy) }

// TestJudgeWebSocket: an echo server answers through the proxy byte for byte as without it.
func TestJudgeWebSocket(t *testing.T) { judgeWebSocket(t, meshProxy, wsByHTTP1()) }

// TestJudgeSlowHTTPTest: slowhttptest's attacks find the service available.
func TestJudgeSlowHTTPTest(t *testing.T) { judgeSlowHTTP(t, meshProxy) }

// Clients that are slow, and such that make work, hold nobody back; they are ended, counted and cost little memory.
func TestCVEClass16_SlowAndHostileClientsHoldNobodyBack(t *testing.T) {
	judgeHostile(t, meshProxy, onlyHTTP1, http1Hostilities())
}
