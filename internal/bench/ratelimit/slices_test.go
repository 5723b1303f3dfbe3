package ratelimit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// contender is one row of a table. run performs n operations.
type contender struct {
	name  string
	run   func(n int)
	timed func(n int) time.Duration // does so too, and says itself how long it took
	times []float64                 // nanoseconds an operation, one for each slice
}

func (c *contender) best() float64 { return slices.Min(c.times) }

func (c *contender) median() float64 {
	s := slices.Clone(c.times)
	slices.Sort(s)
	return s[len(s)/2]
}

func (c *contender) slice(n int) time.Duration {
	if c.timed != nil {
		return c.timed(n)
	}
	start := time.Now()
	c.run(n)
	return time.Since(start)
}

// takeTurns runs each contender for rounds slices of n operations.
func takeTurns(rounds, n int, contenders []*contender) {
	for _, c := range contenders {
		c.slice(n) // warm up
		c.times = nil
	}
	for range rounds {
		for _, c := range contenders {
			c.times = append(c.times, float64(c.slice(n).Nanoseconds())/float64(n))
		}
	}
}

// table prints the contenders, and each one's time as a multiple of the
// first's: of ours.
func table(b *testing.B, title, unit string, scale float64, contenders []*contender) {
	b.Helper()
	var s strings.Builder
	fmt.Fprintf(&s, "\n%s\n%-44s %10s %10s %8s %8s\n", title, "", "best "+unit, "median", "ratio", "(median)")
	ours := contenders[0]
	for _, c := range contenders {
		fmt.Fprintf(&s, "%-44s %10.2f %10.2f %8.2f %8.2f\n", c.name, c.best()/scale, c.median()/scale, c.best()/ours.best(), c.median()/ours.median())
	}
	fmt.Print(s.String())
}
