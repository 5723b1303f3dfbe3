package ratelimit_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/ratelimit"
)

// A decision says what the store said, whatever that was, although it keeps
// most of it in one word.
func TestDecisionSaysWhatTheStoreSaid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		windows := []ratelimit.Window{
			ratelimit.PerMinute(10), ratelimit.PerHour(20), ratelimit.PerDay(30), ratelimit.PerMonth(40),
		}[:rapid.IntRange(1, ratelimit.MaxWindows).Draw(t, "windows")]
		store := &said{out: ratelimit.Outcome{Now: noon.UnixMicro()}}
		worst, longest, over := "", int64(0), make([]bool, len(windows))
		var shadow, denied bool
		for i := range windows {
			w := &windows[i]
			w.Shadow = rapid.Bool().Draw(t, "shadow")
			if over[i] = rapid.Bool().Draw(t, "over"); !over[i] {
				continue
			}
			wait := rapid.OneOf(rapid.Int64Range(1, 100), rapid.Int64Range(1, 1<<51), rapid.Just(int64(ratelimit.WaitForever))).Draw(t, "wait")
			store.out.SetOver(i, w.Shadow, wait)
			if w.Shadow {
				shadow = true
				continue
			}
			if denied = true; wait > longest && (longest < 1<<51-1) {
				worst, longest = w.Name, wait
			}
		}
		passed := rapid.Int64Range(0, 1<<40).Draw(t, "later")
		store.out.Later(passed)
		if denied {
			require.Positive(t, store.out.Refused())
		}
		plan, err := ratelimit.NewPlan("p", windows...)
		require.NoError(t, err)
		l, err := ratelimit.New(store, ratelimit.Config{Now: func() time.Time { return noon }})
		require.NoError(t, err)
		cost := rapid.OneOf(rapid.Int64Range(1, 100), rapid.Int64Range(1, math.MaxInt64)).Draw(t, "cost")
		d, err := l.Allow(context.Background(), "k", plan, cost)
		require.NoError(t, err)

		require.Equal(t, !denied, d.Allowed())
		require.Equal(t, shadow, d.WouldDeny())
		require.Equal(t, worst, d.Violated())
		require.Equal(t, ratelimit.FromStore, d.Source())
		require.Equal(t, noon.Add(time.Duration(passed)*time.Microsecond).UTC(), d.At())
		for i, o := range over {
			require.Equal(t, o, d.Window(i).Over)
		}
		switch {
		case !denied:
			require.Zero(t, d.RetryAfter())
			require.Equal(t, min(cost, 1<<51-1), d.Cost(), "no limit is near the bound")
		case longest >= 1<<51-1:
			require.Equal(t, ratelimit.Never, d.RetryAfter())
		default:
			require.Equal(t, time.Duration(max(longest-passed, 1))*time.Microsecond, d.RetryAfter())
			require.Zero(t, d.Cost())
		}
	})
}

// The zero Decision, which comes with an error, is no permission.
func TestZeroDecision(t *testing.T) {
	var d ratelimit.Decision
	require.False(t, d.Allowed())
	require.False(t, d.WouldDeny())
	require.Empty(t, d.Violated())
	require.Zero(t, d.RetryAfter())
	require.Zero(t, d.Cost())
	require.Zero(t, d.Len())
	require.Nil(t, d.Plan())
	require.Zero(t, d.At())
	_, ok := d.Nearest()
	require.False(t, ok)
	d.WriteHeaders(nil, 0)
}
