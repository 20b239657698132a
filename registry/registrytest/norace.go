//go:build !race

package registrytest

// LargeServices is how many services the case Large has where the Harness does not say.
const LargeServices = 10_000
