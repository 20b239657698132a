//go:build race

package registrytest

// LargeServices is how many services the case Large has where the Harness does not say: it is smaller under the race detector, which takes ten times the time and memory.
const LargeServices = 1_000
