//go:build !amd64

package ratelimitmem

// Elsewhere the monotonic clock is read each time.
func ticks() uint64     { return 0 }
func steadyTicks() bool { return false }
