package ratelimitmem

// ticks reads the processor's time-stamp counter, in a third of the time of a
// monotonic clock.
func ticks() uint64

func cpuid(leaf uint32) (eax, edx uint32)

// steadyTicks reports whether the counter runs at the same rate whatever the
// processor's frequency and sleep ("invariant TSC").
func steadyTicks() bool {
	const leaf, invariant = 0x80000007, 1 << 8
	if most, _ := cpuid(0x80000000); most < leaf {
		return false
	}
	_, edx := cpuid(leaf)
	return edx&invariant != 0
}
