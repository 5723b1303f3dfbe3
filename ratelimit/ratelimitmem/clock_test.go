package ratelimitmem

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The counter's instants lie between two of the clock that it stands for.
func TestCounterFollowsTheClock(t *testing.T) {
	c := newClock(nil, false)
	const tolerance = 1000 // microseconds; that of a wrong rate would be far more
	for end := time.Now().Add(60 * time.Millisecond); time.Now().Before(end); {
		before := c.precise()
		now := c.now()
		after := c.precise()
		require.GreaterOrEqual(t, now, before-tolerance)
		require.LessOrEqual(t, now, after+tolerance)
	}
	if c.ticker.read == nil {
		t.Skip("no steady counter here")
	}
	require.NotZero(t, c.fix.Load().span, "the counter was never tied to the clock")
}

// counter is a machine with a counter of its own.
type counter struct {
	t       ticker
	f       *fix
	nanos   int64
	ticks   uint64
	perTick float64 // ticks a nanosecond
}

func (m *counter) run(d time.Duration) {
	m.nanos += int64(d)
	m.ticks += uint64(float64(d) * m.perTick)
}

// sync makes a fix and checks what the one before would have said now, if it
// were still good.
func (m *counter) sync(t *testing.T, within int64) {
	t.Helper()
	now := m.nanos / 1000
	if passed := m.ticks - m.f.ticks; passed < m.f.span {
		require.InDelta(t, now, m.f.after(passed), float64(within))
	}
	m.f = m.t.next(reading{ticks: m.ticks, nanos: m.nanos}, m.f, now)
}

func TestCounterThatMisbehaves(t *testing.T) {
	begin := func() *counter {
		m := &counter{f: new(fix), perTick: 2.45, ticks: 1 << 40}
		m.sync(t, 0)
		m.run(time.Millisecond)
		m.sync(t, 0)
		require.Zero(t, m.f.span, "too early for a rate")
		for range 20 {
			m.run(4 * time.Millisecond)
			m.sync(t, 3)
		}
		require.NotZero(t, m.f.span)
		return m
	}
	t.Run("another rate", func(t *testing.T) {
		m := begin()
		m.perTick = 3
		m.run(4 * time.Millisecond)
		// Wrong by the difference of the rates once, and for one fix at most.
		m.sync(t, 1000)
		for range 20 {
			m.run(3 * time.Millisecond)
			m.sync(t, 3)
		}
		require.NotZero(t, m.f.span)
	})
	t.Run("back to zero", func(t *testing.T) {
		m := begin()
		m.ticks = 5
		require.Greater(t, m.ticks-m.f.ticks, m.f.span, "no instant is read from it")
		for range 20 {
			m.sync(t, 3)
			m.run(4 * time.Millisecond)
		}
		require.NotZero(t, m.f.span)
	})
	for _, ticks := range []uint64{1 << 50, 2_450_000_000, 24_500_000} {
		t.Run(fmt.Sprint("ahead by ", ticks), func(t *testing.T) {
			m := begin()
			m.ticks += ticks
			for range 20 {
				m.sync(t, 3)
				m.run(4 * time.Millisecond)
			}
			require.NotZero(t, m.f.span)
		})
	}
	t.Run("a long rest", func(t *testing.T) {
		m := begin()
		m.run(100 * time.Hour)
		m.sync(t, 0)
		require.NotZero(t, m.f.span, "it can be used at once")
	})
	t.Run("standing still", func(t *testing.T) {
		m := begin()
		m.perTick = 0
		for range 20 {
			m.run(4 * time.Millisecond)
			m.sync(t, 5000) // as long as a fix serves
		}
		require.Zero(t, m.f.span, "given up")
	})
}
