package period_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kolekt/commerce/internal/period"
)

func TestMonthsFollowTheAnchorThroughShortMonths(t *testing.T) {
	c := period.Cycle{Anchor: time.Date(2026, 1, 31, 9, 30, 0, 0, time.UTC), Unit: period.Month}
	want := []string{"2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"}
	for i, day := range want {
		require.Equal(t, day+" 09:30", c.Border(i).Format("2006-01-02 15:04"))
	}
	require.Equal(t, "2028-02-29", c.Border(25).Format(time.DateOnly), "leap year")
	require.Equal(t, "2025-12-31", c.Border(-1).Format(time.DateOnly))
}

func TestEveryInstantLiesInExactlyOnePeriod(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := period.Cycle{
			Anchor: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "anchor"), 0),
			Unit:   rapid.SampledFrom([]period.Unit{period.Day, period.Week, period.Month, period.Year}).Draw(t, "unit"),
			Count:  rapid.IntRange(0, 6).Draw(t, "count"),
		}
		at := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "at"), 0)
		p := c.At(at)
		require.True(t, p.Contains(at), "%v not in %v", at, p)
		require.True(t, p.From.Before(p.To))
		require.Equal(t, p, c.At(p.From), "a border opens its own period")
		require.Equal(t, p.To, c.At(p.To).From, "periods are gapless")
		require.Equal(t, p, c.At(p.To.Add(-1)))
		require.Equal(t, time.UTC, p.From.Location())
	})
}
