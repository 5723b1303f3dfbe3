package ratelimit_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/ratelimit"
)

func TestNewPlanRefusesWhatItCannotKeep(t *testing.T) {
	for _, c := range []struct {
		name    string
		windows []ratelimit.Window
		want    string
	}{
		{"no name", []ratelimit.Window{ratelimit.Rate("", 1, time.Second)}, "a name is"},
		{"header injection", []ratelimit.Window{ratelimit.Rate("a\"b", 1, time.Second)}, "a name is"},
		{"twice", []ratelimit.Window{ratelimit.PerMinute(1), ratelimit.PerMinute(2)}, `two windows "minute"`},
		{"negative", []ratelimit.Window{ratelimit.PerMinute(-1)}, "leave the window out for no limit"},
		{"too many windows", make([]ratelimit.Window, ratelimit.MaxWindows+1), "the most is"},
		{"finer than a microsecond", []ratelimit.Window{ratelimit.PerSecond(700_000)}, "use 500000 or 1000000"},
		{"huge burst", []ratelimit.Window{ratelimit.PerHour(1).WithBurst(1 << 31)}, "lower it"},
		{"burst of a period", []ratelimit.Window{ratelimit.PerDay(1).WithBurst(2)}, "only a bucket has a burst"},
		{"no unit", []ratelimit.Window{{Name: "x", Algorithm: ratelimit.Period, Limit: 1}}, "days, weeks, months or years"},
		{"century", []ratelimit.Window{{Name: "x", Algorithm: ratelimit.Period, Limit: 1, Unit: ratelimit.Year, Count: 100}}, "up to ten years"},
		{"per of a period", []ratelimit.Window{{Name: "x", Algorithm: ratelimit.Period, Limit: 1, Unit: ratelimit.Day, Per: 1}}, "Unit and Count, not Per"},
		{"unit of a bucket", []ratelimit.Window{{Name: "x", Algorithm: ratelimit.Bucket, Limit: 1, Per: time.Second, Unit: ratelimit.Day}}, "only a period"},
		{"no algorithm", []ratelimit.Window{{Name: "x", Limit: 1, Per: time.Second}}, "unknown algorithm"},
		{"no per", []ratelimit.Window{ratelimit.Rate("x", 1, 0)}, "is not in 1ms"},
		{"wide strict", []ratelimit.Window{ratelimit.Strict("x", 1<<21, time.Hour)}, "use a bucket"},
		{"failure", []ratelimit.Window{ratelimit.PerMinute(1).WithFailure(9)}, "OnFailure"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ratelimit.NewPlan("p", c.windows...)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestRatesAreNeverAboveWhatWasAsked(t *testing.T) {
	for _, w := range []ratelimit.Window{
		ratelimit.PerSecond(3), ratelimit.PerSecond(50_000), ratelimit.PerSecond(100_000), ratelimit.PerSecond(1_000_000),
		ratelimit.PerMinute(7), ratelimit.PerMinute(2000), ratelimit.PerHour(9973),
	} {
		p, err := ratelimit.NewPlan("p", w)
		require.NoError(t, err)
		interval := p.Rules()[0].Interval
		require.GreaterOrEqual(t, interval*w.Limit, w.Per.Microseconds())
		require.LessOrEqual(t, interval*w.Limit*100, w.Per.Microseconds()*101)
	}
}

func TestBoundsSayTheWorstCase(t *testing.T) {
	p, err := ratelimit.NewPlan("p", ratelimit.PerMinute(10).WithBurst(3), ratelimit.PerMonth(1000),
		ratelimit.Billing(5, ratelimit.Year), ratelimit.Strict("hard", 9, time.Second).WithShadow())
	require.NoError(t, err)
	require.Equal(t, `minute: at most 3 at once and 13 in any 1m0s, then one each 6s
month: at most 1000 in a calendar period of 1 month; at most 2000 around a border
year: at most 5 in a billing period of 1 year; at most 10 around a border
hard: at most 9 in any 1s (shadow: reported, not enforced)
`, p.Bounds())
	unlimited, err := ratelimit.NewPlan("enterprise")
	require.NoError(t, err)
	require.Equal(t, "unlimited\n", unlimited.Bounds())
}
