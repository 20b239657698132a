//go:build race

package loop_test

// lost is how many allocations of a round trip the race detector adds: with it sync.Pool, where crypto/tls has its buffers
// for writing, loses some on purpose.
const lost = 6
