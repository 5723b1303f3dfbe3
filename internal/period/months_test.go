package period_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kolekt/commerce/internal/period"
)

// TestMonthsOverFortyYears compares every border of 480 months, for every day
// of a month as the anchor, with the calendar: the anchor's day, or the last
// one of a month that is shorter.
func TestMonthsOverFortyYears(t *testing.T) {
	for day := 1; day <= 31; day++ {
		anchor := time.Date(2024, 1, day, 23, 59, 59, 0, time.UTC)
		c := period.Cycle{Anchor: anchor, Unit: period.Month}
		for m := range 480 {
			first := time.Date(2024, time.Month(1+m), 1, 23, 59, 59, 0, time.UTC)
			last := first.AddDate(0, 1, -1).Day()
			want := first.AddDate(0, 0, min(day, last)-1)
			require.Equal(t, want, c.Border(m), "day %d, month %d", day, m)
			require.Equal(t, want, period.AddMonths(anchor, m))
			require.Equal(t, want, c.At(want).From)
		}
		years := period.Cycle{Anchor: time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), Unit: period.Year}
		for y := range 40 {
			want := time.Date(2024+y, 3, 0, 0, 0, 0, 0, time.UTC) // the last of February
			require.Equal(t, want, years.Border(y))
		}
	}
}
