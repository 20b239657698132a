//go:build !race

package registrytest

const largeServices = 10_000
