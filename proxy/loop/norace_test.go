//go:build !race

package loop_test

const lost = 0
