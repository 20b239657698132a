//go:build race

package registrytest

// largeServices is smaller under the race detector, which takes ten times the time and memory.
const largeServices = 1_000
